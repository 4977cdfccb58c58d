"""The door to packages that extras install."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str, distribution: str, extra: str) -> Any:
    """Import `module`, or say how its distribution is installed.

    Raises
    ------
    ImportError
        It is not installed; the message names the extra of purefn that installs it.

    Examples
    --------
    >>> import_extra("no_such_package.part", "no-such-package", "export")
    Traceback (most recent call last):
    ImportError: no-such-package is not installed: run `pip install "purefn[export]"`.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f'{distribution} is not installed: run `pip install "purefn[{extra}]"`.', name=package
        ) from error

"""The script in the README runs as it stands and learns."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_script_in_the_readme_runs(tmp_path):
    printed = subprocess.run(
        [sys.executable, ROOT / "tests" / "readme.py"], capture_output=True, text=True, check=True
    )
    script = tmp_path / "script.py"
    script.write_text(printed.stdout)
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (accuracy,) = re.findall(r"test accuracy ([\d.]+)%", result.stdout)
    assert float(accuracy) >= 93


def test_the_session_in_the_readme_is_as_printed():
    failed, attempted = doctest.testfile(
        str(ROOT / "README.md"), module_relative=False, optionflags=doctest.IGNORE_EXCEPTION_DETAIL
    )
    assert attempted
    assert not failed


def test_the_readme_names_only_what_exists():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([\w./]+)\)", text):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile

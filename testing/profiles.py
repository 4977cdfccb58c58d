"""How many examples hypothesis draws, by name: the profiles `dev`, `ci` and `thorough`.

hypothesis registers them when it is imported, through an entry point of this distribution:
`pytest --hypothesis-profile=thorough`, or `settings.load_profile("thorough")`.
"""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """Register the profiles, none of which has a deadline: the first call of a function compiles.

    - `dev` draws 25 examples, others each time;
    - `ci` draws hypothesis's usual 100, the same each time, and prints how to repeat a failure (it
      is what hypothesis itself chooses where it finds that it runs in CI);
    - `thorough` draws 1000.

    >>> from hypothesis import settings
    >>> register()
    >>> settings.get_profile("thorough").max_examples
    1000
    """
    from hypothesis import HealthCheck, settings

    default = settings.get_profile("default")
    slow = [HealthCheck.too_slow]
    settings.register_profile(
        "dev", default, max_examples=25, deadline=None, suppress_health_check=slow
    )
    settings.register_profile(
        "ci",
        default,
        max_examples=100,
        derandomize=True,
        database=None,
        print_blob=True,
        deadline=None,
        suppress_health_check=slow,
    )
    settings.register_profile(
        "thorough", default, max_examples=1000, deadline=None, suppress_health_check=slow
    )

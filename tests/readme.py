"""Print the Python script in README.md."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def script() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    return block


if __name__ == "__main__":
    print(script(), end="")

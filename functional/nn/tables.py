"""Writing tables for people: as text, and as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

Cells = Sequence[str]
#: The first columns are words, aligned at their beginning; the others are numbers.
_WORDS = 4
_NUMBER = ' style="text-align: right"'


def as_text(head: Cells, rows: Sequence[Cells]) -> str:
    """Return lines of columns; the last row stands for the whole.

    >>> print(as_text(["name", "kind", "in", "out", "params"], [["fc", "linear", "3", "4", "16"]]))
    name  kind    in  out  params
    ----  ------  --  ---  ------
    fc    linear  3   4        16
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < _WORDS else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_html(head: Cells, rows: Sequence[Cells]) -> str:
    """Return a table element; the last row, for the whole, is its foot.

    >>> as_html(["name"], [["a<b"], ["total"]])
    '<table><thead><tr><th>name</th></tr></thead><tbody><tr><td>a&lt;b</td></tr></tbody>\
<tfoot><tr><th>total</th></tr></tfoot></table>'
    """

    def line(cells: Cells, tag: str) -> str:
        aligned = [
            f"<{tag}>" if place < _WORDS else f'<{tag} style="text-align: right">'
            for place in range(len(cells))
        ]
        written = zip(aligned, cells, strict=True)
        return (
            f"<tr>{''.join(f'{begin}{html.escape(cell)}</{tag}>' for begin, cell in written)}</tr>"
        )

    body = "".join(line(row, "td") for row in rows[:-1])
    return (
        f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody>"
        f"<tfoot>{line(rows[-1], 'th')}</tfoot></table>"
    )


def metric(number: int) -> str:
    """Return a number with three digits and a metric prefix.

    >>> metric(8178368512), metric(999), metric(0)
    ('8.18 G', '999', '0')
    """
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P", "E"))


def size_in_bytes(number: int) -> str:
    """Return a number of bytes with three digits and a binary prefix.

    >>> size_in_bytes(102228128), size_in_bytes(12)
    ('97.5 MiB', '12 B')
    """
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))


def _scaled(number: int, base: int, units: Sequence[str]) -> str:
    power = 0
    while number >= base ** (power + 1) and power + 1 < len(units):
        power += 1
    if not power:
        return f"{number} {units[0]}".rstrip()
    value = number / base**power
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {units[power]}"

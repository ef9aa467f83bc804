"""Markdown that reads well as plain text too: escaped text and aligned tables."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# An ampersand is markup only where it opens an entity such as &lt; or &#60;
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$]|&(?=#?\w+;))")


def escape(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line: no markup, HTML, control or formatting characters."""
    visible = "".join(" " if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") else char for char in text)
    return _SPECIAL.sub(r"\\\1", " ".join(visible.split()))


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table whose first column is text and whose others are figures, set to the right.

    Args:
        heading: The column headings, already escaped.
        rows: The cells, already escaped.
    """
    widths = [max(3, *(len(row[column]) for row in (heading, *rows))) for column in range(len(heading))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [_line(heading, widths), f"| {' | '.join(rule)} |", *(_line(row, widths) for row in rows)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if column else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join([first, *others])} |"

"""Markdown that reads well as plain text too: escaped text and aligned tables."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# An ampersand is markup only where it opens an entity such as &lt; or &#60;
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$]|&(?=#?\w+;))")


def visible(text: str) -> str:
    """Returns text on one line, without control or formatting characters."""
    shown = "".join(" " if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") else char for char in text)
    return " ".join(shown.split())


def escape(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line: no markup, HTML, control or formatting characters."""
    return _SPECIAL.sub(r"\\\1", visible(text))


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """Returns the lines of a table of text columns, then figures, which are set to the right.

    Args:
        heading: The column headings, already escaped.
        rows: The cells, already escaped.
        texts: How many columns from the left are text.
    """
    widths = [max(3, *(len(row[column]) for row in (heading, *rows))) for column in range(len(heading))]
    rule = ["-" * width if column < texts else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return [_line(row, widths, texts) for row in (heading, rule, *rows)]


def _line(cells: Sequence[str], widths: Sequence[int], texts: int) -> str:
    columns = enumerate(zip(cells, widths, strict=True))
    padded = [cell.ljust(width) if column < texts else cell.rjust(width) for column, (cell, width) in columns]
    return f"| {' | '.join(padded)} |"

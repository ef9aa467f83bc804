"""Markdown tables that read well as plain text too."""

from __future__ import annotations

from collections.abc import Sequence


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """Returns the lines of a table of text columns, then figures, which are set to the right.

    Args:
        heading: The column headings, already escaped (`dust2gold.core.text.escape`).
        rows: The cells, already escaped.
        texts: How many columns from the left are text.
    """
    widths = [max(3, *(len(row[column]) for row in (heading, *rows))) for column in range(len(heading))]
    rule = ["-" * width if column < texts else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = []
    for cells in (heading, rule, *rows):
        columns = enumerate(zip(cells, widths, strict=True))
        padded = [cell.ljust(width) if column < texts else cell.rjust(width) for column, (cell, width) in columns]
        lines.append(f"| {' | '.join(padded)} |")
    return lines

"""Prints the accuracy tables of a report on the terminal, and where the rest is. Imports nothing heavy."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

RESULTS, MARKDOWN, ANALYSES = "results.json", "report.md", "analyses.json"
"""The files of a report in its run directory."""

END_OF_TABLES = "<!-- up to here on the terminal -->"
"""A line of report.md, invisible where Markdown is rendered."""


def without_figures(lines: Iterable[str]) -> list[str]:
    """The lines for a terminal."""
    text = "\n".join(line for line in lines if not line.startswith("!["))
    return text.replace("\n\n\n", "\n\n").split("\n")


def show(run: Path) -> None:
    """Prints the accuracy tables of a run's report.md, unless it lacks our mark (was edited, say), and all paths."""
    lines = (run / MARKDOWN).read_text(encoding="utf-8").splitlines()
    if END_OF_TABLES in lines:
        tables = lines[: lines.index(END_OF_TABLES)]
        print("\n".join(without_figures(line for line in tables if not line.startswith("# "))).strip("\n") + "\n")
    print(f"results: {run / RESULTS}\nreport:  {run / MARKDOWN}\nnumbers: {run / ANALYSES}")
    print(f"logs:    {shlex.join(['tensorboard', '--logdir', str(run)])}", flush=True)

"""Prints the verdict and the tables of accuracy on the terminal, and where the rest is. Imports nothing heavy."""

from __future__ import annotations

import shlex
from pathlib import Path

RESULTS, MARKDOWN, ANALYSES = "results.json", "report.md", "analyses.json"
PAGE = "report/index.html"
"""The files of a report in its run directory."""

END_OF_TABLES = "<!-- up to here on the terminal -->"
"""A line of report.md, invisible where Markdown is rendered."""

LIMITS = "<!-- on the terminal last -->"
"""A line of the same kind, before the paragraph that says what a run can and cannot tell."""


def show(run: Path) -> None:
    """Prints the start of a run's report.md, unless it lacks our mark (was edited, say), all paths, and the limits."""
    last = ""
    lines = (run / MARKDOWN).read_text(encoding="utf-8").splitlines()
    if END_OF_TABLES in lines:
        shown = [line for line in lines[: lines.index(END_OF_TABLES)] if not line.startswith(("# ", "!["))]
        text = "\n".join(shown).replace("\n\n\n", "\n\n").strip("\n")
        above, _, rest = text.partition(f"{LIMITS}\n")
        last, _, below = rest.partition("\n\n")
        print(f"{above}{below}\n")
    print(f"results: {run / RESULTS}\nreport:  {run / MARKDOWN}\nnumbers: {run / ANALYSES}\npage:    {run / PAGE}")
    print(f"logs:    {shlex.join(['tensorboard', '--logdir', str(run)])}", flush=True)
    if last:
        print(f"\n{last}", flush=True)

"""The verb `report`: the tables, figures and numbers of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from dust2gold.report.shown import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `report`."""
    parser.description = (
        "Tabulate every predictions.jsonl of a run and analyse the samples it voted with: report.md with its figures, "
        "results.json, analyses.json, and the tables of accuracy on the screen. For a directory of several seeds: mean "
        "and spread."
    )
    run = "the run directory, as runs/demo, or one that holds seed-0, seed-1, ..."
    parser.add_argument("run", metavar="RUN_DIR", help=run)


def main(args: argparse.Namespace) -> int:
    """Writes the report of a run directory and prints its tables."""
    from dust2gold.report.write import report  # loads torch and matplotlib, which `--help` need not wait for

    report(Path(args.run))
    show(Path(args.run))
    return 0

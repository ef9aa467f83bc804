"""The command `export-data`: D_pos and D_neg as a preference data set for other trainers."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

from datamodules.components.records.records import read_rationales
from dust2gold.commands.arguments import positive
from dust2gold.core.errors import InputError
from dust2gold.core.files import keep_inputs
from dust2gold.interchange.preferences import LAYOUTS, LAYOUTS_HELP, write_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `export-data`."""
    parser.description = "Write D_pos and D_neg as a preference or unpaired-preference data set, e.g. for TRL."
    files = "files of graded rationales, both verdicts: data/positive.jsonl data/negative.jsonl, or samples.jsonl"
    parser.add_argument("--rationales", type=Path, nargs="+", required=True, metavar="FILE", help=files)
    parser.add_argument("--layout", choices=list(LAYOUTS), default="preference", help=LAYOUTS_HELP)
    parser.add_argument("--most", type=positive, metavar="N", help="most pairs (or rows of a verdict) of one question")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="ends in .jsonl or .parquet")


def main(args: argparse.Namespace) -> int:
    """Runs `export-data` and says how many rows it wrote."""
    keep_inputs(args.rationales, [args.output])
    rationales = chain.from_iterable(read_rationales(file) for file in args.rationales)
    rows = list(LAYOUTS[args.layout].make(rationales, args.most))
    if not rows:
        problem = "no rows to write: no question has both a right and a wrong rationale"
        remedy = "give files of both verdicts, as data/positive.jsonl data/negative.jsonl"
        raise InputError(problem, field="--rationales", remedy=remedy)
    count = write_rows(args.output, rows)
    print(f"{count:,} rows ({LAYOUTS[args.layout].about}) in {args.output}")
    return 0

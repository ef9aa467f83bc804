"""The verb `prepare`: grades a data set in its publisher's format; see dust2gold/prepare/prepare.py."""

from __future__ import annotations

import argparse
import contextlib
import math
from pathlib import Path

from datamodules.components.grading.semantic import GRADERS
from dust2gold.prepare.hub import hub_table
from dust2gold.prepare.prepare import prepare
from dust2gold.prepare.readers import FORMATS
from dust2gold.prepare.summary import print_summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `prepare` to a parser; `main` takes what it parses."""
    parser.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="data set as published: .jsonl, .jsonl.gz or .jsonl.xz; or hub:NAME, as hub:openai/gsm8k: fetched with "
        "`datasets` and kept beside the results",
    )
    parser.add_argument(
        "--subset", type=_names, default=(), metavar="NAME[,NAME]", help="of a hub's data set, e.g. main; all in turn"
    )
    parser.add_argument("--split", help="of a hub's data set (default: test)")
    parser.add_argument("--revision", help="of a hub's data set: branch, tag or commit (default: the newest)")
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        required=True,
        help="its format; tdg: the paper's teacher samples; records: our own files, graded anew",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory for the results")
    parser.add_argument(
        "--grader",
        choices=GRADERS,
        default="string",
        help="string: the paper's labels (default); semantic: math-verify for what the string comparison rejects; "
        "both: keep only what the two agree on",
    )
    parser.add_argument(
        "--source", metavar="NAME", help="name of the data set in ids and tables (default: the format's)"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="read only the first N questions")
    parser.add_argument(
        "--samples", type=_positive, metavar="N", help="take only the first N rationales of each question"
    )
    parser.add_argument("--workers", type=_positive, metavar="N", help="math-verify processes (default: one a core)")
    parser.add_argument(
        "--time-limit",
        type=_seconds,
        default=5.0,
        metavar="S",
        help="seconds of processor time for one answer; past it the rationale is ungradable (default: %(default)s)",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return number


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")


def main(args: argparse.Namespace) -> int:
    """Runs `prepare` as the command line asks and prints the summary; returns the exit code."""
    table = hub_table(args.input, args.subset, args.split, args.revision)
    summary = prepare(
        Path(args.input) if table is None else table.fetch(args.output),
        args.format,
        args.output,
        args.grader,
        source=args.source,
        limit=args.limit,
        workers=args.workers,
        time_limit=args.time_limit,
        max_samples=args.samples,
    )
    print_summary(summary)
    return 0

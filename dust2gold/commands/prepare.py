"""The verb `prepare`: grades a data set by its columns; see dust2gold/prepare/prepare.py."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from pathlib import Path
from typing import get_args

from datamodules.components.grading.semantic import GRADERS
from dust2gold.commands.arguments import names, positive
from dust2gold.prepare.formats import FORMATS, ROLES, format_named
from dust2gold.prepare.hub import input_file
from dust2gold.prepare.prepare import prepare
from dust2gold.prepare.summary import Verdicts, print_summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `prepare`."""
    add = parser.add_argument
    of_hub = "of a hub's data set"
    add(
        "--input",
        required=True,
        metavar="FILE",
        help="data set: .jsonl, .json or .csv (also .gz, .xz, .zst), .parquet, a folder of save_to_disk; or hub:NAME, "
        "as hub:openai/gsm8k: fetched with `datasets` and kept beside the results",
    )
    add("--subset", type=names, default=(), metavar="NAME[,NAME]", help=f"{of_hub}, e.g. main; all in turn")
    add("--split", help=f"{of_hub} (default: test)")
    add("--revision", help=f"{of_hub}: branch, tag or commit (default: the newest)")
    formats = "its layout, see below; tdg: the paper's teacher samples; records: our own files, graded anew"
    add("--format", choices=list(FORMATS), help=formats)
    add(
        "--columns",
        nargs="+",
        type=_column,
        default=(),
        metavar="ROLE=COLUMN",
        help="which column plays which role, instead of or over those of --format; a.b for what a struct holds",
    )
    add(
        "--verdicts",
        choices=get_args(Verdicts),
        help="which count where a column gives verdicts: those, ours, or both, and then none where they differ "
        "(default: both)",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _layouts()
    add("--output", type=Path, required=True, metavar="DIR", help="directory for the results")
    add(
        "--grader",
        choices=GRADERS,
        default="string",
        help="string: the paper's labels (default); semantic: math-verify for what the string comparison rejects; "
        "both: keep only what the two agree on",
    )
    add(
        "--answer-pattern",
        type=_pattern,
        metavar="REGEX",
        help="how rationales state their answers: its first group, or all of it; looked for before a box, #### and, "
        'where gold answers are plain numbers, "the answer is"',
    )
    add("--source", metavar="NAME", help="name of the data set in ids and tables (default: the format's)")
    add("--limit", type=positive, metavar="N", help="read only the first N questions")
    add("--samples", type=positive, metavar="N", help="take only the first N rationales of each question")
    add("--workers", type=positive, metavar="N", help="math-verify processes (default: one a core)")
    limit = "seconds of processor time for one answer; past it the rationale is ungradable (default: %(default)s)"
    add("--time-limit", type=_seconds, default=5.0, metavar="S", help=limit)


def _layouts() -> str:
    """What the roles mean and which columns the formats have."""
    roles = [f"  {role:<9} {about}".rstrip() for role, about in ROLES.items()]
    lines = [
        f"  {name:<18}" + " ".join(f"{role}={column}" for role, column in format.columns.items())
        for name, format in FORMATS.items()
        if format.columns
    ]
    said = "of columns with | between them the first that there is; | at the end: or none"
    return "\n".join(["roles:", *roles, "", f"formats ({said}):", *lines])


def _column(text: str) -> tuple[str, str]:
    role, sign, column = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"'{text}' is not ROLE=COLUMN")
    return role, column


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no regular expression ({error})") from error


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")


def main(args: argparse.Namespace) -> int:
    """Runs `prepare` as the command line asks and prints the summary; returns the exit code."""
    format = format_named(args.format, dict(args.columns))
    summary = prepare(
        input_file(args.input, args.output, args.subset, args.split, args.revision),
        format,
        args.output,
        args.grader,
        source=args.source,
        limit=args.limit,
        workers=args.workers,
        time_limit=args.time_limit,
        max_samples=args.samples,
        answer_pattern=args.answer_pattern,
        verdicts=args.verdicts,
    )
    print_summary(summary)
    return 0

"""`export-data` and `import-data`: D_pos and D_neg as other trainers' data sets, and back."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

from datamodules.components.records.records import Rationale, read_rationales, write_questions, write_rationales
from dust2gold.core.errors import InputError
from dust2gold.interchange.preferences import LAYOUTS, imported, read_rows, write_rows

_LAYOUTS_HELP = "; ".join(f"{name}: {layout.about}" for name, layout in LAYOUTS.items())


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `export-data`."""
    parser.description = "Write D_pos and D_neg as a preference or unpaired-preference data set, e.g. for TRL."
    parser.add_argument(
        "--rationales",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="files of graded rationales, both verdicts: data/positive.jsonl data/negative.jsonl, or samples.jsonl",
    )
    parser.add_argument("--layout", choices=list(LAYOUTS), default="preference", help=_LAYOUTS_HELP)
    parser.add_argument("--most", type=int, metavar="N", help="most pairs (or rows of a verdict) of one question")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="ends in .jsonl or .parquet")


def export_main(args: argparse.Namespace) -> int:
    """Runs `export-data`.

    Raises:
        InputError: If a file cannot be read or written, or no question has what the layout needs.
    """
    if args.most is not None and args.most < 1:
        raise InputError(f"must be at least 1, found {args.most}", field="--most")
    rationales = chain.from_iterable(read_rationales(file) for file in args.rationales)
    rows = list(LAYOUTS[args.layout].make(rationales, args.most))
    if not rows:
        raise InputError(
            "no rows to write: no question has both a right and a wrong rationale",
            field="--rationales",
            remedy="give files of both verdicts, as data/positive.jsonl data/negative.jsonl",
        )
    count = write_rows(args.output, rows)
    print(f"{count:,} rows ({LAYOUTS[args.layout].about}) in {args.output}")
    return 0


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `import-data`."""
    parser.description = "Turn a preference or unpaired-preference data set into questions, D_pos and D_neg."
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help=".jsonl(.gz|.xz) or .parquet")
    parser.add_argument("--layout", choices=list(LAYOUTS), default="preference", help=_LAYOUTS_HELP)
    parser.add_argument("--source", default="imported", metavar="NAME", help="name for the data (default %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory for the three files")


def import_main(args: argparse.Namespace) -> int:
    """Runs `import-data`.

    Raises:
        InputError: If the file is missing, damaged, empty, or not in the layout.
    """
    entries = imported(read_rows(args.input), args.layout, args.source, args.input)
    if not entries:
        raise InputError("holds no row", file=args.input, remedy="check where it comes from")
    rationales: list[Rationale] = [rationale for _, written in entries for rationale in written]
    write_questions(args.output / "questions.jsonl", (question for question, _ in entries))
    counts = {
        verdict: write_rationales(args.output / f"{verdict}.jsonl", (r for r in rationales if r.verdict == verdict))
        for verdict in ("positive", "negative")
    }
    print(
        f"{len(entries):,} questions, {counts['positive']:,} right and {counts['negative']:,} wrong rationales, "
        f"by the file's own labels, in {args.output}"
    )
    return 0

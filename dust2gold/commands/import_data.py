"""The command `import-data`: another trainer's preference data set as questions, D_pos and D_neg."""

from __future__ import annotations

import argparse
from pathlib import Path

from datamodules.components.records.records import Rationale, write_questions, write_rationales
from dust2gold.core.errors import InputError
from dust2gold.core.files import keep_inputs
from dust2gold.interchange.preferences import LAYOUTS, LAYOUTS_HELP, imported
from dust2gold.prepare.rows import read_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `import-data`."""
    parser.description = "Turn a preference or unpaired-preference data set into questions, D_pos and D_neg."
    parser.add_argument(
        "--input", type=Path, required=True, metavar="FILE", help="a file or folder as `prepare` reads it"
    )
    parser.add_argument("--layout", choices=list(LAYOUTS), default="preference", help=LAYOUTS_HELP)
    parser.add_argument("--source", default="imported", metavar="NAME", help="name for the data (default %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory for the three files")


def main(args: argparse.Namespace) -> int:
    """Runs `import-data` and says how much it wrote."""
    keep_inputs([args.input], (args.output / f"{name}.jsonl" for name in ("questions", "positive", "negative")))
    entries = imported(read_rows(args.input), args.layout, args.source, args.input)
    if not entries:
        raise InputError("holds no row", file=args.input, remedy="check where it comes from")
    rationales: list[Rationale] = [rationale for entry in entries for rationale in entry.rationales]
    write_questions(args.output / "questions.jsonl", (entry.question for entry in entries))
    counts = {
        verdict: write_rationales(args.output / f"{verdict}.jsonl", (r for r in rationales if r.verdict == verdict))
        for verdict in ("positive", "negative")
    }
    print(
        f"{len(entries):,} questions, {counts['positive']:,} right and {counts['negative']:,} wrong rationales, "
        f"by the file's own labels, in {args.output}"
    )
    return 0

"""The command `placebo`: D_pos and D_neg with shuffled verdicts, a control for what the verdicts say."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.components.records.records import Rationale, Verdict, read_rationales, write_rationales
from dust2gold.core.files import keep_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `placebo`."""
    parser.description = (
        "Write right and wrong rationales with their verdicts shuffled, as many of each as before. An M_neg trained on "
        "such a negative.jsonl has read as much as the real one and knows nothing of what is wrong."
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="with positive.jsonl and negative.jsonl, of `prepare`")
    add("--seed", type=int, default=0, metavar="N", help="of the shuffle (default: 0)")
    add("--output", type=Path, required=True, metavar="DIR", help="directory for the two files")


def main(args: argparse.Namespace) -> int:
    """Writes both files and says how many wrong rationales pass for right ones."""
    names: tuple[Verdict, Verdict] = ("positive", "negative")
    inputs, outputs = ([directory / f"{name}.jsonl" for name in names] for directory in (args.data, args.output))
    keep_inputs(inputs, outputs)
    rationales = [rationale for file in inputs for rationale in read_rationales(file)]
    found = shuffled([rationale.verdict for rationale in rationales], args.seed)
    changed = sum(new != old.verdict for new, old in zip(found, rationales, strict=True))

    def given(verdict: Verdict) -> Iterator[Rationale]:
        return (replace(each, verdict=new) for each, new in zip(rationales, found, strict=True) if new == verdict)

    for name, file in zip(names, outputs, strict=True):
        write_rationales(file, given(name))
    print(f"{len(found):,} rationales, {changed:,} of them with the other verdict, in {args.output}")
    return 0


def shuffled(verdicts: Sequence[Verdict], seed: int) -> list[Verdict]:
    """The same verdicts in another order, that of the seed."""
    return random.Random(f"placebo/{seed}").sample(verdicts, len(verdicts))

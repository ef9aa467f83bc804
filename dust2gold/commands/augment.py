"""The command `augment`: D_pos with the student's own right samples (self-augmentation; docs/method.md, stage 2)."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from datamodules.components.records.records import Rationale, read_rationales, write_rationales
from dust2gold.core.errors import InputError
from dust2gold.core.files import keep_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `augment`."""
    parser.add_argument("--positive", type=Path, required=True, metavar="FILE", help="D_pos, e.g. data/positive.jsonl")
    parser.add_argument("--samples", type=Path, required=True, metavar="FILE", help="the student's samples, graded")
    parser.add_argument("--uneven", action="store_true", help="take samples of which some questions have fewer")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="file to write")


def main(args: argparse.Namespace) -> int:
    """Writes the joined file and says what came from where."""
    keep_inputs([args.positive, args.samples], [args.output])
    teacher = sum(1 for _ in read_rationales(args.positive))
    samples = read_rationales(args.samples) if args.uneven else _complete(args.samples)
    joined = write_rationales(args.output, augmented(read_rationales(args.positive), samples))
    print(f"{teacher:,} rationales of D_pos and {joined - teacher:,} of the student's own, in {args.output}")
    return 0


def _complete(file: Path) -> Iterator[Rationale]:
    """The samples; at their end an InputError if a question has fewer than others, so that no file is written."""
    counts: Counter[str] = Counter()
    for sample in read_rationales(file):
        counts[sample.question_id] += 1
        yield sample
    most = max(counts.values(), default=0)
    if few := [question for question, count in counts.items() if count < most]:
        problem = f"{len(few):,} of {len(counts):,} questions have fewer than {most} samples, e.g. '{few[0]}'"
        remedy = "let predict finish: the same command goes on; or give --uneven"
        raise InputError(problem, file=file, remedy=remedy)


def augmented(positive: Iterable[Rationale], samples: Iterable[Rationale]) -> Iterator[Rationale]:
    """D_pos, then the right samples that repeat no rationale of the same question, in their order."""
    seen: set[tuple[str, str]] = set()
    for rationale in positive:
        seen.add((rationale.question_id, rationale.rationale))
        yield rationale
    for sample in samples:
        key = (sample.question_id, sample.rationale)
        if sample.verdict == "positive" and key not in seen:
            seen.add(key)
            yield sample

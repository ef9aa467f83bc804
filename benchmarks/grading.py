"""The string comparison, math-verify one by one, and the semantic grader.

    python -m benchmarks.grading [--samples gpt-3.5-turbo-math-train.jsonl.xz]

The samples are a teacher's (`--samples FILE`, format tdg: the paper's teacher data) or generated answers. One by one
means what a user of math-verify would write: parse the gold answer and the sample's answer, verify, next; on one core,
with math-verify's own time limits. It is measured on a random part of the samples, and the others are assumed to take
as long; the semantic grader grades all, workers' start included (in a --quick run of few samples most of its time).
Verdicts are compared where both gave one.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.harness import Target, arguments, begin, finish, show
from datamodules.components.grading.extraction import extract_answer
from datamodules.components.grading.grader import Grade, StringGrader
from datamodules.components.grading.semantic import SemanticGrader
from dust2gold.prepare.readers import read

Pair = tuple[str, str]
"""A rationale and the gold answer."""


def main(options: argparse.Namespace) -> None:
    """Measures and prints."""
    begin(options)
    if options.samples:
        pairs = [
            (sample.rationale, sample.gold) for entry in read(options.samples, "tdg") for sample in entry.rationales
        ]
    else:
        pairs = generated_samples(20_000, options.seed)
    print(f"{len(pairs):,} samples from {options.samples or 'a generator'}", flush=True)
    chosen = random.Random(options.seed)
    if options.quick:
        pairs = chosen.sample(pairs, min(len(pairs), 3_000))
    part = chosen.sample(range(len(pairs)), min(len(pairs), options.part or (400 if options.quick else 4_000)))
    seconds = {}
    strings, seconds["string"] = timed(lambda: StringGrader().grade_many(pairs))
    graded, seconds["semantic, ours"] = timed(lambda: grade_semantically(pairs))
    equal, one_by_one = timed(lambda: [verify_alone(*pairs[index]) for index in part])
    one_by_one *= len(pairs) / len(part)
    seconds["semantic, one by one"] = one_by_one
    rows = [[name, f"{value:.1f}", f"{value / one_by_one:.4f}"] for name, value in seconds.items()]
    show(["grader", "seconds", "x one by one"], rows)
    differing = sum(
        graded[index][0] != "ungradable"
        and (graded[index][0] == "positive") != (same or strings[index][0] == "positive")
        for index, same in zip(part, equal, strict=True)
    )
    semantic = seconds["semantic, ours"]
    targets = [
        Target("one by one / semantic, time", one_by_one / semantic, 4, at_least=True),
        Target("semantic, minutes per 60,000 samples", semantic / 60 * 60_000 / len(pairs), 10),
        Target("differing verdicts", differing, 0),
    ]
    finish(targets, samples=len(pairs), one_by_one_measured_on=len(part), seconds=seconds)


def timed(run: Callable[[], list[Grade]] | Callable[[], list[bool]]) -> tuple[list, float]:  # type: ignore[type-arg]
    """The result and the seconds on the clock."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def generated_samples(count: int, seed: int) -> list[Pair]:
    """Answers of a few forms, half of them right, some of these in another form than the gold answer."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        a, b, c = (draw.randint(2, 99) for _ in range(3))
        forms = [
            (f"{a}", f"{a}.0", f"{b}"),
            (f"\\frac{{{a}}}{{{b}}}", f"{a}/{b}", f"\\frac{{{b}}}{{{c}}}"),
            (f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{a * a * b}}}", f"{b}\\sqrt{{{c}}}"),
            (f"({a},{b})", f"\\left( {a}, {b} \\right)", f"({b},{c})"),
            (f"x^2+{a}x", f"x(x+{a})", f"x^2+{b}x"),
            (f"{a},{b}", f"{b},{a}", f"{b},{c}"),
        ]
        gold, same, other = draw.choice(forms)
        pairs.append((f"\\boxed{{{draw.choice([gold, same, other, other])}}}", gold))
    return pairs


def grade_semantically(pairs: list[Pair]) -> list[Grade]:
    """By the grader that `prepare` uses, from the start of its workers to their end."""
    with closing(SemanticGrader()) as grader:
        return grader.grade_many(pairs)


def verify_alone(rationale: str, gold: str) -> bool:
    """By math-verify alone, as its documentation has it."""
    from math_verify import parse, verify  # type: ignore[import-untyped]

    answer = extract_answer(rationale)
    return bool(answer) and bool(verify(parse(f"${gold}$"), parse(f"${answer}$")))


if __name__ == "__main__":
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--samples", type=Path, help="teacher samples in the format tdg (default: generated answers)")
    parser.add_argument("--part", type=int, help="samples to verify one by one (default: 4,000; quick: 400)")
    main(parser.parse_args())

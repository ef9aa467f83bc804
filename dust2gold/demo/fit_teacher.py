"""Fits the embedded teacher to a real one, and compares the two.

    python -m dust2gold.demo.fit_teacher gpt-3.5-turbo-math-train.jsonl.xz

How many of a question's samples are right is taken as beta-binomial: each question has a rate of its own, drawn from
Beta(a, b) of its level. a and b are fitted by maximum likelihood; they and the numbers of questions are what `LEVELS`
in teacher.py holds. Samples are graded by the string comparison of boxed answers. Beside the file's figures stand those
of both kinds of embedded teacher, on as many generated questions.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from datamodules.components.grading.answers import normalise
from datamodules.components.grading.extraction import gold_answer
from datamodules.components.grading.grader import StringGrader
from dust2gold.core.jsonl import read_json_lines
from dust2gold.demo.generate import Recipe, generate
from dust2gold.demo.teacher import LEVELS, TEACHERS


class Graded(NamedTuple):
    """A question's samples."""

    level: str
    samples: int
    right: int
    pairs: int  # of wrong samples that state an answer
    same: int  # of these pairs, those that state the same one


def grade(file: Path) -> list[Graded]:
    """Grades a file in the format of the paper's teacher data."""
    grader, graded = StringGrader(), []
    for _, row in read_json_lines(file):
        gold = gold_answer(row["answer"])
        grades = [grader.grade(sample, gold) for sample in row["generated_answer"]]
        wrong = [normalise(answer) for verdict, answer in grades if verdict == "negative" and answer]
        pairs = list(combinations(wrong, 2))
        right = sum(verdict == "positive" for verdict, _ in grades)
        graded.append(Graded(row["level"], len(grades), right, len(pairs), sum(a == b for a, b in pairs)))
    return graded


def fit(questions: Sequence[Graded]) -> tuple[float, float]:
    """Beta(a, b) of the questions' rates of right samples, by maximum likelihood."""
    n, k = torch.tensor([(each.samples, each.right) for each in questions], dtype=torch.float64).T
    logs = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # of a and b, which are positive
    optimizer = torch.optim.LBFGS([logs], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        a, b = logs.exp()
        value = (_log_beta(a, b) - _log_beta(k + a, n - k + b)).mean()
        value.backward()
        return value

    optimizer.step(loss)
    a, b = logs.exp().tolist()
    return a, b


def _log_beta(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def statistics(questions: Sequence[Graded]) -> dict[str, float]:
    """Shares by which teachers are compared."""
    pairs = sum(each.pairs for each in questions)
    shares = {
        "right samples": _right(questions),
        "questions without a right sample": sum(each.right == 0 for each in questions) / len(questions),
        "questions without a wrong sample": sum(each.right == each.samples for each in questions) / len(questions),
        "pairs of wrong samples that agree": sum(each.same for each in questions) / max(1, pairs),
    }
    return shares | {f"right samples, level {level}": _right(own) for level, own in by_level(questions).items()}


def by_level(questions: Sequence[Graded]) -> dict[int, list[Graded]]:
    """The questions of each level that has any."""
    levels = {level: [each for each in questions if each.level == f"Level {level}"] for level in LEVELS}
    return {level: own for level, own in levels.items() if own}


def _right(questions: Sequence[Graded]) -> float:
    return sum(each.right for each in questions) / sum(each.samples for each in questions)


def sample_teacher(kind: str, questions: int, seed: int = 0) -> list[Graded]:
    """The embedded teacher's samples to generated questions, graded."""
    with TemporaryDirectory() as directory:
        generate(Path(directory), Recipe(teacher=kind, train_questions=questions, test_questions=1, seed=seed))
        return grade(Path(directory) / "train.jsonl")


def main() -> None:
    """Command line of `python -m dust2gold.demo.fit_teacher`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a teacher's samples, in the format of the paper's teacher data")
    parser.add_argument("--seed", type=int, default=0, help="of the generated questions, default 0")
    arguments = parser.parse_args()
    real = grade(arguments.file)
    print(f"{'level':<6}{'questions':>10}{'share':>8}{'a':>8}{'b':>8}")
    for level, own in by_level(real).items():
        a, b = fit(own)
        print(f"{level:<6}{len(own):>10,}{len(own) / len(real):>8.1%}{a:>8.3f}{b:>8.3f}")
    ours = {kind: statistics(sample_teacher(kind, len(real), arguments.seed)) for kind in TEACHERS}
    print(f"\n{'':<36}{'file':>11}" + "".join(f"{kind:>11}" for kind in ours))
    for name, share in statistics(real).items():
        print(f"{name:<36}{share:>11.1%}" + "".join(f"{column.get(name, math.nan):>11.1%}" for column in ours.values()))


if __name__ == "__main__":
    main()

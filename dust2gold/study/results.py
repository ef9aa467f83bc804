"""What the records of one cell say: accuracies over seeds, and the contrasts of the study."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dust2gold.core.errors import InputError
from dust2gold.report.analyses.methods import method_order
from dust2gold.report.analyses.seeds import Spread, spread
from dust2gold.study.records import ArmRecord
from dust2gold.study.statistics import Array, Difference, holm, paired_difference


class Answers(NamedTuple):
    """A method's answers with one seed."""

    questions: str  # a hash of the questions' ids
    levels: str  # a character for each question
    shares: Array  # [questions], how right each answer is


@dataclass(frozen=True)
class MethodRow:
    """A method's accuracy over the seeds, and its mean over the seeds by level."""

    method: str
    accuracy: Spread
    levels: Mapping[str, float]


@dataclass(frozen=True)
class Contrast:
    """A method minus another over the seeds that have both; None where no seed has. Only primary ones are corrected."""

    method: str
    against: str
    primary: bool
    seeds: tuple[int, ...]
    difference: Difference | None
    corrected: float | None


def answers_of(records: Sequence[ArmRecord]) -> dict[str, dict[int, Answers]]:
    """The answers of a cell's records by method and seed, methods in the report's order.

    Raises:
        InputError: If two arms of a seed have a method of the same name.
    """
    found: dict[str, dict[int, Answers]] = defaultdict(dict)
    for record in records:
        for method in record.correct:
            if record.seed in found[method]:
                problem = f"'{method}' answers in two arms of cell '{record.cell}', seed {record.seed}"
                raise InputError(problem, field="arms", remedy=f"leave one out, as {record.stage}")
            shares = np.array(record.shares(method))
            found[method][record.seed] = Answers(record.questions, record.levels, shares)
    return {method: dict(sorted(found[method].items())) for method in sorted(found, key=method_order)}


def method_rows(answers: Mapping[str, Mapping[int, Answers]]) -> list[MethodRow]:
    """A row for each method."""
    rows = []
    for method, by_seed in answers.items():
        levels: dict[str, list[float]] = defaultdict(list)
        for own in by_seed.values():
            of_each = np.array(list(own.levels))
            for level in sorted(set(own.levels) - {"-"}):
                levels[level].append(float(own.shares[of_each == level].mean()))
        means = {level: float(np.mean(values)) for level, values in sorted(levels.items())}
        rows.append(MethodRow(method, spread([float(own.shares.mean()) for own in by_seed.values()]), means))
    return rows


def contrasts(
    answers: Mapping[str, Mapping[int, Answers]],
    primary: Sequence[tuple[str, str]],
    secondary: Sequence[tuple[str, str]],
) -> list[Contrast]:
    """Compares pairs of methods; Holm's correction counts every primary pair, those that have no seed yet too."""
    found = []
    for number, (method, against) in enumerate((*primary, *secondary)):
        ours, theirs = answers.get(method, {}), answers.get(against, {})
        seeds = tuple(seed for seed in ours if seed in theirs)
        if changed := [seed for seed in seeds if ours[seed].questions != theirs[seed].questions]:
            problem = f"{method} and {against} answered different questions with seed {changed[0]}"
            raise InputError(problem, field="contrasts", remedy="compare arms that answer the same test set")
        pairs = [ours[seed].shares - theirs[seed].shares for seed in seeds]
        difference = paired_difference(pairs) if pairs else None
        found.append(Contrast(method, against, number < len(primary), seeds, difference, None))
    first, rest = found[: len(primary)], found[len(primary) :]
    corrected = holm([1.0 if each.difference is None else each.difference.p for each in first])
    tests = zip(first, corrected, strict=True)
    return [*(each if each.difference is None else replace(each, corrected=p) for each, p in tests), *rest]

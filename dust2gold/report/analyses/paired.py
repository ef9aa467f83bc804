"""A method against another on the questions that both answered: mean difference, its interval, a sign-flip test.

If both methods were equally good, each question's difference might as well have the other sign. The p-value is the
share of all ways to flip these signs that give a mean difference at least as far from 0: a two-sided, exact test. Where
answers are right or wrong, differences are ±1 and it is McNemar's exact test (1947). A tie of votes makes `correct` a
share such as 1/8; mean, interval and test take it for what it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from dust2gold.report.analyses.accuracy import Z95
from dust2gold.report.analyses.predictions import Prediction

_STEPS = math.lcm(*range(1, 9))
"""A difference counts in whole steps of 1/840. Ties of up to eight answers are such; others are rounded, which leaves
the test exact: it is that of the rounded differences, whose signs may be flipped as well."""


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline on the `shared` questions that both answered.

    `points` is the mean difference in percentage points, `margin` half the width of its 95% interval (normal, paired by
    question; None below two questions), `p_value` that of `sign_flip`. `better` and `worse` count the questions on
    which the method's `correct` is the higher and the lower one, by however little.
    """

    shared: int
    points: float
    margin: float | None
    better: int
    worse: int
    p_value: float


def sign_flip(gains: Iterable[float]) -> float:
    """The exact two-sided p-value of the sum of `gains` if each might as well have had the other sign.

    With G the sum of the positive differences, L that of the negative ones and H the sum of the sizes that fair coins
    choose, it is min(1, 2·P[H ≤ min(G, L)]). For n differences of ±1 H is Binomial(n, ½).
    """
    steps = [round(_STEPS * gain) for gain in gains]
    sizes = Counter(abs(step) for step in steps if step)
    unit = math.gcd(*sizes) or 1
    most = min(sum(step for step in steps if step > 0), -sum(step for step in steps if step < 0)) // unit
    chances = torch.ones(1, dtype=torch.float64)  # [H + 1], of each H up to min(G, L)
    for size, n in sorted(sizes.items()):
        stride = size // unit
        before, chances = chances, chances.new_zeros(min(most, len(chances) - 1 + n * stride) + 1)
        ways = 1  # to choose k of n; whole numbers up to the division, as 2^n is beyond a float from n = 1,024 on
        for k in range(min(n, most // stride) + 1):
            moved = chances[k * stride :][: len(before)]
            moved += ways / (1 << n) * before[: len(moved)]
            ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * float(chances.sum()))


def compare(predictions: Iterable[Prediction], dataset: str, method: str, baseline: str) -> Comparison:
    """Compares a method with a baseline, question by question, on one data set."""
    correct: dict[str, dict[str, float]] = {method: {}, baseline: {}}
    for prediction in predictions:
        if prediction.dataset == dataset and prediction.method in correct:
            correct[prediction.method][prediction.question_id] = prediction.correct
    ours, theirs = correct[method], correct[baseline]
    gains = [value - theirs[question] for question, value in ours.items() if question in theirs]
    n = len(gains)
    mean = math.fsum(gains) / n if n else 0.0
    margin = None
    if n > 1:
        variance = math.fsum((gain - mean) ** 2 for gain in gains) / (n - 1)
        margin = 100 * Z95 * math.sqrt(variance / n)
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return Comparison(n, 100 * mean, margin, better, worse, sign_flip(gains))


def compare_pairs(
    predictions: Sequence[Prediction], dataset: str, pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Comparison]:
    """Compares the pairs of a method and a baseline that answered questions in common on a data set."""
    tested = {prediction.method for prediction in predictions if prediction.dataset == dataset}
    found = {pair: compare(predictions, dataset, *pair) for pair in pairs if tested.issuperset(pair)}
    return {pair: comparison for pair, comparison in found.items() if comparison.shared}

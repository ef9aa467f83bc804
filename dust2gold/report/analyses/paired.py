"""A method against a baseline on the questions that both answered: mean difference, its interval, McNemar's test.

McNemar (1947): of two methods that answer the same questions only the discordant ones tell anything, b on which the
method alone is right and c on which the baseline alone is. If both were equally good, b would be Binomial(b + c, ½);
the two-sided exact p-value is that of this distribution, however few or many these questions are. Where a tie of votes
makes `correct` a fraction, a question counts as better or worse by the sign of the difference, whatever its size: the
sign test, which is McNemar's where both are 0 or 1. The mean difference and its interval take fractions as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dust2gold.report.analyses.accuracy import Z95
from dust2gold.report.analyses.predictions import Prediction


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline on the `shared` questions that both answered, `better` and `worse` on how many.

    `points` is the mean difference in percentage points, `margin` half the width of its 95% interval (normal, paired by
    question; None below two questions), `p_value` that of McNemar's exact two-sided test.
    """

    shared: int
    points: float
    margin: float | None
    better: int
    worse: int
    p_value: float


def mcnemar(better: int, worse: int) -> float:
    """The two-sided exact p-value of McNemar's test, min(1, 2·P[Binomial(better + worse, ½) ≤ min(better, worse)])."""
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1))
    # Whole numbers up to the last step: 2^n is beyond a float from 1,024 discordant questions on.
    return min(1.0, tail / (1 << (n - 1))) if n else 1.0


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
    return Comparison(n, 100 * mean, margin, better, worse, mcnemar(better, worse))

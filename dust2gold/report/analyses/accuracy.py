"""Accuracy by method, data set and subject or level, with Wilson's intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dust2gold.report.analyses.methods import method_order
from dust2gold.report.analyses.predictions import OVERALL, Prediction

Z95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Row:
    """One row of results.json: n questions, the sum of their `correct`, accuracy in [0, 1] with Wilson's 95% interval.

    `subject` is "all" for the whole data set, and the level in rows of `tabulate_levels`.
    """

    method: str
    dataset: str
    subject: str
    n: int
    correct: float
    accuracy: float
    ci_low: float
    ci_high: float


def wilson_interval(correct: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion (Wilson 1927); (0, 1) for no trials. `correct` may be a fraction."""
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # At 0 and n the ends are exactly 0 and 1; there and next to it the rounding of centre ± half may miss by an ulp.
    low = 0.0 if correct == 0 else max(centre - half, 0.0)
    return low, 1.0 if correct == n else min(centre + half, 1.0)


def tabulate(predictions: Iterable[Prediction]) -> list[Row]:
    """Rows by data set, then method, then subject, "all" last; questions without a subject count in "all" alone."""
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for prediction in predictions:
        for subject in {prediction.subject or OVERALL, OVERALL}:
            groups[prediction.dataset, prediction.method, subject].append(prediction.correct)
    rows = []
    for (dataset, method, subject), values in groups.items():
        n = len(values)
        correct = min(round(math.fsum(values), 9), float(n))  # thirds may leave the sum an ulp off a whole number
        rows.append(Row(method, dataset, subject, n, correct, correct / n, *wilson_interval(correct, n)))
    return sorted(rows, key=lambda row: (row.dataset, method_order(row.method), row.subject == OVERALL, row.subject))


def tabulate_levels(predictions: Iterable[Prediction]) -> list[Row]:
    """As `tabulate`, by level instead of by subject."""
    return tabulate(replace(prediction, subject=prediction.level) for prediction in predictions)

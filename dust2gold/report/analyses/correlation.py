"""Correlation of a few points, with an interval that says how little few points tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dust2gold.report.analyses.accuracy import Z95


@dataclass(frozen=True)
class Correlation:
    """Pearson's r over n points with its 95% interval, and Spearman's ρ: r of the ranks.

    r is None below three points or where a quantity does not vary. The interval is Fisher's, tanh(artanh r ±
    1.96/√(n − 3)), which assumes normally distributed points; None below four points.
    """

    n: int
    pearson: float | None
    ci_low: float | None
    ci_high: float | None
    spearman: float | None


def correlate(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Correlates two quantities.

    Raises:
        ValueError: If there are not as many of one as of the other.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values against {len(y)}")
    r = pearson(x, y)
    low, high = None, None
    if r is not None and len(x) >= 4:
        half = Z95 / math.sqrt(len(x) - 3)
        low, high = (r, r) if abs(r) == 1 else (math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))
    return Correlation(len(x), r, low, high, pearson(ranks(x), ranks(y)))


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's r, None below three points or where x or y does not vary."""
    n = len(x)
    if n < 3 or min(x) == max(x) or min(y) == max(y):
        return None
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    dx, dy = [value - mean_x for value in x], [value - mean_y for value in y]
    products = math.fsum(a * b for a, b in zip(dx, dy, strict=True))
    r = products / math.sqrt(math.fsum(a * a for a in dx) * math.fsum(b * b for b in dy))
    return max(-1.0, min(1.0, r))


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1, equal values sharing the mean of theirs."""
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]

"""Paired differences of two methods over seeds and questions: hierarchical bootstrap, Holm's correction.

Seeds have different test questions, so methods are paired within a seed. A resample draws seeds with replacement and,
for each drawn seed, its questions with replacement (Davison & Hinkley 1997, 3.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust2gold.report.analyses.seeds import spread

DETECTABLE = 2.8
"""Standard errors of the smallest difference that a two-sided test at 5% sees with 80% power: 1.96 + 0.84."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The difference of two methods' accuracies, as shares."""

    by_seed: tuple[float, ...]
    mean: float
    low: float  # of the percentile interval, 95%
    high: float
    error: float  # standard error: the deviation of the resampled means
    p: float  # two-sided

    @property
    def detectable(self) -> float:
        """The smallest difference that would have been seen with 80% power."""
        return DETECTABLE * self.error

    @property
    def student(self) -> tuple[float, float] | None:
        """Student's 95% interval of the mean from the seeds alone, wider where few seeds differ; None for one seed."""
        margin = spread(self.by_seed).margin
        return None if margin is None else (self.mean - margin, self.mean + margin)


def paired_difference(differences: Sequence[Array], resamples: int = 10_000, seed: int = 0) -> Difference:
    """Estimates a mean difference from, for each seed, the differences by question.

    p is twice the smaller share of resampled means on either side of 0, those at 0 and one more counting on both.
    """
    means = resampled_means(differences, resamples, seed)
    low, high = np.quantile(means, (0.025, 0.975))
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    by_seed = tuple(float(own.mean()) for own in differences)
    p = min(1.0, 2 * (beyond + 1) / (resamples + 1))
    return Difference(by_seed, float(np.mean(by_seed)), float(low), float(high), float(means.std(ddof=1)), p)


def resampled_means(differences: Sequence[Array], resamples: int, seed: int) -> Array:
    """The mean over seeds in each resample, [resamples].

    To draw n questions of n is to draw how often each distinct difference comes: a multinomial of few categories.
    """
    generator, count = np.random.default_rng(seed), len(differences)
    draws = np.empty((count, resamples, count))  # of each seed, for each place of a resample that it may be drawn for
    for place, own in enumerate(differences):
        values, numbers = np.unique(own, return_counts=True)
        shares = numbers / len(own)
        draws[place] = generator.multinomial(len(own), shares, size=(resamples, count)) @ values / len(own)
    drawn = generator.integers(count, size=(1, resamples, count))
    means: Array = np.take_along_axis(draws, drawn, axis=0)[0].mean(axis=1)
    return means


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction over all of these."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected

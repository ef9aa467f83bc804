"""Several seeds: mean and spread of each method's accuracy over independent runs."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dust2gold.report.analyses.accuracy import Row
from dust2gold.report.analyses.methods import BASELINE, method_order

_SEED = re.compile(r"seed-(\d+)")


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (n − 1; None for one seed), minimum and maximum of a figure over the seeds."""

    seeds: int
    mean: float
    deviation: float | None
    low: float
    high: float


@dataclass(frozen=True)
class SeedRow:
    """A method on a subject ("all": the whole data set): accuracy in [0, 1], points over the same seed's baseline."""

    method: str
    dataset: str
    subject: str
    accuracy: Spread
    points: Spread | None


def seed_runs(run: Path) -> dict[int, Path]:
    """The runs `seed-<k>` in a run directory by their seeds, in order; none for a run of one seed."""
    found = {int(match[1]): path for path in run.glob("seed-*") if (match := _SEED.fullmatch(path.name))}
    return {seed: path for seed, path in sorted(found.items()) if path.is_dir()}


def spread(values: Sequence[float]) -> Spread:
    """The spread of one value per seed.

    Raises:
        ValueError: If there is no value.
    """
    if not values:
        raise ValueError("no values")
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    deviation = math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else None
    return Spread(len(values), mean, deviation, min(values), max(values))


def over_seeds(runs: Mapping[int, Sequence[Row]]) -> list[SeedRow]:
    """Joins the rows of each seed's run, sorted by data set, method and subject."""
    accuracies: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    points: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for rows in runs.values():
        base = {(row.dataset, row.subject): row.accuracy for row in rows if row.method == BASELINE}
        for row in rows:
            key = (row.dataset, row.method, row.subject)
            accuracies[key].append(row.accuracy)
            if row.method != BASELINE and (row.dataset, row.subject) in base:
                points[key].append(100 * (row.accuracy - base[row.dataset, row.subject]))
    rows_made = [
        SeedRow(method, dataset, subject, spread(values), spread(gains) if gains else None)
        for (dataset, method, subject), values in accuracies.items()
        for gains in [points.get((dataset, method, subject))]
    ]
    return sorted(rows_made, key=lambda row: (row.dataset, method_order(row.method), row.subject))

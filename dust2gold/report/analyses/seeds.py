"""Several seeds: mean and spread of each method's accuracy over independent runs, and of paired differences.

The interval of a difference is Student's over the seeds, t(0.975, n − 1)·s / √n, s the standard deviation of the seeds'
differences: with two or three seeds it is wide. The test questions are the same in every run, so it speaks of training
and sampling, not of other questions.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dust2gold.core.text import escape
from dust2gold.report.analyses.accuracy import Row
from dust2gold.report.analyses.methods import BASELINE, COMPARISONS, descriptions, method_order
from dust2gold.report.analyses.paired import compare_pairs
from dust2gold.report.analyses.predictions import OVERALL, Prediction
from dust2gold.report.figures import intervals_figure
from dust2gold.report.section import NONE, Section, Study, short_name, subject_order

_DIFFERENCES = (
    "each seed's difference between two methods on the questions that both answered; its mean over the seeds with "
    "Student's 95% interval (n − 1 degrees of freedom, wide for two or three seeds), its deviation, least and greatest."
)
_SEED = re.compile(r"seed-(\d+)")


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (n − 1; None for one seed), minimum and maximum of a figure over the seeds."""

    seeds: int
    mean: float
    deviation: float | None
    low: float
    high: float

    @property
    def margin(self) -> float | None:
        """Half the width of the mean's 95% interval, Student's with n − 1 degrees of freedom; None for one seed."""
        if self.deviation is None:
            return None
        return t_quantile(self.seeds - 1) * self.deviation / math.sqrt(self.seeds)


@dataclass(frozen=True)
class SeedDifference:
    """The paired difference of two methods, in points over the seeds; `margin` is half the width of its 95% interval.

    The interval is Student's, with n − 1 degrees of freedom; None for one seed.
    """

    method: str
    baseline: str
    dataset: str
    points: Spread
    margin: float | None


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
    """The spread of one value per seed, of which there is at least one."""
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
    joined = []
    for (dataset, method, subject), values in accuracies.items():
        gains = points.get((dataset, method, subject))
        joined.append(SeedRow(method, dataset, subject, spread(values), spread(gains) if gains else None))
    return sorted(joined, key=lambda row: (row.dataset, method_order(row.method), row.subject))


def t_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's t for so many degrees of freedom."""

    def within(angle: float) -> float:
        """P(|t| ≤ √freedom·tan(angle)), a finite sum (Abramowitz & Stegun 26.7.3, 26.7.4)."""
        odd, sine, cosine = freedom % 2, math.sin(angle), math.cos(angle)
        term, total = cosine**odd, 0.0
        for exponent in range(odd, freedom - 1, 2):
            total += term
            term *= cosine**2 * (exponent + 1) / (exponent + 2)
        return 2 / math.pi * (angle + sine * total) if odd else sine * total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def differences(runs: Mapping[int, Sequence[Prediction]]) -> list[SeedDifference]:
    """Each method against CoT KD, then the paper's comparisons, by data set; each pair over the seeds that have it."""
    answers = [prediction for predictions in runs.values() for prediction in predictions]
    datasets, methods = {answer.dataset for answer in answers}, {answer.method for answer in answers} - {BASELINE}
    pairs = [*((method, BASELINE) for method in sorted(methods, key=method_order)), *COMPARISONS]
    found = (difference(runs.values(), dataset, pair) for dataset in sorted(datasets) for pair in pairs)
    return [each for each in found if each is not None]


def difference(runs: Iterable[Sequence[Prediction]], dataset: str, pair: tuple[str, str]) -> SeedDifference | None:
    """A method against a baseline over the seeds that have both; None where none has."""
    compared = [compare_pairs(predictions, dataset, [pair]) for predictions in runs]
    values = [found.points for each in compared for found in each.values()]
    if not values:
        return None
    points = spread(values)
    return SeedDifference(*pair, dataset, points, points.margin)


def add_seeds(section: Section, runs: Mapping[int, Study]) -> None:
    """Adds the tables of all seeds together, from each seed's run, with links to each seed's report."""
    rows = over_seeds({seed: run.rows for seed, run in runs.items()})
    paired = differences({seed: run.predictions for seed, run in runs.items()})
    links = ", ".join(f"[seed {seed}](seed-{seed}/report.md)" for seed in runs)
    section.add(f"{len(runs)} independent runs: {links}. Each has its own report with all analyses.")
    for dataset in dict.fromkeys(row.dataset for row in rows):
        own = [row for row in rows if row.dataset == dataset]
        section.add(f"## {escape(dataset)}: accuracy in % over {len(runs)} seeds")
        overall = [row for row in own if row.subject == OVERALL]
        section.add_table(
            *_overall(overall),
            "mean over the seeds, standard deviation (n − 1), least and greatest. The spread is that of training and "
            "sampling, on the same test questions.",
        )
        ends = [(row.method, row.accuracy.mean, row.accuracy.low, row.accuracy.high) for row in overall]
        figure = intervals_figure(f"{dataset}: mean over seeds, least to greatest", ends, BASELINE)
        section.add_figure("seeds", dataset, figure, f"Accuracy on {dataset} over the seeds")
        if body := [_difference(found) for found in paired if found.dataset == dataset]:
            section.add(f"### {escape(dataset)}: differences in points")
            heading = ["method", "against", "seeds", "mean", "95% t interval", "deviation", "least to greatest"]
            section.add_table(heading, body, _DIFFERENCES, texts=2)
        section.add(f"### {escape(dataset)}: by subject")
        explained = "mean over the seeds ± standard deviation; `-` where no seed tested a method."
        section.add_table(*_by_subject(own), explained)
    section.add(*descriptions(row.method for row in rows))
    section.add_numbers("seeds", rows)
    section.add_numbers("differences over seeds", paired)


def _overall(rows: Sequence[SeedRow]) -> tuple[list[str], list[list[str]]]:
    heading = ["method", "seeds", "mean", "deviation", "least to greatest"]
    body = []
    for row in rows:
        found = row.accuracy
        cells = [escape(row.method), str(found.seeds), f"{100 * found.mean:.2f}", _deviation(found, 100)]
        cells.append(f"{100 * found.low:.2f} to {100 * found.high:.2f}")
        body.append(cells)
    return heading, body


def _difference(found: SeedDifference) -> list[str]:
    points, margin = found.points, found.margin
    interval = NONE if margin is None else f"{points.mean - margin:+.2f} to {points.mean + margin:+.2f}"
    cells = [escape(found.method), found.baseline, str(points.seeds), f"{points.mean:+.2f}", interval]
    return [*cells, _deviation(points, 1), f"{points.low:+.2f} to {points.high:+.2f}"]


def _by_subject(rows: Sequence[SeedRow]) -> tuple[list[str], list[list[str]]]:
    cells = {(row.method, row.subject): row.accuracy for row in rows}
    subjects = sorted({row.subject for row in rows}, key=subject_order)
    methods = list(dict.fromkeys(row.method for row in rows))
    shown = {key: f"{100 * found.mean:.2f} ± {_deviation(found, 100)}" for key, found in cells.items()}
    body = [[escape(method), *(shown.get((method, subject), NONE) for subject in subjects)] for method in methods]
    return ["method", *("average" if s == OVERALL else short_name(s) for s in subjects)], body


def _deviation(found: Spread, factor: float) -> str:
    return NONE if found.deviation is None else f"{factor * found.deviation:.2f}"

"""Several seeds: mean and spread of each method's accuracy over independent runs."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dust2gold.core.text import escape
from dust2gold.report.analyses.accuracy import Row
from dust2gold.report.analyses.methods import BASELINE, descriptions, method_order
from dust2gold.report.analyses.predictions import OVERALL
from dust2gold.report.figures import intervals_figure
from dust2gold.report.section import NONE, Section, short_name, subject_order

_SEED = re.compile(r"seed-(\d+)")


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (n − 1; None for one seed), minimum and maximum of a figure over the seeds."""

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


def add_seeds(section: Section, runs: Mapping[int, Sequence[Row]]) -> None:
    """Adds the tables of all seeds together, from the rows of each seed's run, with links to each seed's report."""
    rows = over_seeds(runs)
    links = ", ".join(f"[seed {seed}](seed-{seed}/report.md)" for seed in runs)
    section.add(f"{len(runs)} independent runs: {links}. Each has its own report with all analyses.")
    for dataset in dict.fromkeys(row.dataset for row in rows):
        own = [row for row in rows if row.dataset == dataset]
        section.add(f"## {escape(dataset)}: accuracy in % over {len(runs)} seeds")
        overall = [row for row in own if row.subject == OVERALL]
        section.add_table(
            *_overall(overall),
            "mean over the seeds, standard deviation (n − 1), least and greatest; `points over` is the difference to "
            "the baseline of the same seed. The spread is that of training and sampling, on the same test questions.",
        )
        ends = [(row.method, row.accuracy.mean, row.accuracy.low, row.accuracy.high) for row in overall]
        figure = intervals_figure(f"{dataset}: mean over seeds, least to greatest", ends, BASELINE)
        section.add_figure("seeds", dataset, figure, f"Accuracy on {dataset} over the seeds")
        section.add(f"### {escape(dataset)}: by subject")
        explained = "mean over the seeds ± standard deviation; `-` where no seed tested a method."
        section.add_table(*_by_subject(own), explained)
    section.add(*descriptions(row.method for row in rows))
    section.add_numbers("seeds", rows)


def _overall(rows: Sequence[SeedRow]) -> tuple[list[str], list[list[str]]]:
    heading = ["method", "seeds", "mean", "deviation", "least to greatest"]
    compared = any(row.points is not None for row in rows)
    body = []
    for row in rows:
        found = row.accuracy
        cells = [escape(row.method), str(found.seeds), f"{100 * found.mean:.2f}", _deviation(found, 100)]
        cells.append(f"{100 * found.low:.2f} to {100 * found.high:.2f}")
        if points := row.points:
            cells += [f"{points.mean:+.2f} ± {_deviation(points, 1)}", f"{points.low:+.2f} to {points.high:+.2f}"]
        elif compared:
            cells += [NONE, NONE]
        body.append(cells)
    return [*heading, *([f"points over {BASELINE}", "least to greatest"] if compared else [])], body


def _by_subject(rows: Sequence[SeedRow]) -> tuple[list[str], list[list[str]]]:
    cells = {(row.method, row.subject): row.accuracy for row in rows}
    subjects = sorted({row.subject for row in rows}, key=subject_order)
    methods = list(dict.fromkeys(row.method for row in rows))
    shown = {key: f"{100 * found.mean:.2f} ± {_deviation(found, 100)}" for key, found in cells.items()}
    body = [[escape(method), *(shown.get((method, subject), NONE) for subject in subjects)] for method in methods]
    return ["method", *("average" if s == OVERALL else short_name(s) for s in subjects)], body


def _deviation(found: Spread, factor: float) -> str:
    return NONE if found.deviation is None else f"{factor * found.deviation:.2f}"

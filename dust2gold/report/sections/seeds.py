"""Several seeds in one table: mean and spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from dust2gold.core.text import escape
from dust2gold.report.analyses.accuracy import Row
from dust2gold.report.analyses.methods import BASELINE, describe, method_order
from dust2gold.report.analyses.predictions import OVERALL
from dust2gold.report.analyses.seeds import SeedRow, Spread, over_seeds
from dust2gold.report.figures import seeds_figure
from dust2gold.report.markdown import table
from dust2gold.report.sections.section import NONE, Section, short_name, subject_order


def seeds_section(runs: Mapping[int, Sequence[Row]]) -> Section:
    """The tables of all seeds together, from the rows of each seed's run, with links to each seed's report."""
    section = Section()
    rows = over_seeds(runs)
    section.add(
        f"{len(runs)} independent runs: "
        + ", ".join(f"[seed {seed}](seed-{seed}/report.md)" for seed in runs)
        + ". Each has its own report with all analyses."
    )
    for dataset in dict.fromkeys(row.dataset for row in rows):
        own = [row for row in rows if row.dataset == dataset]
        section.add(f"## {escape(dataset)}: accuracy in % over {len(runs)} seeds")
        section.add(*_overall([row for row in own if row.subject == OVERALL]))
        section.explain(
            "mean over the seeds, standard deviation (n − 1), least and greatest; `points over` is the difference to "
            "the baseline of the same seed. The spread is that of training and sampling, on the same test questions."
        )
        section.show("seeds", dataset, seeds_figure(dataset, own, BASELINE), f"Accuracy on {dataset} over the seeds")
        section.add(f"### {escape(dataset)}: by subject")
        section.add(*_by_subject(own))
        section.explain("mean over the seeds ± standard deviation; `-` where no seed tested a method.")
    methods = dict.fromkeys(sorted((row.method for row in rows), key=method_order))
    section.add(*(f"- {name}: {about}" for name in methods if (about := describe(name)) is not None))
    section.count("seeds", [asdict(row) for row in rows])
    return section


def _overall(rows: Sequence[SeedRow]) -> list[str]:
    heading = ["method", "seeds", "mean", "deviation", "least to greatest"]
    compared = any(row.points is not None for row in rows)
    body = []
    for row in rows:
        found = row.accuracy
        cells = [escape(row.method), str(found.seeds), f"{100 * found.mean:.2f}", _deviation(found, 100)]
        cells.append(f"{100 * found.low:.2f} to {100 * found.high:.2f}")
        if compared:
            points = row.points
            signed = points and f"{points.mean:+.2f} ± {_deviation(points, 1)}"
            cells += [signed or NONE, f"{points.low:+.2f} to {points.high:+.2f}" if points else NONE]
        body.append(cells)
    return table([*heading, *([f"points over {BASELINE}", "least to greatest"] if compared else [])], body)


def _by_subject(rows: Sequence[SeedRow]) -> list[str]:
    cells = {(row.method, row.subject): row.accuracy for row in rows}
    subjects = sorted({row.subject for row in rows}, key=subject_order)
    methods = list(dict.fromkeys(row.method for row in rows))
    body = [[escape(method), *(_cell(cells.get((method, subject))) for subject in subjects)] for method in methods]
    return table(["method", *("average" if s == OVERALL else short_name(s) for s in subjects)], body)


def _cell(found: Spread | None) -> str:
    return NONE if found is None else f"{100 * found.mean:.2f} ± {_deviation(found, 100)}"


def _deviation(found: Spread, factor: float) -> str:
    return NONE if found.deviation is None else f"{factor * found.deviation:.2f}"

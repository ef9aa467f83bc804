"""The report's figures: Matplotlib on its Agg canvas, 150 dpi, in colours that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dust2gold.core.text import visible
from dust2gold.report.analyses.accuracy import Row
from dust2gold.report.analyses.negatives import NONE, SEMANTIC, Negatives
from dust2gold.report.analyses.predictions import OVERALL
from dust2gold.report.analyses.ranking import RankingStudy
from dust2gold.report.analyses.scaling import Point
from dust2gold.report.analyses.seeds import SeedRow

_STYLES = {"sc": ("#0072B2", "o", "-"), "ws": ("#009E73", "s", "--"), "asc": ("#D55E00", "^", "-")}
"""Colours of Okabe and Ito (2008); a marker and a dash besides, for print without colours."""
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#777777"
_WIDTH = 7.0

# Matplotlib's defaults, whatever the user's matplotlibrc says; a `$` in a name does not start a formula
_with_defaults = matplotlib.rc_context({**matplotlib.rcParamsDefault, "text.parse_math": False, "backend": "agg"})


@_with_defaults
def save(figure: Figure, path: Path) -> None:
    """Writes a PNG; the same figure gives the same bytes."""
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _axes(height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(visible(title))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


@_with_defaults
def accuracy_figure(dataset: str, rows: Sequence[Row], baseline: str) -> Figure:
    """Accuracy over all questions with its interval, a line per method; the baseline is marked."""
    figure, axes = _axes(1.4 + 0.28 * len(rows), f"{dataset}: accuracy with 95% intervals")
    for place, row in enumerate(rows):
        ends = [[100 * (row.accuracy - row.ci_low)], [100 * (row.ci_high - row.accuracy)]]
        colour = _ORANGE if row.method == baseline else _BLUE
        axes.errorbar([100 * row.accuracy], [place], xerr=ends, fmt="o", color=colour, capsize=3)
        if row.method == baseline:
            axes.axvline(100 * row.accuracy, color=_ORANGE, linestyle="--", linewidth=1, label=f"baseline {baseline}")
            axes.legend(loc="best")
    return _with_methods(figure, axes, [row.method for row in rows])


@_with_defaults
def seeds_figure(dataset: str, rows: Sequence[SeedRow], baseline: str) -> Figure:
    """Mean accuracy over the seeds, a line from the least to the greatest per method."""
    shown = [row for row in rows if row.subject == OVERALL]
    figure, axes = _axes(1.4 + 0.28 * len(shown), f"{dataset}: mean over seeds, least to greatest")
    for place, row in enumerate(shown):
        found = row.accuracy
        ends = [[100 * (found.mean - found.low)], [100 * (found.high - found.mean)]]
        colour, label = (_ORANGE, f"baseline {baseline}") if row.method == baseline else (_BLUE, None)
        axes.errorbar([100 * found.mean], [place], xerr=ends, fmt="o", color=colour, capsize=3, label=label)
        if label:
            axes.legend(loc="best")
    return _with_methods(figure, axes, [row.method for row in shown])


def _with_methods(figure: Figure, axes: Axes, names: Sequence[str]) -> Figure:
    axes.set_yticks(range(len(names)), [visible(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_ylabel("method")
    axes.set_xlabel("accuracy in %")
    return figure


@_with_defaults
def over_n_figure(dataset: str, points: Sequence[Point]) -> Figure:
    """Accuracy over the number of samples, a line per method."""
    figure, axes = _axes(4.2, f"{dataset}: accuracy over the number of samples")
    numbers = [point.n for point in points]
    for method in points[0].accuracy:
        colour, marker, line = _STYLES[method]
        values = [100 * point.accuracy[method] for point in points]
        axes.plot(numbers, values, color=colour, marker=marker, linestyle=line, markersize=4, label=method.upper())
    axes.set_xlabel("samples per question, n")
    axes.set_ylabel("expected accuracy in %")
    axes.set_xticks(numbers)
    axes.legend(loc="best")
    return figure


@_with_defaults
def ranking_figure(dataset: str, study: RankingStudy) -> Figure:
    """M_rank's pair accuracy against the gain of ASC over SC, a point per subject."""
    figure, axes = _axes(4.6, f"{dataset}: M_rank's accuracy and the gain of ASC over SC, by subject")
    shown = [
        (row.subject, 100 * row.pair_accuracy, row.gain)
        for row in study.rows
        if row.pair_accuracy is not None and row.subject != OVERALL
    ]
    middle = sum(x for _, x, _ in shown) / len(shown)
    for k, (subject, x, y) in enumerate(shown):
        axes.plot(x, y, color=_BLUE, marker="o", linestyle="", label=None if k else "a subject")
        side, offset = ("right", (-6, -3)) if x > middle else ("left", (6, -3))
        axes.annotate(visible(subject), (x, y), xytext=offset, textcoords="offset points", ha=side, fontsize=8)
    axes.axvline(50, color=_GREY, linestyle=":", linewidth=1, label="pairs ordered by chance")
    axes.axhline(0, color=_GREY, linestyle="--", linewidth=1, label="no gain")
    axes.margins(x=0.2, y=0.15)
    axes.set_xlabel("pairs of a right and a wrong sample that M_rank orders right, in %")
    axes.set_ylabel("gain of ASC over SC, in points")
    axes.legend(loc="best", fontsize=8)
    return figure


@_with_defaults
def negatives_figure(dataset: str, rows: Sequence[Negatives]) -> Figure:
    """NAT's accuracy over its share of the negatives, and with labels by value."""
    figure, axes = _axes(4.0, f"{dataset}: NAT over the share of negatives behind M_neg")
    special = {NONE: (_GREY, "s", "CoT KD's LoRA instead of M_neg"), SEMANTIC: (_ORANGE, "^", "graded by value")}
    _add_negatives(axes, [row for row in rows if row.method not in special], _BLUE, "o", "graded by text")
    for method, style in special.items():
        _add_negatives(axes, [row for row in rows if row.method == method], *style)
    axes.set_xlabel("share of D_neg in %")
    axes.set_ylabel("accuracy in %, 95% interval")
    axes.legend(loc="best")
    return figure


def _add_negatives(axes: Axes, rows: Sequence[Negatives], colour: str, marker: str, name: str) -> None:
    if rows:
        low = [100 * (row.accuracy - row.ci_low) for row in rows]
        high = [100 * (row.ci_high - row.accuracy) for row in rows]
        shares, values = [row.share for row in rows], [100 * row.accuracy for row in rows]
        axes.errorbar(shares, values, yerr=[low, high], color=colour, marker=marker, capsize=3, label=name)

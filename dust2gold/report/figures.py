"""The report's figures: Matplotlib on its Agg canvas, 150 dpi, in colours that colour-blind readers tell apart.

Matplotlib is imported when the first figure is drawn; draw and save inside `matplotlib_defaults`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from dust2gold.core.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # of Okabe and Ito (2008)
_STYLES = {"sc": (BLUE, "o", "-"), "ws": ("#009E73", "s", "--"), "asc": (ORANGE, "^", "-")}
"""Colour, and a marker and a dash besides, for print without colours."""


def matplotlib_defaults() -> AbstractContextManager[None]:
    """Matplotlib's defaults, whatever the user's matplotlibrc says; a `$` in a name does not start a formula."""
    import matplotlib

    return matplotlib.rc_context({**matplotlib.rcParamsDefault, "text.parse_math": False, "backend": "agg"})


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG; the same figure gives the same bytes."""
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _new_figure(height: float, title: str, x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(visible(title))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def intervals_figure(title: str, rows: Sequence[tuple[str, float, float, float]], baseline: str) -> Figure:
    """A row per method: (name, accuracy, low end, high end), shares; a line marks the baseline."""
    figure, axes = _new_figure(1.4 + 0.28 * len(rows), title, "accuracy in %", "method")
    for place, (method, accuracy, low, high) in enumerate(rows):
        ends = [[100 * (accuracy - low)], [100 * (high - accuracy)]]
        colour = ORANGE if method == baseline else BLUE
        axes.errorbar([100 * accuracy], [place], xerr=ends, fmt="o", color=colour, capsize=3)
        if method == baseline:
            axes.axvline(100 * accuracy, color=ORANGE, linestyle="--", linewidth=1, label=f"baseline {baseline}")
            axes.legend(loc="best")
    axes.set_yticks(range(len(rows)), [visible(row[0]) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    return figure


def over_n_figure(dataset: str, accuracies: Mapping[str, Sequence[float]]) -> Figure:
    """The accuracy of each method with 1, 2, … samples."""
    title = f"{dataset}: accuracy over the number of samples"
    figure, axes = _new_figure(4.2, title, "samples per question, n", "expected accuracy in %")
    numbers: Sequence[int] = []
    for method, shares in accuracies.items():
        numbers = range(1, len(shares) + 1)
        colour, marker, line = _STYLES[method]
        values = [100 * share for share in shares]
        axes.plot(numbers, values, color=colour, marker=marker, linestyle=line, markersize=4, label=method.upper())
    axes.set_xticks(numbers)
    axes.legend(loc="best")
    return figure


def ranking_figure(dataset: str, points: Sequence[tuple[str, float, float]]) -> Figure:
    """(subject, M_rank's pair accuracy in %, gain of ASC over SC in points)."""
    title = f"{dataset}: M_rank's accuracy and the gain of ASC over SC, by subject"
    x_label = "pairs of a right and a wrong sample that M_rank orders right, in %"
    figure, axes = _new_figure(4.6, title, x_label, "gain of ASC over SC, in points")
    middle = sum(x for _, x, _ in points) / len(points)
    for k, (subject, x, y) in enumerate(points):
        axes.plot(x, y, color=BLUE, marker="o", linestyle="", label=None if k else "a subject")
        side, offset = ("right", (-6, -3)) if x > middle else ("left", (6, -3))
        axes.annotate(visible(subject), (x, y), xytext=offset, textcoords="offset points", ha=side, fontsize=8)
    axes.axvline(50, color=GREY, linestyle=":", linewidth=1, label="pairs ordered by chance")
    axes.axhline(0, color=GREY, linestyle="--", linewidth=1, label="no gain")
    axes.margins(x=0.2, y=0.15)
    axes.legend(loc="best", fontsize=8)
    return figure


def negatives_figure(dataset: str, groups: Mapping[str, Sequence[tuple[int, float, float, float]]]) -> Figure:
    """By the legend's name of up to three groups, (share of D_neg in %, accuracy, low end, high end), shares."""
    title = f"{dataset}: NAT over the share of negatives behind M_neg"
    figure, axes = _new_figure(4.0, title, "share of D_neg in %", "accuracy in %, 95% interval")
    for (label, rows), colour, marker in zip(groups.items(), (BLUE, GREY, ORANGE), "os^", strict=False):
        if rows:
            ends = [[100 * (row[1] - row[2]) for row in rows], [100 * (row[3] - row[1]) for row in rows]]
            shares, values = [row[0] for row in rows], [100 * row[1] for row in rows]
            axes.errorbar(shares, values, yerr=ends, color=colour, marker=marker, capsize=3, label=label)
    axes.legend(loc="best")
    return figure


def over_questions_figure(name: str, lines: Mapping[str, Sequence[tuple[int, float, float]]]) -> Figure:
    """By method (number of training questions, mean accuracy, standard deviation over seeds), shares."""
    title = f"Accuracy over the number of training questions{f' ({name})' if name else ''}"
    figure, axes = _new_figure(4.4, title, "training questions", "accuracy in %, deviation over seeds")
    styles = zip(itertools.cycle((BLUE, ORANGE, "#009E73", GREY, "#CC79A7")), itertools.cycle("os^Dv<>"))
    for (method, points), (colour, marker) in zip(lines.items(), styles, strict=False):
        numbers, means, deviations = ([point[k] for point in points] for k in range(3))
        values, ends = [100 * mean for mean in means], [100 * deviation for deviation in deviations]
        axes.errorbar(numbers, values, yerr=ends, color=colour, marker=marker, capsize=3, label=visible(method))
    axes.set_xscale("log")
    ticks = sorted({point[0] for points in lines.values() for point in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(loc="best")
    return figure

"""A section of the report, and the run that sections are made from."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.components.grading.vote_groups import VoteGroup
from dust2gold.core.text import escape
from dust2gold.report.analyses.accuracy import Row
from dust2gold.report.analyses.predictions import OVERALL, Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "report"
"""The directory of the figures, in the run directory."""

_LONGEST_NAME = 100  # of a figure's file; file systems take 255 bytes

NONE = "-"
"""What a cell without a figure shows."""


@dataclass(frozen=True)
class Study:
    """A run directory, its predictions, accuracy rows, and the sampled answers that voted, by data set."""

    run: Path
    predictions: Sequence[Prediction]
    rows: Sequence[Row]
    vote_groups: Mapping[str, Sequence[VoteGroup]]

    @property
    def datasets(self) -> list[str]:
        """The data sets, that on which most methods were tested first."""
        tested = Counter(dataset for dataset, _ in {(row.dataset, row.method) for row in self.rows})
        return sorted(tested, key=lambda dataset: (-tested[dataset], dataset))


@dataclass
class Section:
    """Lines of Markdown, records of analyses.json by the name of the analysis, figures by file name."""

    lines: list[str] = field(default_factory=list)
    numbers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)

    def add(self, *lines: str) -> None:
        """Adds a paragraph of these lines."""
        self.lines += [*lines, ""]

    def explain(self, text: str) -> None:
        """Adds how to read a table."""
        self.note(f"How to read it: {text}")

    def note(self, text: str) -> None:
        """Adds a wrapped paragraph."""
        self.add(*textwrap.wrap(text, 150, break_long_words=False, break_on_hyphens=False))

    def add_numbers(self, name: str, records: Sequence[dict[str, Any]]) -> None:
        """Adds records to an analysis of analyses.json."""
        self.numbers.setdefault(name, []).extend(records)

    def add_figure(self, name: str, dataset: str, figure: Figure, caption: str) -> None:
        """Adds a figure, its file called after the data set; a name that is taken gets a number."""
        name = "-".join([name, *re.findall(r"[a-z0-9]+", dataset.lower())])[:_LONGEST_NAME]
        file, number = f"{name}.png", 2
        while file in self.figures:
            file, number = f"{name}-{number}.png", number + 1
        self.figures[file] = figure
        self.add(f"![{escape(caption)}]({FIGURES}/{file})")


def percent(share: float | None) -> str:
    """Two digits."""
    return NONE if share is None else f"{100 * share:.2f}"


def p_value(p: float) -> str:
    """Three digits."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def shortened(text: str, length: int) -> str:
    """Text of others, cut to a length and escaped."""
    return escape(text if len(text) <= length else text[: length - 1] + "…")


_MATH = {
    "countingprobability": "C&P",
    "intermediatealgebra": "InterAlg",
    "numbertheory": "NumTheory",
    "precalculus": "Precalc",
    "prealgebra": "Prealg",
    "geometry": "Geometry",
    "algebra": "Algebra",
}


def subject_order(subject: str) -> tuple[int, str]:
    """Sorts MATH's subjects as the paper's Table 2 does, others after them by name, `all` last."""
    if subject == OVERALL:
        return len(_MATH) + 1, ""
    key = _key(subject)
    return (list(_MATH).index(key), "") if key in _MATH else (len(_MATH), subject)


def short_name(subject: str) -> str:
    """The escaped name of a subject in a table: Table 2's for MATH."""
    return escape(_MATH.get(_key(subject), subject))


def _key(subject: str) -> str:
    return re.sub(r"[^a-z]", "", re.sub(r"\band\b", "", subject.lower().replace("_", " ")))

"""A section of the report, and the run that sections are made from."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from datamodules.components.grading.vote_groups import VoteGroup
from dust2gold.core.errors import InputError
from dust2gold.core.text import escape
from dust2gold.report.analyses.accuracy import Row
from dust2gold.report.analyses.predictions import OVERALL, Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "report"
"""The directory of the figures, in the run directory."""

ONE_RUN = (
    "Intervals and `p` are about the questions of one training run each: how much another training run (another seed, "
    "another machine) would change is not in them; `run --seeds 0,1,2` measures it."
)
"""What stands under every table that has a p-value or an interval of one run."""

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
    """Lines of Markdown, records of analyses.json by the name of the analysis, figures by file name.

    `shown` says what a figure's file shows: which figure, of which data set.
    """

    lines: list[str] = field(default_factory=list)
    numbers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    shown: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, *lines: str) -> None:
        """Adds a paragraph of these lines."""
        self.lines += [*lines, ""]

    def add_table(self, heading: Sequence[str], body: Sequence[Sequence[str]], explained: str, texts: int = 1) -> None:
        """Adds a `table` and how to read it; under one with `p` or intervals also what these leave out."""
        self.add(*table(heading, body, texts))
        self.note(f"How to read it: {explained}")
        if {"p", "95% interval"}.intersection(heading):
            self.note(ONE_RUN)

    def note(self, text: str) -> None:
        """Adds a wrapped paragraph."""
        self.add(*textwrap.wrap(text, 150, break_long_words=False, break_on_hyphens=False))

    def add_numbers(self, name: str, records: Sequence[Any], **more: str) -> None:
        """Adds records (dataclasses), each with `more` before its fields, to an analysis of analyses.json."""
        self.numbers.setdefault(name, []).extend({**more, **asdict(record)} for record in records)

    def add_figure(self, name: str, dataset: str, figure: Figure, caption: str) -> None:
        """Adds a figure, its file called after the data set; a name that is taken gets a number."""
        stem = "-".join([name, *re.findall(r"[a-z0-9]+", dataset.lower())])[:_LONGEST_NAME]
        file, number = f"{stem}.png", 2
        while file in self.figures:
            file, number = f"{stem}-{number}.png", number + 1
        self.figures[file], self.shown[file] = figure, (name, dataset)
        self.add(f"![{escape(caption)}]({FIGURES}/{file})")


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """Returns the lines of a table of so many columns of text, then figures, which are set to the right.

    Headings and cells are already escaped (`dust2gold.core.text.escape`).
    """
    widths = [max(3, *(len(row[column]) for row in (heading, *rows))) for column in range(len(heading))]
    rule = ["-" * width if column < texts else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = []
    for cells in (heading, rule, *rows):
        columns = enumerate(zip(cells, widths, strict=True))
        padded = [cell.ljust(width) if column < texts else cell.rjust(width) for column, (cell, width) in columns]
        lines.append(f"| {' | '.join(padded)} |")
    return lines


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns what goes wrong while a run's own file is read and used into an `InputError` that names the file."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        problem, remedy = f"not what dust2gold writes there ({error!r})", "make it again, or take it away"
        raise InputError(problem, file=file, remedy=remedy) from error


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
    "Counting & Probability": "C&P",
    "Intermediate Algebra": "InterAlg",
    "Number Theory": "NumTheory",
    "Precalculus": "Precalc",
    "Prealgebra": "Prealg",
    "Geometry": "Geometry",
    "Algebra": "Algebra",
}
"""MATH's subjects with their names in the paper's Table 2, in its order."""


def subject_order(subject: str) -> tuple[int, str]:
    """Sorts MATH's subjects as the paper's Table 2 does, others after them by name, `all` last."""
    if subject == OVERALL:
        return len(_MATH) + 1, ""
    return (list(_MATH).index(subject), "") if subject in _MATH else (len(_MATH), subject)


def short_name(subject: str) -> str:
    """The escaped name of a subject in a table: Table 2's for MATH."""
    return escape(_MATH.get(subject, subject))

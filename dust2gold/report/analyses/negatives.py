"""What the number of wrong rationales, and the noise in their labels, do to NAT.

Rows are runs of NAT that differ in their negatives: `nat-no-negatives` (none), `nat-negatives-<p>` (a share of p%),
`nat` (all of D_neg) and `nat-semantic` (rationales graded by value: those that only look wrong have moved to D_pos).
Each is compared with `nat` on the same questions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dust2gold.core.text import escape
from dust2gold.report.analyses.accuracy import Row
from dust2gold.report.analyses.methods import share_of_negatives
from dust2gold.report.analyses.paired import Comparison, compare
from dust2gold.report.analyses.predictions import OVERALL, Prediction
from dust2gold.report.figures import negatives_figure
from dust2gold.report.section import NONE as UNKNOWN
from dust2gold.report.section import Section, Study, p_value, percent, reading

FULL, NONE, SEMANTIC = "nat", "nat-no-negatives", "nat-semantic"
_SHARES = {NONE: 0, FULL: 100, SEMANTIC: 100}


@dataclass(frozen=True)
class Negatives:
    """A NAT whose M_neg saw `share` percent of D_neg, `negative` rationales, and itself `positive` right ones.

    The counts are None where no summary.json has them; `against_nat` is None for `nat` itself.
    """

    dataset: str
    method: str
    share: int
    negative: int | None
    positive: int | None
    accuracy: float
    ci_low: float
    ci_high: float
    against_nat: Comparison | None


def negatives_study(run: Path, rows: Sequence[Row], predictions: Sequence[Prediction]) -> list[Negatives]:
    """The rows of each data set that has `nat` and at least one of the others, by share, `nat-semantic` last.

    Raises:
        InputError: If a summary.json is malformed.
    """
    shares = {row.method: _SHARES.get(row.method, share_of_negatives(row.method)) for row in rows}
    found = [(row, share) for row in rows if row.subject == OVERALL and (share := shares[row.method]) is not None]
    made = []
    for dataset in dict.fromkeys(row.dataset for row, _ in found):
        own = [(row, share) for row, share in found if row.dataset == dataset]
        if len(own) > 1 and any(row.method == FULL for row, _ in own):
            for row, share in own:
                against = None if row.method == FULL else compare(predictions, dataset, row.method, FULL)
                # What `prepare` counted for a method of its own data, else for the run.
                whole, other = run / "data", run / f"data-{row.method.removeprefix('nat-')}"
                negative = 0 if share == 0 else _count(whole if row.method == FULL else other, "negative")
                positive = _count(other if row.method == SEMANTIC else whole, "positive")
                figures = (share, negative, positive, row.accuracy, row.ci_low, row.ci_high, against)
                made.append(Negatives(dataset, row.method, *figures))
    return sorted(made, key=lambda row: (row.dataset, row.method == SEMANTIC, row.share))


def _count(data: Path, verdict: str) -> int | None:
    summary = data / "summary.json"
    if not summary.is_file():
        return None
    with reading(summary):
        return int(json.loads(summary.read_text(encoding="utf-8"))[verdict])


def add_negatives(section: Section, study: Study) -> None:
    """Adds NAT over the number of its negatives and their labels, where such rows were trained."""
    found = negatives_study(study.run, study.rows, study.predictions)
    for dataset in dict.fromkeys(row.dataset for row in found):
        own = [row for row in found if row.dataset == dataset]
        heading = ["method", "share of D_neg %", "D_neg", "D_pos", "accuracy %", "95% interval", "points over nat", "p"]
        section.add(f"## {escape(dataset)}: what the negatives do to NAT")
        body = []
        for row in own:
            against = [UNKNOWN, UNKNOWN]
            if row.against_nat is not None:
                against = [f"{row.against_nat.points:+.2f}", p_value(row.against_nat.p_value)]
            counts = [UNKNOWN if count is None else f"{count:,}" for count in (row.negative, row.positive)]
            interval = f"{percent(row.ci_low)} to {percent(row.ci_high)}"
            body.append([escape(row.method), str(row.share), *counts, percent(row.accuracy), interval, *against])
        section.add_table(
            heading,
            body,
            "each row is NAT with another D_neg behind M_neg, of so many samples; `nat-semantic` grades by value "
            "instead of by text, which moves mislabelled right answers to D_pos. Points and p "
            "(sign flips) are against `nat`, paired.",
        )
        labels = {FULL: "graded by text", NONE: "CoT KD's LoRA instead of M_neg", SEMANTIC: "graded by value"}
        points: dict[str, list[tuple[int, float, float, float]]] = {label: [] for label in labels.values()}
        for row in own:
            label = labels.get(row.method, labels[FULL])
            points[label].append((row.share, row.accuracy, row.ci_low, row.ci_high))
        figure = negatives_figure(dataset, points)
        section.add_figure("negatives", dataset, figure, f"NAT over its share of negatives on {dataset}")
    section.add_numbers("negatives", found)

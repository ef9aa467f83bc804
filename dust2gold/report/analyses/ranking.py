"""M_rank's accuracy against what it is good for: the gain of ASC over SC, by subject (the paper's section on M_rank).

Pair accuracy is the share of pairs of a right and a wrong sample of the same test question in which the right one has
the higher score, an equal score counting half; pairs of all questions are pooled, so that questions with many pairs
weigh more. Threshold accuracy is the share of samples on the right side of s = .5, to be compared with the share of
right samples, which always saying "right" would reach. Only samples that state an answer count: the others do not vote.
The gain is ASC's accuracy less SC's over the same samples, in points.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from datamodules.components.grading.vote_groups import VoteGroup
from dust2gold.core.text import escape
from dust2gold.report.analyses.accuracy import Z95
from dust2gold.report.analyses.predictions import OVERALL
from dust2gold.report.analyses.votes import collect_votes
from dust2gold.report.figures import ranking_figure
from dust2gold.report.section import NONE, Section, percent, short_name, subject_order
from lightning_modules.components.voting.votes import vote_accuracy


@dataclass(frozen=True)
class Correlation:
    """Pearson's r over n points with its 95% interval, and Spearman's ρ: r of the ranks.

    r is None below three points or where a quantity does not vary. The interval is Fisher's, tanh(artanh r ±
    1.96/√(n − 3)), which assumes normally distributed points; None below four points.
    """

    n: int
    pearson: float | None
    ci_low: float | None
    ci_high: float | None
    spearman: float | None


def correlate(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Correlates as many values of one quantity as of another."""
    r = pearson(x, y)
    low, high = None, None
    if r is not None and len(x) >= 4:
        half = Z95 / math.sqrt(len(x) - 3)
        low, high = (r, r) if abs(r) == 1 else (math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))
    return Correlation(len(x), r, low, high, pearson(ranks(x), ranks(y)))


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's r, None below three points or where x or y does not vary."""
    if len(x) < 3 or min(x) == max(x) or min(y) == max(y):
        return None
    return max(-1.0, min(1.0, statistics.correlation(x, y)))


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1, equal values sharing the mean of theirs."""
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


@dataclass(frozen=True)
class Ranking:
    """M_rank on the samples of a subject ("all": of the data set), and the accuracy of SC and ASC, in [0, 1].

    `samples` counts those that state an answer, `right` is the share of right ones among them; `gain` is in points.
    Accuracies are None where there are no pairs or no samples.
    """

    subject: str
    questions: int
    pairs: int
    pair_accuracy: float | None
    samples: int
    threshold_accuracy: float | None
    right: float | None
    sc: float
    asc: float
    gain: float


class RankingStudy(NamedTuple):
    """Rows by subject, "all" last, and the correlations of both accuracies with the gain over subjects with pairs."""

    rows: list[Ranking]
    pair_accuracy: Correlation
    threshold_accuracy: Correlation


def ranking_study(vote_groups: Sequence[VoteGroup]) -> RankingStudy | None:
    """Judges M_rank by subject; None where samples have no scores."""
    if any(group.score is None for group in vote_groups):
        return None
    subjects = sorted({group.question.subject for group in vote_groups} - {""})
    rows = [_ranking(subject, [b for b in vote_groups if b.question.subject == subject]) for subject in subjects]
    paired = [row for row in rows if row.pairs]
    gain = [row.gain for row in paired]
    pair, threshold = ([getattr(row, name) for row in paired] for name in ("pair_accuracy", "threshold_accuracy"))
    return RankingStudy([*rows, _ranking(OVERALL, vote_groups)], correlate(pair, gain), correlate(threshold, gain))


def _ranking(subject: str, vote_groups: Sequence[VoteGroup]) -> Ranking:
    votes = collect_votes(vote_groups)
    score = votes.weights["asc"]  # [Q, N]: M_rank's
    states = votes.answers >= 0  # [Q, N]: states an answer
    right, wrong = votes.right & states, ~votes.right & states
    pair = right[:, :, None] & wrong[:, None, :]  # [Q, N, N]
    above, equal = (score[:, :, None] > score[:, None, :]) & pair, (score[:, :, None] == score[:, None, :]) & pair
    pairs, ordered = int(pair.sum()), float(above.sum() + equal.sum() / 2)
    samples = int(states.sum())
    judged = int((((score > 0.5) == right) & states).sum())
    sc, asc = (float(vote_accuracy(votes.answers, votes.weights[m], votes.gold).mean()) for m in ("sc", "asc"))
    return Ranking(
        subject=subject,
        questions=len(vote_groups),
        pairs=pairs,
        pair_accuracy=ordered / pairs if pairs else None,
        samples=samples,
        threshold_accuracy=judged / samples if samples else None,
        right=int(right.sum()) / samples if samples else None,
        sc=sc,
        asc=asc,
        gain=100 * (asc - sc),
    )


def add_ranking(section: Section, dataset: str, study: RankingStudy) -> None:
    """Adds the table by subject, both correlations and the figure."""
    heading = ["subject", "questions", "pairs", "pairs ordered %", "beyond .5 %", "right samples %", "SC %", "ASC %"]
    body = []
    for row in sorted(study.rows, key=lambda row: subject_order(row.subject)):
        shares = (row.pair_accuracy, row.threshold_accuracy, row.right, row.sc, row.asc)
        counts = [str(row.questions), f"{row.pairs:,}"]
        body.append([short_name(row.subject), *counts, *map(percent, shares), f"{row.gain:+.2f}"])
    section.add(f"## {escape(dataset)}: M_rank's accuracy and the gain of ASC over SC")
    section.add_table(
        [*heading, "gain"],
        body,
        "`pairs ordered` is the share of pairs of a right and a wrong sample of one question that M_rank orders right "
        "(50 is chance), `beyond .5` that of samples on the right side of .5, `right samples` that of right ones. "
        "Only samples with an answer count.",
    )
    if study.pair_accuracy.pearson is not None and study.threshold_accuracy.pearson is not None:
        section.note(
            f"Correlation with the gain over the {study.pair_accuracy.n} subjects that have pairs: of pairs ordered "
            f"{_correlation(study.pair_accuracy)}; of beyond .5 {_correlation(study.threshold_accuracy)}. "
            "So few points settle little: read the interval of r, not r."
        )
    section.add_numbers("ranking", study.rows, dataset=dataset)
    for measure in ("pair_accuracy", "threshold_accuracy"):
        names = {"dataset": dataset, "of": measure, "with": "gain"}
        section.add_numbers("ranking correlation", [getattr(study, measure)], **names)
    points = [
        (row.subject, 100 * share, row.gain) for row in study.rows[:-1] if (share := row.pair_accuracy) is not None
    ]
    if points:
        figure = ranking_figure(dataset, points)
        section.add_figure("ranking", dataset, figure, f"M_rank's accuracy and ASC's gain on {dataset}")


def _correlation(found: Correlation) -> str:
    interval = ""
    if found.ci_low is not None and found.ci_high is not None:
        interval = f" (95% interval {found.ci_low:+.2f} to {found.ci_high:+.2f})"
    spearman = NONE if found.spearman is None else f"{found.spearman:+.2f}"
    return f"Pearson's r = {found.pearson or 0.0:+.2f}{interval}, Spearman's ρ = {spearman}"

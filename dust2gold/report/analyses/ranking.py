"""M_rank's accuracy against what it is good for: the gain of ASC over SC, by subject (the paper's section on M_rank).

Pair accuracy is the share of pairs of a right and a wrong sample of the same test question in which the right one has
the higher score, an equal score counting half; pairs of all questions are pooled, so that questions with many pairs
weigh more. Threshold accuracy is the share of samples on the right side of s = .5, to be compared with the share of
right samples, which always saying "right" would reach. Only samples that state an answer count: the others do not vote.
The gain is ASC's accuracy less SC's over the same samples, in points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from datamodules.components.records.ballots import Ballot
from dust2gold.report.analyses.correlation import Correlation, correlate
from dust2gold.report.analyses.predictions import OVERALL
from dust2gold.report.analyses.votes import collect_votes
from lightning_modules.components.voting.votes import vote_accuracy


@dataclass(frozen=True)
class Ranking:
    """M_rank on the samples of a subject, and what it does for the vote.

    Attributes:
        subject: The subject, "all" for the whole data set.
        questions: The number of questions.
        pairs: Pairs of a right and a wrong sample of one question.
        pair_accuracy: The share of them that it orders right; None without pairs.
        samples: Samples that state an answer.
        threshold_accuracy: The share of them on the right side of .5; None without samples.
        right: The share of them that are right.
        sc: Accuracy of SC.
        asc: Accuracy of ASC.
        gain: 100·(asc − sc), in points.
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


@dataclass(frozen=True)
class RankingStudy:
    """Rows by subject, "all" last, and the correlations over those subjects that have pairs.

    Attributes:
        rows: One per subject.
        pair_accuracy: Of pair accuracy with the gain.
        threshold_accuracy: Of threshold accuracy with the gain.
    """

    rows: list[Ranking]
    pair_accuracy: Correlation
    threshold_accuracy: Correlation


def ranking_study(ballots: Sequence[Ballot]) -> RankingStudy | None:
    """Judges M_rank by subject; None where samples have no scores."""
    if any(ballot.score is None for ballot in ballots):
        return None
    subjects = sorted({ballot.question.subject for ballot in ballots} - {""})
    rows = [_ranking(subject, [b for b in ballots if b.question.subject == subject]) for subject in subjects]
    pair, threshold, gain = [], [], []
    for row in rows:
        if row.pair_accuracy is not None and row.threshold_accuracy is not None:
            pair.append(row.pair_accuracy)
            threshold.append(row.threshold_accuracy)
            gain.append(row.gain)
    return RankingStudy([*rows, _ranking(OVERALL, ballots)], correlate(pair, gain), correlate(threshold, gain))


def _ranking(subject: str, ballots: Sequence[Ballot]) -> Ranking:
    votes = collect_votes(ballots)
    if votes.score is None:
        raise ValueError("the samples have no scores")
    states = votes.answers >= 0
    right, wrong = votes.right & states, ~votes.right & states
    pairs, ordered = _pairs(votes.score, right, wrong)
    samples = int(states.sum())
    judged = int((((votes.score > 0.5) == right) & states).sum())
    sc, asc = (float(vote_accuracy(votes.answers, votes.weights[m], votes.gold).mean()) for m in ("sc", "asc"))
    return Ranking(
        subject=subject,
        questions=len(ballots),
        pairs=pairs,
        pair_accuracy=ordered / pairs if pairs else None,
        samples=samples,
        threshold_accuracy=judged / samples if samples else None,
        right=int(right.sum()) / samples if samples else None,
        sc=sc,
        asc=asc,
        gain=100 * (asc - sc),
    )


def _pairs(score: Tensor, right: Tensor, wrong: Tensor) -> tuple[int, float]:
    """The number of pairs of a right and a wrong sample of one row, and how many are ordered right (equal: half)."""
    pair = right[:, :, None] & wrong[:, None, :]
    above = (score[:, :, None] > score[:, None, :]) & pair
    equal = (score[:, :, None] == score[:, None, :]) & pair
    return int(pair.sum()), float(above.sum() + equal.sum() / 2)

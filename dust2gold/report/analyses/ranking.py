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

from datamodules.components.records.ballots import Ballot
from dust2gold.report.analyses.correlation import Correlation, correlate
from dust2gold.report.analyses.predictions import OVERALL
from dust2gold.report.analyses.votes import collect_votes
from lightning_modules.components.voting.votes import vote_accuracy


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


@dataclass(frozen=True)
class RankingStudy:
    """Rows by subject, "all" last, and the correlations of both accuracies with the gain over subjects with pairs."""

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
    states = votes.answers >= 0  # [Q, N]: states an answer
    right, wrong = votes.right & states, ~votes.right & states
    pair = right[:, :, None] & wrong[:, None, :]  # [Q, N, N]
    above = (votes.score[:, :, None] > votes.score[:, None, :]) & pair
    equal = (votes.score[:, :, None] == votes.score[:, None, :]) & pair
    pairs, ordered = int(pair.sum()), float(above.sum() + equal.sum() / 2)
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

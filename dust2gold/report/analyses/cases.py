"""Questions where SC fails and ASC succeeds, and the other way round.

A vote fails where its share of correct is 0 and succeeds where it is 1; ties in between are no case. Which cases are
shown is settled beforehand: the first ones by the SHA-256 of the question's id, an order that knows nothing of what
anybody answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.components.records.ballots import Ballot
from datamodules.components.records.records import Rationale
from dust2gold.report.analyses.votes import collect_votes
from lightning_modules.components.voting.votes import vote, vote_accuracy

SHOWN = 3
"""How many cases of each kind the report shows."""


@dataclass(frozen=True)
class Tallied:
    """An answer of a question.

    Attributes:
        answer: As the first sample that gives it wrote it.
        votes: How many samples give it.
        score: The sum of their scores, what ASC counts.
        right: Whether it is the gold answer.
        taken_by: Who elects it, of `sc` and `asc`; a tie elects several answers.
        best: The one of these samples that M_rank likes best.
    """

    answer: str
    votes: int
    score: float
    right: bool
    taken_by: list[str]
    best: Rationale


@dataclass(frozen=True)
class Case:
    """A question on which SC and ASC part: its ballot, and its answers, those with most votes first."""

    ballot: Ballot
    answers: list[Tallied]


@dataclass(frozen=True)
class Cases:
    """All cases, in the order in which they are shown.

    Attributes:
        asc_alone: SC fails and ASC succeeds.
        sc_alone: SC succeeds and ASC fails.
    """

    asc_alone: list[Case]
    sc_alone: list[Case]


def find_cases(ballots: Sequence[Ballot]) -> Cases | None:
    """Finds the cases; None where samples have no scores."""
    votes = collect_votes(ballots)
    if votes.score is None:
        return None
    sc, asc = (vote_accuracy(votes.answers, votes.weights[method], votes.gold).tolist() for method in ("sc", "asc"))
    found: dict[tuple[float, float], list[Case]] = {(0, 1): [], (1, 0): []}
    for ballot, *shares in sorted(zip(ballots, sc, asc, strict=True), key=lambda each: _place(each[0])):
        kind = (shares[0], shares[1])
        if kind in found:
            found[kind].append(Case(ballot, _tally(ballot)))
    return Cases(asc_alone=found[0, 1], sc_alone=found[1, 0])


def _place(ballot: Ballot) -> str:
    return hashlib.sha256(ballot.question.id.encode()).hexdigest()


def _tally(ballot: Ballot) -> list[Tallied]:
    elected = {"sc": vote(ballot.answers, [1.0] * len(ballot.answers)), "asc": vote(ballot.answers, ballot.score or [])}
    answers = []
    for number, text in enumerate(ballot.texts):
        samples = [sample for sample, own in zip(ballot.samples, ballot.answers, strict=True) if own == number]
        scores = [sample.score or 0.0 for sample in samples]
        best = samples[scores.index(max(scores))]
        taken_by = [method for method, winners in elected.items() if number in winners]
        answers.append(Tallied(text, len(samples), sum(scores), number == ballot.gold, taken_by, best))
    return sorted(answers, key=lambda answer: (-answer.votes, -answer.score))

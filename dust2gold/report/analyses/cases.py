"""Questions where SC fails and ASC succeeds, and the other way round.

A vote fails where its share of correct is 0 and succeeds where it is 1; ties in between do not count. The cases shown
are the first ones by the SHA-256 of the question's id, an order that does not depend on the answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.components.grading.vote_groups import VoteGroup
from datamodules.components.records.records import Rationale
from dust2gold.report.analyses.votes import collect_votes
from lightning_modules.components.voting.votes import vote, vote_accuracy

SHOWN = 3
"""How many cases of each kind the report shows."""


@dataclass(frozen=True)
class Tallied:
    """An answer of a question as its first sample wrote it, with its votes and the sum of their scores.

    `taken_by` says which of `sc` and `asc` elect it (a tie elects several answers); `best` is its best-scored sample.
    """

    answer: str
    votes: int
    score: float
    right: bool
    taken_by: list[str]
    best: Rationale


@dataclass(frozen=True)
class Case:
    """A question on which SC and ASC differ: its vote group and its answers, those with most votes first."""

    group: VoteGroup
    answers: list[Tallied]


@dataclass(frozen=True)
class Cases:
    """All cases in which ASC or SC alone succeeds, in the order in which they are shown."""

    asc_alone: list[Case]
    sc_alone: list[Case]


def find_cases(vote_groups: Sequence[VoteGroup]) -> Cases | None:
    """Finds the cases; None where samples have no scores."""
    votes = collect_votes(vote_groups)
    if votes.score is None:
        return None
    sc, asc = (vote_accuracy(votes.answers, votes.weights[method], votes.gold).tolist() for method in ("sc", "asc"))
    found: dict[tuple[float, float], list[Case]] = {(0, 1): [], (1, 0): []}
    by_hash = sorted(
        zip(vote_groups, sc, asc, strict=True),
        key=lambda each: hashlib.sha256(each[0].question.id.encode()).hexdigest(),
    )
    for group, *shares in by_hash:
        if (kind := (shares[0], shares[1])) in found:
            found[kind].append(Case(group, _tally(group)))
    return Cases(asc_alone=found[0, 1], sc_alone=found[1, 0])


def _tally(group: VoteGroup) -> list[Tallied]:
    elected = {"sc": vote(group.answers, [1.0] * len(group.answers)), "asc": vote(group.answers, group.score or [])}
    answers = []
    for number, text in enumerate(group.texts):
        samples = [sample for sample, own in zip(group.samples, group.answers, strict=True) if own == number]
        scores = [sample.score or 0.0 for sample in samples]
        best = samples[scores.index(max(scores))]
        taken_by = [method for method, winners in elected.items() if number in winners]
        answers.append(Tallied(text, len(samples), sum(scores), number == group.gold, taken_by, best))
    return sorted(answers, key=lambda answer: (-answer.votes, -answer.score))

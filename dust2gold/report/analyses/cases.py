"""Questions where SC fails and ASC succeeds, and the other way round.

A vote fails where its share of correct is 0 and succeeds where it is 1; ties in between do not count. The cases shown
are the first ones by the SHA-256 of the question's id, an order that does not depend on the answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from datamodules.components.grading.vote_groups import VoteGroup
from dust2gold.core.text import escape
from dust2gold.report.analyses.votes import collect_votes
from dust2gold.report.section import Section, Study, shortened, table
from lightning_modules.components.voting.votes import vote, vote_accuracy

SHOWN = 3
"""How many cases of each kind the report shows."""


@dataclass(frozen=True)
class Tallied:
    """An answer of a question as its first sample wrote it, with its votes and the sum of their scores.

    `taken_by` says which of `sc` and `asc` elect it (a tie elects several answers).
    """

    answer: str
    right: bool
    taken_by: list[str]
    votes: int
    score: float
    best_rationale: str
    best_score: float


@dataclass(frozen=True)
class Case:
    """A question on which SC and ASC differ: its vote group and its answers, those with most votes first."""

    group: VoteGroup
    answers: list[Tallied]


def find_cases(vote_groups: Sequence[VoteGroup]) -> dict[str, list[Case]] | None:
    """The cases of either kind in the order in which they are shown; None where samples have no scores."""
    votes = collect_votes(vote_groups)
    if votes.score is None:
        return None
    sc, asc = (vote_accuracy(votes.answers, votes.weights[method], votes.gold).tolist() for method in ("sc", "asc"))
    kinds = {(0, 1): "SC fails, ASC succeeds", (1, 0): "SC succeeds, ASC fails"}
    found: dict[str, list[Case]] = {kind: [] for kind in kinds.values()}
    for group, outcome in zip(vote_groups, zip(sc, asc, strict=True), strict=True):
        if kind := kinds.get(outcome):
            found[kind].append(Case(group, _tally(group)))
    for cases in found.values():
        cases.sort(key=lambda case: hashlib.sha256(case.group.question.id.encode()).hexdigest())
    return found


def _tally(group: VoteGroup) -> list[Tallied]:
    elected = {"sc": vote(group.answers, [1.0] * len(group.answers)), "asc": vote(group.answers, group.score or [])}
    answers = []
    for number, text in enumerate(group.texts):
        samples = [sample for sample, own in zip(group.samples, group.answers, strict=True) if own == number]
        scores = [sample.score or 0.0 for sample in samples]
        best = max(scores)
        taken_by = [method for method, winners in elected.items() if number in winners]
        written = samples[scores.index(best)].rationale
        answers.append(Tallied(text, number == group.gold, taken_by, len(samples), sum(scores), written, best))
    return sorted(answers, key=lambda answer: (-answer.votes, -answer.score))


_QUESTION, _RATIONALE, _ANSWER = 600, 800, 60
"""How many characters of each are shown."""


def add_cases(section: Section, study: Study) -> None:
    """Adds the first cases of each data set that was voted on with scores."""
    for dataset, vote_groups in study.vote_groups.items():
        kinds = find_cases(vote_groups)
        if kinds is None:
            continue
        section.add(f"## {escape(dataset)}: where SC and ASC part")
        section.note("; ".join(f"{kind}: {len(found)} questions" for kind, found in kinds.items()) + ".")
        section.note(
            f"How to read it: the first {SHOWN} of each kind by the SHA-256 of the id are shown, whatever they look "
            "like. A row is an answer with its votes and the sum of their scores; the best-scored rationale of each "
            "winner follows."
        )
        for kind, found in kinds.items():
            for case in found[:SHOWN]:
                _add_case(section, kind, case)
                asked, answers = case.group.question, [asdict(answer) for answer in case.answers]
                record = {"dataset": dataset, "kind": kind, "of": len(found), "question_id": asked.id}
                record |= {name: getattr(asked, name) for name in ("subject", "level", "question", "gold")}
                section.numbers.setdefault("cases", []).append({**record, "answers": answers})


def _add_case(section: Section, kind: str, case: Case) -> None:
    question = case.group.question
    place = ", ".join(escape(text) for text in (question.id, question.subject, question.level) if text)
    section.add(f"### {kind}: {place}")
    section.add(f"Question: {shortened(question.question, _QUESTION)}")
    body = []
    for a in case.answers:
        verdict, taken_by = "right" if a.right else "wrong", ", ".join(a.taken_by).upper()
        body.append([shortened(a.answer, _ANSWER), verdict, taken_by, str(a.votes), f"{a.score:.3f}"])
    section.add(*table(["answer", "verdict", "taken by", "votes", "sum of scores"], body, texts=3))
    for method in ("sc", "asc"):
        winner = next(answer for answer in case.answers if method in answer.taken_by)
        answer, rationale = shortened(winner.answer, _ANSWER), shortened(winner.best_rationale, _RATIONALE)
        score = f"(score {winner.best_score:.3f})"
        section.add(f"- {method.upper()} takes {answer}; its best rationale {score}: {rationale}")

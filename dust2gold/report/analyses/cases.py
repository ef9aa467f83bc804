"""Questions where SC fails and ASC succeeds, and the other way round.

A vote fails where its share of correct is 0 and succeeds where it is 1; ties in between do not count. The cases shown
are the first ones by the SHA-256 of the question's id, an order that does not depend on the answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.components.grading.vote_groups import VoteGroup
from datamodules.components.records.records import Rationale
from dust2gold.core.text import escape
from dust2gold.report.analyses.votes import collect_votes
from dust2gold.report.markdown import table
from dust2gold.report.section import Section, Study, shortened
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


def find_cases(vote_groups: Sequence[VoteGroup]) -> dict[str, list[Case]] | None:
    """The cases of either kind in the order in which they are shown; None where samples have no scores."""
    votes = collect_votes(vote_groups)
    if votes.score is None:
        return None
    sc, asc = (vote_accuracy(votes.answers, votes.weights[method], votes.gold).tolist() for method in ("sc", "asc"))
    kinds = {(0, 1): "SC fails, ASC succeeds", (1, 0): "SC succeeds, ASC fails"}
    found: dict[str, list[Case]] = {kind: [] for kind in kinds.values()}
    ids = [group.question.id for group in vote_groups]
    places = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).hexdigest())
    for i in places:
        if kind := kinds.get((sc[i], asc[i])):
            found[kind].append(Case(vote_groups[i], _tally(vote_groups[i])))
    return found


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


_QUESTION, _RATIONALE, _ANSWER = 600, 800, 60
"""How many characters of each are shown."""


def cases_section(study: Study) -> Section:
    """The first cases of each data set that was voted on with scores."""
    section = Section()
    for dataset, vote_groups in study.vote_groups.items():
        kinds = find_cases(vote_groups)
        if kinds is None:
            continue
        section.add(f"## {escape(dataset)}: where SC and ASC part")
        section.note("; ".join(f"{kind}: {len(found)} questions" for kind, found in kinds.items()) + ".")
        section.explain(
            f"the first {SHOWN} of each kind by the SHA-256 of the id are shown, whatever they look like. A row is an "
            "answer with its votes and the sum of their scores; the best-scored rationale of each winner follows."
        )
        for kind, found in kinds.items():
            for case in found[:SHOWN]:
                _add_case(section, kind, case)
                section.add_numbers("cases", [{"dataset": dataset, "kind": kind, "of": len(found), **_record(case)}])
    return section


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
        answer, rationale = shortened(winner.answer, _ANSWER), shortened(winner.best.rationale, _RATIONALE)
        score = winner.best.score or 0.0
        section.add(f"- {method.upper()} takes {answer}; its best rationale (score {score:.3f}): {rationale}")


def _record(case: Case) -> dict[str, Any]:
    question = case.group.question
    answers = [
        {
            **{name: getattr(answer, name) for name in ("answer", "right", "taken_by", "votes", "score")},
            "best_rationale": answer.best.rationale,
            "best_score": answer.best.score,
        }
        for answer in case.answers
    ]
    asked = {name: getattr(question, name) for name in ("subject", "level", "question", "gold")}
    return {"question_id": question.id, **asked, "answers": answers}

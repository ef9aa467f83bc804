"""Questions on which SC and ASC differ, with votes, scores and rationales."""

from __future__ import annotations

from typing import Any

from dust2gold.core.text import escape
from dust2gold.report.analyses.cases import SHOWN, Case, find_cases
from dust2gold.report.markdown import table
from dust2gold.report.sections.section import Section, Study, shortened

_QUESTION, _RATIONALE, _ANSWER = 600, 800, 60
"""How many characters of each are shown."""


def cases_section(study: Study) -> Section:
    """The first cases of each data set that was voted on with scores."""
    section = Section()
    for dataset, vote_groups in study.vote_groups.items():
        cases = find_cases(vote_groups)
        if cases is None:
            continue
        kinds = {"SC fails, ASC succeeds": cases.asc_alone, "SC succeeds, ASC fails": cases.sc_alone}
        section.add(f"## {escape(dataset)}: where SC and ASC part")
        section.note("; ".join(f"{kind}: {len(found)} questions" for kind, found in kinds.items()) + ".")
        section.explain(
            f"the first {SHOWN} of each kind by the SHA-256 of the id are shown, whatever they look like. A row is an "
            "answer with its votes and the sum of their scores; the best-scored rationale of each winner follows."
        )
        for kind, found in kinds.items():
            for case in found[:SHOWN]:
                _add_case(section, kind, case)
                section.count("cases", [{"dataset": dataset, "kind": kind, "of": len(found), **_record(case)}])
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

"""Grading: is a rationale's answer the gold one?

`StringGrader` compares text and made the paper's labels; `semantic.py` adds algebra. Three verdicts: positive (D_pos),
negative (D_neg), ungradable (kept out of training, and counted). A rationale that states no answer is negative in the
paper; of data sets of plain numbers `prepare` makes it ungradable.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from datamodules.components.grading.answers import are_plain, same_value, string_equal
from datamodules.components.grading.extraction import extract_answer, stated_answer
from datamodules.components.records.records import Question, Verdict

_CHOICE = re.compile(r"\(([A-Za-z])\)|([A-Z])(?:[.:)]|$)")
"""A letter of multiple choice: "(B)", "B", "B. 12"."""

Grade = tuple[Verdict, str | None]
"""The verdict, and the answer found in the rationale (None: it states none)."""


class StringGrader:
    """The MATH convention's string comparison, about 0.02 ms an answer.

    Args:
        by_value: Also accept an answer of the gold answer's value ("1,000" for "1000", "(B) 12" for "B"). For data sets
            of plain numbers and words (GSM8K, SVAMP, ASDiv, MultiArith; see `are_plain`). Off, the labels on MATH are
            the paper's own.
        stated: Look for an answer in all the ways that people state one, see `stated_answer`; in the paper a box alone
            counts.
        unstated: Verdict of a rationale that states no answer; "negative" in the paper.
        pattern: How else an answer is stated, see `stated_answer`.
    """

    def __init__(
        self,
        by_value: bool = False,
        stated: bool = False,
        unstated: Verdict = "negative",
        pattern: re.Pattern[str] | None = None,
    ) -> None:
        self.by_value = by_value
        self.stated = stated or pattern is not None
        self.unstated = unstated
        self.pattern = pattern
        self.reasons: Counter[str] = Counter()  # why rationales were found ungradable so far

    def grade(self, rationale: str, gold: str) -> Grade:
        """Grades one rationale; ungradable only where there is no gold answer."""
        answer = stated_answer(rationale, self.pattern) if self.stated else extract_answer(rationale)
        if not gold.strip():
            self.reasons["no gold answer"] += 1
            return "ungradable", answer
        if not answer:
            if self.unstated == "ungradable":
                self.reasons["no answer stated"] += 1
            return self.unstated, answer
        return ("positive" if self._equal(answer, gold) else "negative"), answer

    def grade_many(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grades (rationale, gold) pairs; the grades come in the order of the pairs."""
        return [self.grade(rationale, gold) for rationale, gold in pairs]

    def _equal(self, answer: str, gold: str) -> bool:
        if string_equal(answer, gold) or (self.by_value and same_value(answer, gold)):
            return True
        choices = [_CHOICE.match(text) for text in (answer, gold)]
        letters = {(choice[1] or choice[2]).upper() for choice in choices if choice}
        return self.by_value and all(choices) and len(letters) == 1


def grader_for(questions: Iterable[Question]) -> StringGrader:
    """The grader of what a student answers to a data set's questions: as its teacher's answers were graded."""
    asked = list(questions)
    by_value = are_plain(question.gold for question in asked)
    return StringGrader(by_value, stated=by_value and not any("\\boxed" in question.solution for question in asked))

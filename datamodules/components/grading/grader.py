"""Grading: is a rationale's answer the gold one?

`StringGrader` compares text and made the paper's labels; `semantic.py` adds algebra. Three verdicts: positive (D_pos),
negative (D_neg), ungradable (kept out of training, and counted). A rationale that states no answer is negative, as in
the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from datamodules.components.grading.answers import extract_answer, same_value, string_equal
from datamodules.components.records.records import Verdict

Grade = tuple[Verdict, str | None]
"""The verdict, and the answer found in the rationale (None: it states none)."""


class StringGrader:
    """The MATH convention's string comparison, about 0.02 ms an answer.

    Args:
        by_value: Also accept an answer of the gold answer's value ("1,000" for "1000"). For data sets of plain numbers
            (GSM8K, SVAMP, ASDiv, MultiArith; see `are_plain`). Off, the labels on MATH are the paper's own.
    """

    def __init__(self, by_value: bool = False) -> None:
        self.by_value = by_value
        self.reasons: Counter[str] = Counter()  # why rationales were found ungradable so far

    def grade(self, rationale: str, gold: str) -> Grade:
        """Grades one rationale; ungradable only where there is no gold answer."""
        answer = extract_answer(rationale)
        if not gold.strip():
            self.reasons["no gold answer"] += 1
            return "ungradable", answer
        return ("positive" if answer and self._equal(answer, gold) else "negative"), answer

    def grade_many(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grades (rationale, gold) pairs; the grades come in the order of the pairs."""
        return [self.grade(rationale, gold) for rationale, gold in pairs]

    def _equal(self, answer: str, gold: str) -> bool:
        return string_equal(answer, gold) or (self.by_value and same_value(answer, gold))

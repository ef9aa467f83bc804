"""Grading: is a rationale's answer the gold one?

`StringGrader` compares text and made the paper's labels; `semantic.py` adds algebra. All graders speak one protocol, so
that `prepare` and the callbacks need not know which one they hold. Three verdicts: positive (D_pos), negative (D_neg),
ungradable (kept out of training, and counted). A rationale that states no answer is negative, as in the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from datamodules.components.grading.answers import extract_answer, same_value, string_equal
from datamodules.components.records.records import Verdict

Grade = tuple[Verdict, str | None]
"""The verdict, and the answer found in the rationale (None: it states none)."""

Progress = Callable[[int], object]
"""Called with the number of rationales graded since the last call; `tqdm.update` is one."""


class Grader(Protocol):
    """Grades rationales against gold answers."""

    name: str  # as on the command line: "string", "semantic" or "both"

    @property
    def reasons(self) -> Counter[str]:
        """How many rationales were found ungradable so far, by reason."""
        ...

    def grade(self, rationale: str, gold: str) -> Grade:
        """Grades one rationale."""
        ...

    def grade_many(self, pairs: Sequence[tuple[str, str]], progress: Progress | None = None) -> list[Grade]:
        """Grades (rationale, gold) pairs; the grades come in the order of the pairs."""
        ...


class StringGrader:
    """The MATH convention's string comparison, about 0.02 ms an answer.

    Args:
        by_value: Also accept an answer of the gold answer's value ("1,000" for "1000"). For data sets of plain numbers
            (GSM8K, SVAMP, ASDiv, MultiArith; see `are_plain`). Off, the labels on MATH are the paper's own.
    """

    name = "string"

    def __init__(self, by_value: bool = False) -> None:
        self.by_value = by_value
        self.reasons: Counter[str] = Counter()

    def grade(self, rationale: str, gold: str) -> Grade:
        """Grades one rationale; ungradable only where there is no gold answer."""
        answer = extract_answer(rationale)
        if not gold.strip():
            self.reasons["no gold answer"] += 1
            return "ungradable", answer
        return ("positive" if answer and self.equal(answer, gold) else "negative"), answer

    def grade_many(self, pairs: Sequence[tuple[str, str]], progress: Progress | None = None) -> list[Grade]:
        """Grades (rationale, gold) pairs; the grades come in the order of the pairs."""
        grades = [self.grade(rationale, gold) for rationale, gold in pairs]
        if progress is not None:
            progress(len(pairs))
        return grades

    def equal(self, answer: str, gold: str) -> bool:
        """Whether an answer counts as the gold one."""
        return string_equal(answer, gold) or (self.by_value and same_value(answer, gold))

"""Answers of equal value share a class, so that their votes are counted together (docs/method.md, stage 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

NO_ANSWER = -1
"""Class of a sample that states no answer: it abstains."""


def pool(answers: Sequence[str | None], canonical: Callable[[str], str]) -> list[int]:
    """Numbers the distinct values among `answers` from 0, in the order in which they appear.

    Args:
        answers: Answers as written; None or blank where there is none.
        canonical: Maps answers of equal value to the same text.

    Returns:
        One class per answer, `NO_ANSWER` where there is none.
    """
    numbers: dict[str, int] = {}
    return [
        numbers.setdefault(canonical(answer), len(numbers)) if answer is not None and answer.strip() else NO_ANSWER
        for answer in answers
    ]

"""Every generated problem must be consistent: the text, the steps and the answer tell the same story."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest

from dust2gold.demo.corpus import documents
from dust2gold.demo.problems import LONGEST, SUBJECTS, ProblemWriter, apply
from dust2gold.demo.wording import PLAIN, WORDINGS, Wording


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("level", range(1, LONGEST + 1))
@pytest.mark.parametrize("wording", WORDINGS.values(), ids=WORDINGS)
def test_steps_chain_and_use_the_numbers_of_the_text(subject: str, level: int, wording: Wording) -> None:
    writer = ProblemWriter(random.Random(f"{subject}/{level}"), wording=wording)
    for _ in range(100):
        problem = writer.draw(level, subject)
        assert problem.level == level
        assert problem.subject == subject
        assert len(problem.events) == level
        for before, after in pairwise(problem.steps):
            assert after.left == before.result
        told = [int(number) for number in re.findall(r"\d+", problem.text)]
        used = [problem.steps[0].left, *(step.right for step in problem.steps)]
        assert told == used if wording is PLAIN else sorted(told) == sorted(used)
        assert problem.answer >= 1


@pytest.mark.parametrize(("left", "op", "right"), [(7, "/", 2), (7, "/", 0), (7, "%", 2)])
def test_apply_refuses_what_is_not_whole(left: int, op: str, right: int) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        apply(left, op, right)


def test_corpus_is_seeded_true_and_holds_no_rationale_in_the_students_format() -> None:
    first, again = documents(3), documents(3)
    for _ in range(500):
        text = next(first)
        assert text == next(again)
        assert not any(mark in text for mark in ("Problem:", "Solution:", "boxed"))
        for left, op, right, value in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text):
            assert apply(int(left), op, int(right)) == int(value)

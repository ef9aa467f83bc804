"""Every generated problem must be consistent: the text, the steps and the answer tell the same story."""

import random
import re
from itertools import pairwise

import pytest

from dust2gold.demo.problems import LONGEST, SUBJECTS, ProblemWriter
from dust2gold.demo.wording import PLAIN, WORDINGS, Wording


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("level", range(1, LONGEST + 1))
@pytest.mark.parametrize("wording", WORDINGS.values(), ids=WORDINGS)
def test_steps_chain_and_use_the_numbers_of_the_text(subject: str, level: int, wording: Wording) -> None:
    writer = ProblemWriter(random.Random(f"{subject}/{level}"), wording=wording)
    for _ in range(100):
        problem = writer.draw(level, subject)
        assert (problem.level, problem.subject, len(problem.events)) == (level, subject, level)
        assert all(after.left == before.result for before, after in pairwise(problem.steps))
        assert all(step.left % step.right == 0 for step in problem.steps if step.op == "/")
        written = [int(number) for number in re.findall(r"\d+", problem.text)]
        used = [problem.steps[0].left, *(step.right for step in problem.steps)]
        assert written == used if wording is PLAIN else sorted(written) == sorted(used)
        assert problem.answer >= 1

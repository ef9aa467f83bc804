"""The teacher's rationales, read back from their text by an independent parser."""

from __future__ import annotations

import random
import re

import pytest

from dust2gold.core.errors import InputError
from dust2gold.demo.problems import SUBJECTS, Problem, ProblemWriter, Step
from dust2gold.demo.teacher import Slip, Teacher

NO_SLIPS = {slip: dict.fromkeys("+-*/", 0.0) for slip in Slip}


def only(slip: Slip) -> Teacher:
    """A teacher that makes this slip at every occasion and no other."""
    return Teacher(7, rates={**NO_SLIPS, slip: dict.fromkeys("+-*/", 1.0)}, dropped=0.0, growth=0.0, unboxed=0.0)


def one_step(left: int, op: str, right: int) -> Problem:
    return Problem("Test", "A scene.", "How many pens does Mia have now?", [""], [Step(left, op, right)])


def lines_of(rationale: str) -> list[tuple[int, str, int, int]]:
    found = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", rationale)
    return [(int(left), op, int(right), int(value)) for left, op, right, value in found]


def boxed(rationale: str) -> int | None:
    found = re.findall(r"\\boxed\{(\d+)\}", rationale)
    return int(found[-1]) if found else None


def values(teacher: Teacher, problem: Problem) -> set[int]:
    return {lines_of(teacher.rationale(problem, 0, k))[0][3] for k in range(40)}


def problems(count: int, level: int | None = None) -> list[Problem]:
    writer = ProblemWriter(random.Random(11))
    return [writer.draw(level or 1 + i % 4, SUBJECTS[i % len(SUBJECTS)]) for i in range(count)]


def test_without_slips_every_rationale_is_the_exact_solution() -> None:
    teacher = Teacher(0, rates=NO_SLIPS, dropped=0.0, unboxed=0.0)
    for index, problem in enumerate(problems(100)):
        rationale = teacher.rationale(problem, index, 0)
        assert lines_of(rationale) == [(s.left, s.op, s.right, s.result) for s in problem.steps]
        assert boxed(rationale) == problem.answer
        assert boxed(teacher.correct_solution(problem)) == problem.answer


@pytest.mark.parametrize(
    ("slip", "step", "expected"),
    [
        (Slip.CARRY, (14, "+", 27), {31}),
        (Slip.CARRY, (41, "-", 9), {42}),
        (Slip.CARRY, (285, "+", 147), {422, 332}),
        (Slip.CARRY, (14, "+", 23), {37}),  # nothing to carry, no slip
        (Slip.CARRY, (9, "+", 5), {14}),
        (Slip.TABLE, (7, "*", 8), {49, 63, 48, 64}),
        (Slip.TABLE, (56, "/", 8), {6, 8}),
        (Slip.OPERATION, (14, "+", 9), {5}),
        (Slip.OPERATION, (9, "+", 14), {23}),  # 9 - 14 is no whole number, no slip
        (Slip.OPERATION, (7, "*", 8), {15}),
        (Slip.OPERATION, (56, "/", 8), {48}),
        (Slip.MISREAD, (10, "+", 27), {82, 36, 38}),
        (Slip.MISREAD, (10, "+", 20), {29, 31}),
        (Slip.MISREAD, (50, "/", 2), {16}),  # a divisor is not misread as 1; 50 / 3 is rounded down
    ],
)
def test_each_slip_gives_exactly_its_wrong_values(slip: Slip, step: tuple[int, str, int], expected: set[int]) -> None:
    assert values(only(slip), one_step(*step)) == expected


def test_after_a_slip_the_teacher_goes_on_with_its_own_value() -> None:
    teacher = Teacher(5, growth=0.5, unboxed=0.0)
    for index, problem in enumerate(problems(400)):
        rationale = teacher.rationale(problem, index, 1)
        written = lines_of(rationale)
        value = problem.steps[0].left
        for left, _, right, result in written:
            assert value in (left, right)  # the right one if the teacher took the smaller from the larger
            assert result >= 0
            value = result
        assert boxed(rationale) == value


def test_a_dropped_step_is_left_out_but_never_the_only_one() -> None:
    teacher = Teacher(0, rates=NO_SLIPS, dropped=1.0, growth=0.0, unboxed=0.0)
    for index, problem in enumerate(problems(40)):
        assert len(lines_of(teacher.rationale(problem, index, 0))) == max(1, problem.level - 1)


def test_samples_depend_on_their_indices_alone() -> None:
    problem = problems(3)[2]
    forwards = [Teacher(1).rationale(problem, 2, k) for k in range(8)]
    backwards = [Teacher(1).rationale(problem, 2, k) for k in reversed(range(8))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 1
    assert forwards != [Teacher(2).rationale(problem, 2, k) for k in range(8)]
    assert forwards != [Teacher(1).rationale(problem, 3, k) for k in range(8)]


def test_the_share_of_wrong_samples_is_about_half_and_grows_with_the_level() -> None:
    teacher, shares, mixed = Teacher(0), [], 0
    for level in (1, 2, 3, 4):
        drawn = problems(400, level)
        right = [[boxed(teacher.rationale(p, i, k)) == p.answer for k in range(8)] for i, p in enumerate(drawn)]
        shares.append(1 - sum(map(sum, right)) / 3200)
        mixed += sum(0 < sum(row) < 8 for row in right)
    assert shares == sorted(shares)
    assert 0.45 < sum(shares) / 4 < 0.57
    assert mixed / 1600 > 0.85


def test_about_one_in_77_has_no_box() -> None:
    teacher = Teacher(0)
    unboxed = sum(boxed(teacher.rationale(p, i, k)) is None for i, p in enumerate(problems(1000)) for k in range(8))
    assert 0.009 < unboxed / 8000 < 0.017


def test_styles_all_occur_and_name_what_was_asked() -> None:
    writer = ProblemWriter(random.Random(2))
    teacher = Teacher(0, rates=NO_SLIPS, dropped=0.0, unboxed=0.0)
    for subject, ending in {
        "Gains and Losses": r"[A-Z][a-z]+ has \\boxed\{\d+\} [a-z]+\.",
        "Sharing": r"Each friend gets \\boxed\{\d+\} [a-z]+\.",
        "Prices": r"It costs \\boxed\{\d+\} dollars\.",
        "Comparisons": r"[A-Z][a-z]+ has \\boxed\{\d+\} [a-z]+\.",
    }.items():
        problem = writer.draw(2, subject)
        texts = [teacher.rationale(problem, 0, k) for k in range(40)]
        assert any(re.search(f"{ending}$", text) for text in texts)
        assert any(text.startswith("First, ") and ". Then, " in text and "So the answer is" in text for text in texts)
        assert any(text == teacher.correct_solution(problem) for text in texts)


@pytest.mark.parametrize(
    "arguments",
    [
        {"unboxed": 1.2},
        {"notation": 1.5},
        {"dropped": -0.1},
        {"rates": {Slip.CARRY: {"+": 0.7}, Slip.MISREAD: {"+": 0.7}}},
    ],
)
def test_rates_that_are_no_probabilities_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(InputError, match="no probability"):
        Teacher(0, **arguments)  # type: ignore[arg-type]

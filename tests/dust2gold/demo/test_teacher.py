"""The teacher's rationales, read back from their text by an independent parser."""

import random
import re
from typing import Any

import pytest

from dust2gold.core.errors import InputError
from dust2gold.demo.problems import SUBJECTS, Problem, ProblemWriter, Step
from dust2gold.demo.teacher import Slip, Teacher, forget_carry, misread_number, wrong_operation, wrong_table_entry

CAREFUL: dict[str, Any] = {"rates": {}, "dropped": 0.0, "growth": 0.0, "unboxed": 0.0}


def lines_of(rationale: str) -> list[tuple[int, str, int, int]]:
    found = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", rationale)
    return [(int(left), op, int(right), int(value)) for left, op, right, value in found]


def boxed(rationale: str) -> int | None:
    found = re.findall(r"\\boxed\{(\d+)\}", rationale)
    return int(found[-1]) if found else None


def problems(count: int, level: int | None = None) -> list[Problem]:
    writer = ProblemWriter(random.Random(11))
    return [writer.draw(level or 1 + i % 4, SUBJECTS[i % len(SUBJECTS)]) for i in range(count)]


def test_without_slips_every_rationale_is_the_exact_solution() -> None:
    teacher = Teacher(0, **CAREFUL)
    for index, problem in enumerate(problems(100)):
        rationale = teacher.rationale(problem, index, 0)
        assert lines_of(rationale) == [(s.left, s.op, s.right, s.result) for s in problem.steps]
        assert boxed(rationale) == boxed(teacher.correct_solution(problem)) == problem.answer


@pytest.mark.parametrize(
    ("slip", "step", "expected"),
    [
        (forget_carry, (14, "+", 27), {31}),
        (forget_carry, (41, "-", 9), {42}),
        (forget_carry, (285, "+", 147), {422, 332}),
        (forget_carry, (14, "+", 23), {37}),  # nothing to carry, no slip
        (forget_carry, (9, "+", 5), {14}),
        (wrong_table_entry, (7, "*", 8), {49, 63, 48, 64}),
        (wrong_table_entry, (56, "/", 8), {6, 8}),
        (wrong_operation, (14, "+", 9), {5}),
        (wrong_operation, (9, "+", 14), {23}),  # 9 - 14 is no whole number, no slip
        (wrong_operation, (7, "*", 8), {15}),
        (wrong_operation, (56, "/", 8), {48}),
        (misread_number, (10, "+", 27), {82, 36, 38}),
        (misread_number, (10, "+", 20), {29, 31}),
        (misread_number, (50, "/", 2), {16}),  # a divisor is not misread as 1; 50 / 3 is rounded down
    ],
)
def test_each_slip_gives_exactly_its_wrong_values(slip: Slip, step: tuple[int, str, int], expected: set[int]) -> None:
    teacher = Teacher(7, **{**CAREFUL, "rates": {slip: dict.fromkeys("+-*/", 1.0)}})
    problem = Problem("Test", "A scene.", "How many pens does Mia have now?", [""], [Step(*step)])
    assert {lines_of(teacher.rationale(problem, 0, k))[0][3] for k in range(40)} == expected


def test_after_a_slip_the_teacher_goes_on_with_its_own_value() -> None:
    teacher = Teacher(5, growth=0.5, unboxed=0.0)
    for index, problem in enumerate(problems(400)):
        rationale = teacher.rationale(problem, index, 1)
        value = problem.steps[0].left
        for left, _, right, result in lines_of(rationale):
            assert value in (left, right)  # the right one if the teacher took the smaller from the larger
            assert result >= 0
            value = result
        assert boxed(rationale) == value


def test_a_dropped_step_is_left_out_but_never_the_only_one() -> None:
    teacher = Teacher(0, **{**CAREFUL, "dropped": 1.0})
    for index, problem in enumerate(problems(40)):
        assert len(lines_of(teacher.rationale(problem, index, 0))) == max(1, problem.level - 1)


def test_samples_depend_on_their_indices_alone() -> None:
    def drawn(seed: int, question: int) -> list[str]:
        return [Teacher(seed).rationale(problem, question, k) for k in range(8)]

    problem, teacher = problems(3)[2], Teacher(1)
    assert drawn(1, 2) == [teacher.rationale(problem, 2, k) for k in reversed(range(8))][::-1]
    assert len(set(drawn(1, 2))) > 1
    assert drawn(1, 2) not in (drawn(2, 2), drawn(1, 3))


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


ENDINGS = dict.fromkeys(("Gains and Losses", "Comparisons"), r"[A-Z][a-z]+ has \\boxed\{\d+\} [a-z]+\.")
ENDINGS |= {"Sharing": r"Each friend gets \\boxed\{\d+\} [a-z]+\.", "Prices": r"It costs \\boxed\{\d+\} dollars\."}


@pytest.mark.parametrize(("subject", "ending"), ENDINGS.items())
def test_styles_all_occur_and_name_what_was_asked(subject: str, ending: str) -> None:
    teacher, problem = Teacher(0, **CAREFUL), ProblemWriter(random.Random(2)).draw(2, subject)
    texts = [teacher.rationale(problem, 0, k) for k in range(40)]
    assert any(re.search(f"{ending}$", text) for text in texts)
    assert any(text.startswith("First, ") and ". Then, " in text and "So the answer is" in text for text in texts)
    assert any(text == teacher.correct_solution(problem) for text in texts)


RATES = {slip: {"+": 0.7} for slip in (forget_carry, misread_number)}


@pytest.mark.parametrize("arguments", [{"unboxed": 1.2}, {"notation": 1.5}, {"dropped": -0.1}, {"rates": RATES}])
def test_rates_that_are_no_probabilities_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no probability"):
        Teacher(0, **arguments)

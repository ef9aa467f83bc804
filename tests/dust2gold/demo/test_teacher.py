"""The teacher's rationales, read back from their text by an independent parser."""

import random
import re

import pytest

from dust2gold.core.errors import InputError
from dust2gold.demo.problems import SUBJECTS, Problem, ProblemWriter
from dust2gold.demo.teacher import (
    LEVELS,
    TEACHERS,
    Kind,
    Mistake,
    Teacher,
    add_step,
    forget_carry,
    leave_out,
    misread_number,
    wrong_operation,
    wrong_table_entry,
)


def lines_of(rationale: str) -> list[tuple[int, str, int, int]]:
    found = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", rationale)
    return [(int(left), op, int(right), int(value)) for left, op, right, value in found]


def boxed(rationale: str) -> int | None:
    found = re.findall(r"\\boxed\{(\d+)\}", rationale)
    return int(found[-1]) if found else None


def problems(count: int, level: int | None = None) -> list[Problem]:
    writer = ProblemWriter(random.Random(11))
    return [writer.draw(level or 1 + i % 4, SUBJECTS[i % len(SUBJECTS)]) for i in range(count)]


def test_a_right_rationale_is_the_exact_solution() -> None:
    teacher = Teacher(0, unboxed=0.0)
    for index, problem in enumerate(problems(100)):
        rationale = teacher.rationale(problem, index, 0)
        assert lines_of(rationale) == [(s.left, s.op, s.right, s.result) for s in problem.steps]
        assert boxed(rationale) == boxed(teacher.correct_solution(problem)) == problem.answer


@pytest.mark.parametrize(
    ("mistake", "step", "expected"),
    [
        (forget_carry, (14, "+", 27), {"31"}),
        (forget_carry, (41, "-", 9), {"42"}),
        (forget_carry, (285, "+", 147), {"422", "332"}),
        (forget_carry, (14, "+", 23), {None}),  # nothing to carry
        (forget_carry, (9, "+", 5), {None}),
        (forget_carry, (7, "*", 8), {None}),
        (wrong_table_entry, (7, "*", 8), {"49", "63", "48", "64"}),
        (wrong_table_entry, (56, "/", 8), {"6", "8"}),
        (wrong_table_entry, (14, "+", 23), {"36", "38"}),
        (wrong_operation, (14, "+", 9), {"5"}),
        (wrong_operation, (9, "+", 14), {None}),  # 9 - 14 is no whole number
        (wrong_operation, (7, "*", 8), {"15"}),
        (wrong_operation, (56, "/", 8), {"48"}),
        (misread_number, (10, "+", 27), {"82", "36", "38"}),
        (misread_number, (10, "+", 20), {"29", "31"}),
        (misread_number, (50, "/", 2), {"16"}),  # a divisor is not misread as 1; 50 / 3 is rounded down
        (leave_out, (7, "*", 8), {""}),
        (add_step, (30, "-", 8), {"22 14"}),
    ],
)
def test_each_mistake_gives_exactly_its_wrong_values(
    mistake: Mistake, step: tuple[int, str, int], expected: set[str | None]
) -> None:
    written = [mistake(random.Random(k), *step) for k in range(40)]
    assert {None if lines is None else " ".join(str(line.value) for line in lines) for lines in written} == expected


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_wrong_rationale_is_wrong_and_goes_on_with_its_own_value(kind: str) -> None:
    teacher = Teacher(5, TEACHERS[kind], unboxed=0.0)
    for index, problem in enumerate(problems(400)):
        rationale = teacher.rationale(problem, index, 1, rate=0.0)
        value = problem.steps[0].left
        for left, _, right, result in lines_of(rationale):
            assert value in (left, right)  # the right one if the teacher took the smaller from the larger
            assert result >= 0
            value = result
        assert boxed(rationale) == value != problem.answer


@pytest.mark.parametrize("further", [0.0, 0.5])
def test_further_is_the_share_of_other_steps_that_are_mistaken_too(further: float) -> None:
    teacher = Teacher(0, Kind({misread_number: 1.0}, further), unboxed=0.0)
    mistaken = []
    for index, problem in enumerate(problems(1000, 5)):
        lines = lines_of(teacher.rationale(problem, index, 0, rate=0.0))
        mistaken.append(sum(step.right not in line for line, step in zip(lines, problem.steps, strict=True)))
    assert sum(mistaken) / 1000 == pytest.approx(1 + 4 * further, abs=0.15)


def test_a_problem_without_a_wrong_answer_is_an_error() -> None:
    with pytest.raises(InputError, match=r"no wrong answer found to: .* has"):
        Teacher(0, Kind({leave_out: 1.0}, 0.0)).rationale(problems(1, 1)[0], 0, 0, rate=0.0)


def test_samples_depend_on_their_indices_alone() -> None:
    def drawn(seed: int, question: int) -> list[str]:
        return [Teacher(seed).rationale(problem, question, k, 0.5) for k in range(8)]

    problem, teacher = problems(3)[2], Teacher(1)
    assert drawn(1, 2) == [teacher.rationale(problem, 2, k, 0.5) for k in reversed(range(8))][::-1]
    assert len(set(drawn(1, 2))) > 1
    assert drawn(1, 2) not in (drawn(2, 2), drawn(1, 3))


def test_a_questions_rate_is_drawn_for_its_level() -> None:
    for number, level in LEVELS.items():
        rates = [Teacher(0).rate(problem, index) for index, problem in enumerate(problems(2000, number))]
        mean = level.a / (level.a + level.b)
        variance = mean * (1 - mean) / (level.a + level.b + 1)
        assert sum(rates) / 2000 == pytest.approx(mean, abs=0.03)
        assert sum((rate - mean) ** 2 for rate in rates) / 2000 == pytest.approx(variance, rel=0.15)


def test_about_one_in_77_has_no_box() -> None:
    teacher = Teacher(0)
    unboxed = sum(boxed(teacher.rationale(p, i, k)) is None for i, p in enumerate(problems(1000)) for k in range(8))
    assert 0.009 < unboxed / 8000 < 0.017


ENDINGS = dict.fromkeys(("Gains and Losses", "Comparisons"), r"[A-Z][a-z]+ has \\boxed\{\d+\} [a-z]+\.")
ENDINGS |= {"Sharing": r"Each friend gets \\boxed\{\d+\} [a-z]+\.", "Prices": r"It costs \\boxed\{\d+\} dollars\."}


@pytest.mark.parametrize(("subject", "ending"), ENDINGS.items())
def test_styles_all_occur_and_name_what_was_asked(subject: str, ending: str) -> None:
    teacher, problem = Teacher(0, unboxed=0.0), ProblemWriter(random.Random(2)).draw(2, subject)
    texts = [teacher.rationale(problem, 0, k) for k in range(40)]
    assert any(re.search(f"{ending}$", text) for text in texts)
    assert any(text.startswith("First, ") and ". Then, " in text and "So the answer is" in text for text in texts)
    assert any(text == teacher.correct_solution(problem) for text in texts)


@pytest.mark.parametrize(("unboxed", "notation"), [(1.2, 0.0), (0.0, 1.5), (0.0, -0.1)])
def test_rates_that_are_no_probabilities_are_refused(unboxed: float, notation: float) -> None:
    with pytest.raises(InputError, match="no probability"):
        Teacher(0, unboxed=unboxed, notation=notation)

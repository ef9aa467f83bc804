from dataclasses import replace

import pytest

from datamodules.components.grading.grader import StringGrader, grader_for
from tests.records import question


def test_verdicts_in_the_order_of_the_rationales() -> None:
    grader = StringGrader()
    pairs = [(r"\boxed{\frac12}", "0.5"), (r"\boxed{3}", "4"), ("no box", "4"), (r"\boxed{}", r"\boxed{}")]
    assert grader.grade_many([*pairs, (r"\boxed{3}", " ")]) == [
        ("positive", r"\frac12"),
        ("negative", "3"),
        ("negative", None),
        ("negative", ""),
        ("ungradable", "3"),
    ]
    assert grader.reasons == {"no gold answer": 1}


def test_by_value_grades_plain_numbers_right_and_the_paper_does_not() -> None:
    for answer in ("1,000", "1000.0", r"\$1{,}000", r"1000 \text{dollars}"):
        assert StringGrader(by_value=True).grade(rf"\boxed{{{answer}}}", "1000")[0] == "positive"
        assert StringGrader().grade(rf"\boxed{{{answer}}}", "1000")[0] == "negative"
    assert StringGrader(by_value=True).grade("#### 1001", "1000")[0] == "negative"


@pytest.mark.parametrize(("answer", "right"), [("(B)", True), ("B. 12", True), ("(C)", False), ("A B", False)])
def test_a_letter_is_a_choice(answer: str, right: bool) -> None:
    grade = StringGrader(by_value=True, stated=True).grade(f"The answer is {answer}.", "B")
    assert grade[0] == ("positive" if right else "negative")


@pytest.mark.parametrize(
    ("gold", "solution", "text", "verdict"),
    [
        ("18", "#### 18", "The answer is 18.0.", "positive"),
        ("18", r"So \boxed{18}.", "The answer is 18.", "negative"),  # the paper's format: no box, no answer
        ("18", r"So \boxed{18}.", r"\boxed{18.0}", "positive"),
        (r"\frac{1}{2}", r"So \boxed{\frac{1}{2}}.", r"\boxed{1/4+1/4}", "negative"),
    ],
)
def test_students_are_graded_as_their_teacher(gold: str, solution: str, text: str, verdict: str) -> None:
    assert grader_for([replace(question(0), gold=gold, solution=solution)]).grade(text, gold)[0] == verdict

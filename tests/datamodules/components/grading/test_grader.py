from __future__ import annotations

from datamodules.components.grading.grader import StringGrader


def test_verdicts() -> None:
    grader = StringGrader()
    assert grader.grade("\\boxed{\\frac12}", "0.5") == ("positive", "\\frac12")
    assert grader.grade("\\boxed{3}", "4") == ("negative", "3")
    assert grader.grade("no box", "4") == ("negative", None)
    assert grader.grade("\\boxed{}", "\\boxed{}") == ("negative", "")
    assert grader.grade("\\boxed{3}", " ") == ("ungradable", "3")
    assert grader.reasons == {"no gold answer": 1}


def test_by_value_grades_plain_numbers_right_and_the_paper_does_not() -> None:
    for answer in ("1,000", "1000.0", "\\$1{,}000", "1000 \\text{dollars}"):
        assert StringGrader(by_value=True).grade(f"\\boxed{{{answer}}}", "1000")[0] == "positive"
        assert StringGrader().grade(f"\\boxed{{{answer}}}", "1000")[0] == "negative"
    assert StringGrader(by_value=True).grade("#### 1001", "1000")[0] == "negative"


def test_many_keep_their_order() -> None:
    seen: list[int] = []
    grades = StringGrader().grade_many([("\\boxed{1}", "1"), ("", "1"), ("\\boxed{1}", "")], seen.append)
    assert [verdict for verdict, _ in grades] == ["positive", "negative", "ungradable"]
    assert sum(seen) == 3

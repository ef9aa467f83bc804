from pathlib import Path

import pytest

from datamodules.components.grading.guards import are_equal, as_asked, is_whole
from datamodules.components.grading.verifier import load_comparison

PAIRS = [
    line.split(" @ ")
    for line in Path(__file__).with_name("answer_pairs.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def test_every_pair_of_the_table_is_decided_as_mathematics() -> None:
    compare = load_comparison()
    wrong = []
    for gold, answer, equal, why in PAIRS:
        decided = are_equal(gold, answer)
        found = compare(gold, answer) == "equal" if decided is None else decided
        if found != (equal == "="):
            wrong.append((gold, answer, why))
    assert not wrong
    assert len(PAIRS) >= 250
    assert {equal for _, _, equal, _ in PAIRS} == {"=", "!"}


@pytest.mark.parametrize("pair", [("8:34 pm", "8:34 am"), ("6", "6 or 10"), ("2", "2 and a half"), ("52_8", "52_7")])
def test_what_algebra_is_not_asked_is_symmetric(pair: tuple[str, str]) -> None:
    assert are_equal(*pair) is are_equal(*reversed(pair)) is False


def test_answers_are_asked_in_one_notation() -> None:
    asked = [as_asked(text) for text in (r"x < 1 \text{ or } x \ge 3", "1 and 2", "3:4", r"4\sqrt(2)\text{ cm}")]
    assert asked == [r"(-\infty,1)\cup[3,\infty)", "1, 2", r"\frac{3}{4}", r"4\sqrt{2}"]


@pytest.mark.parametrize(
    ("text", "read", "whole"),
    [
        ("2+ab", "2", False),
        ("2+ab", "a*b + 2", True),
        (r"2^{\aleph_0+1}", "2", False),
        (r"\frac{4}{20}", "1/5", True),
        ("x=5+1", "1 + 5", True),
        ("5 cm", "5", True),
    ],
)
def test_a_parse_is_whole_if_it_lost_no_number_and_no_variable(text: str, read: str, whole: bool) -> None:
    class Expression:
        def __str__(self) -> str:
            return read

    assert is_whole(text, [Expression(), text]) is whole

"""Answers of equal value in the notations of people and models, and the gold answers of the published data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from datamodules.components.grading.answers import are_plain, canonical, plain_number
from datamodules.components.grading.grader import StringGrader
from datamodules.components.records.readers import read
from datamodules.components.records.records import Question

TEST_SETS = {"gsm8k-test": "gsm8k", "asdiv": "asdiv", "svamp": "svamp", "multiarith": "multiarith"}


@pytest.mark.parametrize(
    ("answers", "value"),
    [
        (
            [
                "12 km/h",
                "12\\text{ km/h}",
                "12 \\mathrm{cm}^2",
                "12 cm^{2}",
                "12 square feet",
                "12 apples.",
                "12°",
                "12\\,\\text{cm}",
                "12~\\text{apples}",
                "\\text{12 apples}",
                "x = 12 apples",
                "$12.00$",
                "**12**",
                "12 miles per hour",
                "\\$12.00",
                "€12",
                "£12.0",
                "12 percent",
                "12 %",
                "12\\,\\%",
                "n=12",
                "24/2",
                "\\frac{24}{2}",
                "\\frac{24}{2} cups",
                "+12",
                "12.",
                "12^\\circ",
                "the 12",
            ],
            "12",
        ),
        (
            [
                "1 1/2",
                "1\\frac{1}{2}",
                "1\\frac12",
                "3/2",
                "1.5",
                "1.50 cups",
                "1\\dfrac{1}{2} \\text{ cups}",
                "(3/2)",
                "\\frac{3}{2}",
                "\\frac{ 3 }{ 2 }",
            ],
            "3/2",
        ),
        (["-(1/3)", "-1/3", "-\\frac{1}{3}", "\\frac{-1}{3}", "\\frac{1}{-3}", "\u22121/3"], "-1/3"),
        (["-1 1/2", "-1\\frac{1}{2}", "-1.5", "the -1.5"], "-3/2"),
        (["0", "-0", "-0.00", "+0", "0\\%", "\\$0.00", "-\\frac{0}{5}", "0/7", "0 apples", "\u22120"], "0"),
        (["1,234,567", "1{,}234{,}567", "1\\,234\\,567", "1,\\!234,\\!567", "\\$1,234,567.00"], "1234567"),
        (["Alex", "alex", "\\text{Alex}", "ALEX.", "$\\text{alex}$"], "alex"),
        (["Mrs. Hilt", "\\text{Mrs. Hilt}", "mrs hilt"], "mrshilt"),
        (["The Cooper wedding", "Cooper Wedding", "\\text{the Cooper wedding}"], "cooperwedding"),
        (["3:30 p.m.", "3:30 PM", "3:30pm", "\\text{3:30 p.m.}"], "3:30pm"),
        (["6th", "\\text{6th}", "the 6th"], "6th"),
        (["10:3", "10 : 3"], "10:3"),
    ],
)
def test_equal(answers: list[str], value: str) -> None:
    assert {answer: canonical(answer) for answer in answers} == dict.fromkeys(answers, value)


def test_different() -> None:
    apart = [
        "6",
        "6th",
        "6:30",
        "6 p.m.",
        "6 a.m.",
        "-6",
        "6 million",
        "1.5 million",
        "15 million",
        "6 \\frac{3}{2}",
        "6/0",
        "6x",
        "6\\pi",
        "(6)(7)",
        "6 dozen",
        "Sam",
        "Samuel",
        "6^2",
        "6cm",
    ]
    assert len({canonical(answer) for answer in apart}) == len(apart)


def notations(gold: str) -> Iterator[str]:
    """Other ways to write a gold answer of one of the test sets: by what it is, not by how we read it."""
    yield gold
    yield rf"\text{{{gold}}}"
    yield f"${gold}$"
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", gold):
        whole, dot, decimals = gold.partition(".")
        yield f"{int(whole):,}{dot}{decimals}"
        yield f"{int(whole):,}{dot}{decimals}".replace(",", "{,}")
        yield f"\\${gold}{'00' if dot else '.00'}"
        yield from (
            f"{gold} apples",
            f"{gold}\\text{{ km/h}}",
            f"{gold}\\%",
            f"x = {gold}",
            f"{gold}.0" if not dot else "0" + gold,
        )
        value = Fraction(gold)
        yield rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
        yield f"{3 * value.numerator}/{3 * value.denominator}"
    elif ":" not in gold:
        yield from (gold.upper(), f"{gold}.") if gold.replace(" ", "").isalpha() else (gold.replace("/", " / "),)


@pytest.fixture(scope="module")
def questions(real_data: Path) -> dict[str, list[Question]]:
    return {
        name: [entry.question for entry in read(real_data / f"{name}.jsonl.xz", format)]
        for name, format in TEST_SETS.items()
    }


def test_every_gold_answer_of_the_test_sets_is_right_in_every_notation(questions: dict[str, list[Question]]) -> None:
    assert {name: len(own) for name, own in questions.items()} == {
        "gsm8k-test": 1319,
        "asdiv": 2215,
        "svamp": 1000,
        "multiarith": 600,
    }
    grader = StringGrader(by_value=True)
    for own in questions.values():
        assert are_plain(question.gold for question in own)
        for gold in {question.gold for question in own}:
            for answer in notations(gold):
                assert grader.grade(rf"So it is \boxed{{{answer}}}.", gold)[0] == "positive", (answer, gold)


def test_gold_answers_that_differ_do_not_pass_for_each_other(questions: dict[str, list[Question]]) -> None:
    golds = {question.gold for own in questions.values() for question in own}
    forms: dict[str, set[str]] = {}
    for gold in golds:
        number = plain_number(gold)
        value = Fraction(gold) if re.fullmatch(r"-?[0-9]+/[0-9]+", gold) else number and Fraction(number)
        forms.setdefault(canonical(gold), set()).add(str(value or gold))
    assert {form: own for form, own in forms.items() if len(own) > 1} == {}


def test_gold_answers_without_a_number_are_asdivs(questions: dict[str, list[Question]]) -> None:
    texts = {name: [q.gold for q in own if plain_number(q.gold) is None] for name, own in questions.items()}
    assert {name: len(own) for name, own in texts.items() if own} == {"asdiv": 131}
    assert {"Alex", "3:30 p.m.", "10:3", "5/2", "-(1/3)", "6th"} <= set(texts["asdiv"])

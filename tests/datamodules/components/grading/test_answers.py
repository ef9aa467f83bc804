"""Answers as text: the MATH convention, answers of equal value, and the gold answers of the published data sets."""

import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.components.grading.answers import are_plain, canonical, normalise, plain_number, string_equal
from datamodules.components.grading.extraction import extract_answer, gold_answer
from datamodules.components.grading.grader import StringGrader
from datamodules.components.records.records import Question
from dust2gold.prepare.readers import read


def listed(text: str, separator: str = " | ") -> list[str]:
    """The answers in one text."""
    return text.split(separator)


PIECES = listed(
    r"\frac|\dfrac|\sqrt|\text{ |\text{|\boxed|\boxed{|\fbox{|\left(|^\circ|\$|\%|{|}|0.5|.5|12|1"
    "|,|000|/|-|=|x| |$|\\\\|\\!|\n|####|\u2212|\xe9|the |Yes|p.m.| apples|1/2|x = |**",
    "|",
)
latex = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=20)


@pytest.mark.parametrize(
    ("form", "answers"),
    [
        (r"\frac{1}{2}", r"\dfrac{1}{2} | \tfrac12 | 1/2 | 0.5 | .5"),
        (r"\frac{1}{72}", r"\frac1{72}"),
        (r"\frac{-3}{4}", "-3/4"),
        ("0.25", ".25"),
        (r"\sqrt{3}", r"\sqrt3 | \sqrt{3}"),
        (r"(3,\frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"),
        ("90", r"90^\circ | 90^{\circ}"),
        ("5", r"\$5 | 5 \text{ or } 6 | x = 5"),
        ("50", r"50\%"),
        ("12", r"12\text{ cm}"),
        ("7", "k=7"),
        ("1,000", r"1,\!000"),
        (r"1\2", r"1 \\ 2"),
        *[(kept, kept) for kept in (r"\frac{1}2", "a/b", "01/2", "abc=7", "x=y=1", r"\frac", r"\sqrt", "")],
    ],
)
def test_normalise_by_the_math_convention(form: str, answers: str) -> None:
    assert {answer: normalise(answer) for answer in listed(answers)} == dict.fromkeys(listed(answers), form)


def test_string_equality_is_the_papers_not_better() -> None:
    assert string_equal(r"\dfrac{3}{4}", r"\frac34")
    assert string_equal(r"\text{ a}\text{ b}", r"\text{ a}\text{ b}")
    for right, gold in [("1{,}000", "1000"), ("1,000", "1000"), ("331.00", "331"), ("8!", "40320"), ("9", r"\boxed 9")]:
        assert not string_equal(right, gold)


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        (
            "1000",
            r"1,000 | 1000 | 1000.0 | 1{,}000 | 1,\!000 | 1\,000 | \$1,000 | $1000$ | 1000 apples | 1000."
            r" | 1000\text{ cm} | 1000\% | 1000% | +1000 | x = 1000 | 01000",
        ),
        ("1/2", r"\frac{2}{4} | 0.5 | .50 | 1/2 | \frac12 | \dfrac{-3}{-6}"),
        ("-1/2", "-0.5 | -1/2 | -\\frac{1}{2} | \\frac{-1}{2} | \u22120.5"),
        ("yes", r"\text{Yes} | Yes | \textbf{Yes} | yes. | YES"),
        ("9", r"\boxed 9 | 9"),
        (
            "12",
            r"12 km/h | 12\text{ km/h} | 12 \mathrm{cm}^2 | 12 cm^{2} | 12 square feet | 12 apples."
            " | 12\xb0 | 12\\,\\text{cm} | 12~\\text{apples} | \\text{12 apples} | x = 12 apples | $12.00$"
            " | **12** | 12 miles per hour | \\$12.00 | \u20ac12 | \xa312.0 | 12 percent | 12 % | 12\\,\\%"
            r" | n=12 | 24/2 | \frac{24}{2} | \frac{24}{2} cups | +12 | 12. | 12^\circ | the 12",
        ),
        (
            "3/2",
            r"1 1/2 | 1\frac{1}{2} | 1\frac12 | 3/2 | 1.5 | 1.50 cups | 1\dfrac{1}{2} \text{ cups} | (3/2)"
            r" | \frac{3}{2} | \frac{ 3 }{ 2 }",
        ),
        ("-1/3", "-(1/3) | -1/3 | -\\frac{1}{3} | \\frac{-1}{3} | \\frac{1}{-3} | \u22121/3"),
        ("-3/2", r"-1 1/2 | -1\frac{1}{2} | -1.5 | the -1.5"),
        ("0", "0 | -0 | -0.0 | -0.00 | +0 | 0\\% | \\$0.00 | -\\frac{0}{5} | 0/7 | 0 apples | \u22120"),
        ("1234567", r"1,234,567 | 1{,}234{,}567 | 1\,234\,567 | 1,\!234,\!567 | \$1,234,567.00"),
        ("alex", r"Alex | alex | \text{Alex} | ALEX. | $\text{alex}$"),
        ("mrshilt", r"Mrs. Hilt | \text{Mrs. Hilt} | mrs hilt"),
        ("cooperwedding", r"The Cooper wedding | Cooper Wedding | \text{the Cooper wedding}"),
        ("3:30pm", r"3:30 p.m. | 3:30 PM | 3:30pm | \text{3:30 p.m.}"),
        ("6th", r"6th | \text{6th} | the 6th"),
        ("10:3", "10:3 | 10 : 3"),
    ],
)
def test_answers_of_equal_value_pool(value: str, answers: str) -> None:
    assert {answer: canonical(answer) for answer in listed(answers)} == dict.fromkeys(listed(answers), value)


@pytest.mark.parametrize(
    "apart",
    [
        r"2 | 2x | 2\pi | 2 million | (1,2) | 12,34 | 1.2.3 | 6:10 | 6 p.m. | \frac{2}{0} | 1/3 | 0.333",
        r"6 | 6th | 6:30 | 6 p.m. | 6 a.m. | -6 | 6 million | 1.5 million | 15 million | 6 \frac{3}{2}"
        r" | 6/0 | 6x | 6\pi | (6)(7) | 6 dozen | Sam | Samuel | 6^2 | 6cm",
    ],
)
def test_answers_of_other_value_do_not_pool(apart: str) -> None:
    assert len({canonical(answer) for answer in listed(apart)}) == len(listed(apart))


@settings(deadline=None)
@given(st.fractions(), st.integers(1, 9), st.integers(-(10**12), 10**12))
def test_canonical_is_the_value_of_a_number_in_any_dress(value: Fraction, factor: int, integer: int) -> None:
    assert canonical(f"\\frac{{{value.numerator * factor}}}{{{value.denominator * factor}}}") == str(value)
    assert {canonical(f"{integer:,}"), canonical(f"{integer}.0"), canonical(f"${integer}")} == {str(integer)}


@settings(deadline=None)
@given(latex)
@example("{" * 290 + "}" * 290)
@example("\\" * 300)
@example("t" * 290 + "frac12")
@example("the 0.5")
@example("the -5")
def test_canonical_is_idempotent(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@settings(deadline=None)
@given(latex, latex)
def test_nothing_raises_and_equality_is_an_equivalence(left: str, right: str) -> None:
    for function in (extract_answer, gold_answer, plain_number):
        function(left)
    assert string_equal(left, left)
    assert string_equal(left, right) == string_equal(right, left)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="{}", codec="utf-8"), max_size=20), latex)
def test_the_last_box_wins(answer: str, before: str) -> None:
    assert extract_answer(f"{before}\\boxed{{{answer}x}}") == f"{answer}x".strip()


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" + "{" * 10_000,
        r"\boxed{" + "{" * 10_000 + "}" * 10_001,
        r"\boxed{" + "1" * 1_000_000 + "}",
        r"\boxed " + r"\frac" * 200_000,
        r"\boxed{" * 100_000,
        "####" * 200_000,
        r"\boxed{" + "1," * 300_000 + "}",
        r"\boxed{" + r"\sqrt1" * 100_000 + "}",
        r"\boxed{1" + " " * 500_000 + "x}",
    ],
    ids=range(9),
)
def test_hostile_texts_are_graded_fast(text: str) -> None:
    start = time.process_time()
    for by_value in (False, True):
        StringGrader(by_value).grade(text, "2")
    canonical(extract_answer(text) or text)
    assert time.process_time() - start < 1.0


TINY = "0." + "0" * 280 + "1"


def test_plain_numbers() -> None:
    written = {"1,080": "1080", "145.0": "145", ".50": "0.5", "-2.50": "-2.5", "$0.05": "0.05", "10": "10", TINY: TINY}
    written |= {"100.00": "100", "9 apples": "9", "3.5 cm^2": "3.5", r"0.25\text{ ft}^2": "0.25"}
    assert {text: plain_number(text) for text in written} == written
    assert not any(map(plain_number, ["", "Yes", "5/2", "nan", "1e5", r"\frac{1}{2}"]))
    assert are_plain(["1,000", "Yes", "5:45"])
    assert not are_plain(["1000", r"\frac{1}{2}"])


def notations(gold: str) -> Iterator[str]:
    """Other ways to write a gold answer of one of the test sets: by what it is, not by how we read it."""
    yield from (gold, rf"\text{{{gold}}}", f"${gold}$")
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", gold):
        whole, dot, decimals = gold.partition(".")
        grouped = f"{int(whole):,}{dot}{decimals}"
        yield from (grouped, grouped.replace(",", "{,}"), f"\\${gold}{'00' if dot else '.00'}")
        yield from (f"{gold} apples", rf"{gold}\text{{ km/h}}", rf"{gold}\%", f"x = {gold}")
        yield "0" + gold if dot else f"{gold}.0"
        value = Fraction(gold)
        yield rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
        yield f"{3 * value.numerator}/{3 * value.denominator}"
    elif ":" not in gold:
        yield from (gold.upper(), f"{gold}.") if gold.replace(" ", "").isalpha() else (gold.replace("/", " / "),)


@pytest.fixture(scope="module")
def questions(real_data: Path) -> dict[str, list[Question]]:
    """The paper's test sets of plain numbers."""
    formats = {"gsm8k-test": "gsm8k", "asdiv": "asdiv", "svamp": "svamp", "multiarith": "multiarith"}
    files = {name: read(real_data / f"{name}.jsonl.xz", format) for name, format in formats.items()}
    return {name: [entry.question for entry in entries] for name, entries in files.items()}


def test_every_gold_answer_of_the_test_sets_is_right_in_every_notation(questions: dict[str, list[Question]]) -> None:
    counts = {"gsm8k-test": 1319, "asdiv": 2215, "svamp": 1000, "multiarith": 600}
    assert {name: len(own) for name, own in questions.items()} == counts
    grader = StringGrader(by_value=True)
    for own in questions.values():
        assert are_plain(question.gold for question in own)
        for gold in {question.gold for question in own}:
            for answer in notations(gold):
                assert grader.grade(rf"So it is \boxed{{{answer}}}.", gold)[0] == "positive", (answer, gold)


def test_gold_answers_that_differ_do_not_pass_for_each_other(questions: dict[str, list[Question]]) -> None:
    forms: dict[str, set[str]] = {}
    for gold in {question.gold for own in questions.values() for question in own}:
        number = plain_number(gold)
        value = Fraction(gold) if re.fullmatch(r"-?[0-9]+/[0-9]+", gold) else number and Fraction(number)
        forms.setdefault(canonical(gold), set()).add(str(value or gold))
    assert {form: own for form, own in forms.items() if len(own) > 1} == {}


def test_gold_answers_without_a_number_are_asdivs(questions: dict[str, list[Question]]) -> None:
    texts = {name: [q.gold for q in own if plain_number(q.gold) is None] for name, own in questions.items()}
    assert {name: len(own) for name, own in texts.items() if own} == {"asdiv": 131}
    assert {"Alex", "3:30 p.m.", "10:3", "5/2", "-(1/3)", "6th"} <= set(texts["asdiv"])

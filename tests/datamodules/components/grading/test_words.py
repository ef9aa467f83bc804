"""Words against formulas, in `canonical` and in what math-verify parses."""

import random
from collections.abc import Mapping

import pytest

from datamodules.components.grading.answers import canonical
from datamodules.components.grading.semantic import SemanticGrader

LETTERS = "abcdmnpqrstxyz"
Term = tuple[int, str]  # coefficient, letters of the product


def polynomial(rng: random.Random) -> list[Term]:
    letters = rng.sample(LETTERS, 4)
    return [
        (rng.choice([-12, -3, -1, 1, 2, 4, 12]), "".join(rng.choices(letters, k=rng.randint(0, 3))))
        for _ in range(rng.randint(1, 3))
    ]


def written(terms: list[Term], between: str, within: str) -> str:
    text = ""
    for factor, letters in terms:
        sign = "-" if factor < 0 else "+"
        number = "" if abs(factor) == 1 and letters else str(abs(factor))
        text += f"{between}{sign}{between}" if text else sign.strip("+")
        text += within.join([number, *letters]).strip()
    return text


def value(terms: list[Term], at: Mapping[str, int]) -> int:
    total = 0
    for factor, letters in terms:
        for letter in letters:
            factor *= at[letter]
        total += factor
    return total


def test_polynomials_of_one_canonical_form_are_equal_at_random_points() -> None:
    rng = random.Random(0)
    at = {letter: rng.randint(2, 10**9) for letter in LETTERS}
    seen: dict[str, tuple[int, str]] = {}
    for _ in range(50_000):
        terms = polynomial(rng)
        text = written(terms, rng.choice(["", " "]), rng.choice(["", " "]))
        other = seen.setdefault(canonical(text), (value(terms, at), text))
        assert other[0] == value(terms, at), (text, other[1])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("12 - xy", "12xy"),
        ("-ab", "ab"),
        ("4ad - 3bc", "4ad3bc"),
        ("a - bc", "bc"),
        ("a bc", "bc"),
        ("12 xy", "12"),
        ("5 am", "5 pm"),
        ("5 am", "5"),
        ("x-axis", "xaxis"),
    ],
)
def test_formulas_keep_their_signs_and_letters(left: str, right: str) -> None:
    assert canonical(left) != canonical(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("No solution", "no solution."),
        ("twenty-one", "twenty one"),
        ("a dog", "dog"),
        ("3 red balls", "3"),
        ("12 km/h", "12"),
        (r"\frac{2469}{20,\!000}", "0.12345"),
        ("2,000/3", r"\frac{2000}{3}"),
    ],
)
def test_words_units_and_separators_still_pool(left: str, right: str) -> None:
    assert canonical(left) == canonical(right)


def test_an_answer_of_which_math_verify_loses_letters_is_wrong() -> None:
    pairs = [
        ("2", "2 + ab"),
        ("2", "14 - 12ab"),
        ("3", "3 + d"),
        ("5", "5ab"),
        ("2", "y = 2"),
        ("[-2,7]", r"x \in [-2,7]"),
    ]
    grader = SemanticGrader(workers=1)
    try:
        grades = grader.grade_many([(rf"\boxed{{{answer}}}", gold) for gold, answer in pairs])
    finally:
        grader.close()
    assert [verdict for verdict, _ in grades] == ["negative"] * 4 + ["positive"] * 2

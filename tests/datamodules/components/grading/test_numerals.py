from fractions import Fraction

import pytest

from datamodules.components.grading.numerals import is_unit, spoken_value

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
TENS = {20: "twenty", 30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 70: "seventy", 80: "eighty", 90: "ninety"}


def spelled(number: int) -> str:
    """The English words of 0 to 999,999, written independently of the reader."""
    if number >= 1000:
        rest = f" {spelled(number % 1000)}" if number % 1000 else ""
        return f"{spelled(number // 1000)} thousand{rest}"
    if number >= 100:
        return f"{spelled(number // 100)} hundred" + (f" and {spelled(number % 100)}" if number % 100 else "")
    if number >= 20:
        return TENS[number - number % 10] + (f"-{spelled(number % 10)}" if number % 10 else "")
    return ONES[number] if number < 17 else {17: "seventeen", 18: "eighteen", 19: "nineteen"}[number]


def test_spelled_numbers_are_read_back() -> None:
    for number in [*range(1000), *range(1000, 1_000_000, 7919)]:
        assert spoken_value(spelled(number)) == number, spelled(number)
        assert spoken_value(f"minus {spelled(number)}") == -number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 and a half", Fraction(5, 2)),
        ("one and three quarters", Fraction(7, 4)),
        ("3 halves", Fraction(3, 2)),
        ("two-thirds", Fraction(2, 3)),
        ("half", Fraction(1, 2)),
        ("1.5 million", 1_500_000),
        ("a dozen", 12),
        ("five apples left", 5),
        *[
            (text, None)
            for text in ("third", "one or two", "five six", "twenty ten", "five x", "5", "no", "one-to-one")
        ],
    ],
)
def test_parts_multipliers_and_units(text: str, value: Fraction | None) -> None:
    assert spoken_value(text) == value


def test_units_change_no_number() -> None:
    assert is_unit(["miles", "per", "hour"])
    assert is_unit(["cm"])
    for words in (["and", "a", "half"], ["halves"], ["squared"], ["pm"], ["thousand"], ["plus", "x"]):
        assert not is_unit(words)

"""Numbers in words ("seventy-two", "2 and a half", "1.5 million"), and the units that may follow a number."""

from __future__ import annotations

import re
from fractions import Fraction

_ONES = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
"""
_ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {
    **{word: value for value, word in enumerate(_ONES.split())},
    **{word: 10 * value for value, word in enumerate(_TENS.split(), start=2)},
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {word: value for value, word in enumerate(_ORDINALS.split(), start=3)} | {"half": 2, "halve": 2, "quarter": 4}
_SIGNS = ("minus", "negative")
_NUMBER_WORDS = _SMALL.keys() | _SCALES.keys() | {"hundred", "dozen"}
_DIGITS = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_OPERATIONS = """
    above am and at base below by cubed divided either factorial fewer from infinity into less least minus mod modulo
    more most neither noon nor not or out over pi plus pm remainder score sqrt squared than then to under
"""
_NO_UNIT = {*_NUMBER_WORDS, *_PARTS, *(f"{part}s" for part in _PARTS), *_OPERATIONS.split()}
"""Words that change the number before them, or say that it is not the whole answer."""


def spoken_value(text: str) -> Fraction | None:
    """The value of a number in words, or in digits and words, a unit after it or not; None for anything else."""
    tokens = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text.casefold().strip().rstrip(".")).split()
    sign = -1 if tokens and tokens[0] in _SIGNS else 1
    tokens = tokens[1:] if sign < 0 else tokens
    for end in range(len(tokens), 0, -1):
        value = _with_part(tokens[:end])
        if value is not None:
            alone = end == 1 and _DIGITS.fullmatch(tokens[0])  # a number in digits alone is not for here to read
            return None if alone or (end < len(tokens) and not is_unit(tokens[end:])) else sign * value
    return None


def is_unit(words: list[str], letters: bool = False) -> bool:
    r"""Whether words after a number may be its unit, or what it counts: "cm", "miles per hour", "apples left".

    A single letter is a unit if `letters`, as in `\text{ m}`; in plain text it is a variable.
    """
    lower = [word.casefold().replace(".", "") for word in words]  # "p.m."
    return not any(word in _NO_UNIT or (len(word) == 1 and word != "a" and not letters) for word in lower)


def _with_part(tokens: list[str]) -> Fraction | None:
    """A number that may end in a part: "two thirds", "half", "2 and a half", "three quarters"."""
    part = _PARTS.get(tokens[-1].removesuffix("s"))
    if part is None:
        return _number(tokens)
    before = tokens[:-1]
    if "and" in before:
        cut = before.index("and")
        whole, before = _number(before[:cut]), before[cut + 1 :]
        if whole is None or not before:
            return None
    else:
        whole = Fraction(0)
        if not before and part != 2:  # "third" is an ordinal
            return None
    count = Fraction(1) if before in ([], ["a"], ["an"]) else _number(before)
    return None if count is None else whole + count / part


def _number(tokens: list[str]) -> Fraction | None:
    """A number without parts: "105", "one hundred and five", "1.5 million", "a dozen"."""
    total, group, room = Fraction(0), None, Fraction(10**15)  # what comes next must be below `room`
    scale = 10**15
    for place, token in enumerate(tokens):
        if token == "and" and 0 < place < len(tokens) - 1 and room > 10:
            continue
        if place == 0 and (_DIGITS.fullmatch(token) or token in ("a", "an")):
            group, room = Fraction(token.replace(",", "") if token[0].isdigit() else 1), Fraction(0)
            if len(tokens) == 1 and not token[0].isdigit():
                return None
        elif token in _SMALL and _SMALL[token] < room:
            group = (group or Fraction(0)) + _SMALL[token]
            room = Fraction(10 if _SMALL[token] >= 20 else 0)
        elif token == "hundred" and group is not None and group < 100:
            group, room = group * 100, Fraction(100)
        elif token == "dozen" and group is not None and place == len(tokens) - 1:
            group = group * 12
        elif token in _SCALES and group is not None and _SCALES[token] < scale:
            scale = _SCALES[token]
            total, group, room = total + group * scale, None, Fraction(scale)
        else:
            return None
    return total + group if group is not None else (total or None)

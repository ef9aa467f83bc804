r"""What is decided before math-verify is asked, and which of its parses are not to be believed.

math-verify's parser stops at the first thing that it does not understand, and takes what it has read so far for the
whole: `2^{\aleph_0+1}` for 2, `5 am` for 5, `52_7` for 52; it adds numbers with a blank between them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from datamodules.components.grading.answers import canonical
from datamodules.components.grading.notation import in_base, readable, spelled_out, without_unit
from datamodules.components.grading.words import are_words, variables

GUARDS = 2
"""Version of what is decided here, for verdicts that are kept: raise it with every change."""

_RATIONAL = re.compile(r"-?[0-9]+(?:/[0-9]+)?")
_PERCENT = re.compile(r"%|percent", re.IGNORECASE)
_DOTS = re.compile(r"\\[lcv]?dots[bcmio]?(?![A-Za-z])|\.\.\.|\u2026")
_TWO_NUMBERS = re.compile(r"(?<![_^0-9.])[0-9]+(?:\s|\\[ ,]|~|\\q?quad)+[0-9]")  # `\log_2 8` has one
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_EVALUATED = re.compile(
    r"\\(?:[cdt]?frac|binom)\s*(?:\{\s*[0-9]+\s*\}|[0-9])\s*(?:\{\s*[0-9]+\s*\}|[0-9])|[0-9]+/[0-9]+|(?<![0-9.])1(?![0-9.])"
)
"""What sympy evaluates at once, or drops: `\\frac{4}{20}` becomes 1/5, `1x` x."""
_SEPARATOR = re.compile(r"\{,\}|,\\!|(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_RATIO = re.compile(r"\s*([0-9]+)\s*:\s*([0-9]+)\s*")
_LISTED = re.compile(r"\s*(?:,\s*)?(?:\\(?:text|mbox)\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")


def as_asked(answer: str) -> str:
    r"""An answer as math-verify reads it best: one notation, no unit, `1 and 2` as the list `1, 2`, `3:4` as `3/4`."""
    return _as_asked(readable(answer))


def _as_asked(text: str) -> str:
    text = without_unit(text)
    ratio = _RATIO.fullmatch(text)
    return rf"\frac{{{ratio[1]}}}{{{ratio[2]}}}" if ratio else _LISTED.sub(", ", text)


def are_equal(gold: str, answer: str) -> bool | None:
    r"""Whether two answers are equal, as far as it can be said without algebra; None: ask math-verify.

    A number without a base is read in the other's: `52_8` and `52` are equal, `52_8` and `52_7` are not.
    """
    forms = canonical(gold), canonical(answer)
    if forms[0] == forms[1]:  # also "12 apples", in which math-verify reads a product of letters
        return True
    read = readable(gold), readable(answer)
    bases = [in_base(text) for text in read]
    if any(bases):
        numbers = [base or (form.upper(), None) for base, form in zip(bases, forms, strict=True)]
        return numbers[0][0] == numbers[1][0] and None in (numbers[0][1], numbers[1][1])
    plain = [bool(_RATIONAL.fullmatch(form)) for form in forms]
    if all(plain) and not _PERCENT.search(gold + answer):  # 50% may be 50 or 1/2
        return False
    listed = [_LISTED.search(text) is not None for text in read]
    asked = [_as_asked(text) for text in read]
    braces = [text.startswith("\\{") for text in asked]
    points = [text.startswith("(") and text.endswith(")") for text in asked]
    set_and_point = (braces[0] and points[1]) or (braces[1] and points[0])
    one_and_list = (plain[0] and listed[1]) or (plain[1] and listed[0])
    words, dots = any(are_words(spelled_out(text)) for text in asked), any(map(_DOTS.search, asked))
    return False if words or dots or set_and_point or one_and_list or _TWO_NUMBERS.search(asked[1]) else None


def is_whole(text: str, expressions: Sequence[Any], known: str = "") -> bool:
    r"""Whether a parse holds every number and variable of a text's last side, but for the variables of `known`.

    Args:
        text: What was parsed, as `as_asked` gives it.
        expressions: What math-verify made of it: sympy's expressions, unevaluated, and texts where it gave up.
        known: A text whose variables may be missing.
    """
    side = text.rpartition("=")[2]
    read = " ".join(str(each) for each in [e for e in expressions if not isinstance(e, str)] or expressions)
    numbers = {float(number) for number in _NUMBER.findall(read)}
    written = _EVALUATED.sub(" ", _SEPARATOR.sub("", side))
    lost = {float(number) for number in _NUMBER.findall(written)} - numbers
    return not lost and not variables(side) - set(read.casefold()) - variables(known)

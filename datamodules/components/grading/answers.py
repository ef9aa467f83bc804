r"""Answers as text: when two are the same.

Three notions of "the same", from the paper's own to the most lenient that needs no algebra:

- `string_equal`: the MATH convention (Hendrycks et al. 2021), which made the paper's labels: equal after `normalise`.
- `canonical`: equal in value as far as plain numbers and simple fractions go, so that "1,000", "1000" and "1000.0" pool
  their votes, and "\frac{2}{4}" and "0.5" do.
- math-verify, in `semantic.py`: equal as mathematics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Context, Decimal, localcontext
from fractions import Fraction

from datamodules.components.grading.notation import in_base, readable, spelled_out, without_unit
from datamodules.components.grading.numerals import is_unit, spoken_value
from datamodules.components.grading.words import are_words, folded, is_word

LONGEST_ANSWER = 300
"""Longer answers (characters) are no numbers and not worth algebra: they are compared as they stand."""


# The MATH convention. The order of the steps is part of it.

_DELETED = ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")
_SLASH = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")


def string_equal(answer: str, gold: str) -> bool:
    """Whether two answers are equal by the MATH convention, the comparison that made the paper's labels.

    A text that the convention cannot bring to its normal form equals only itself.
    """
    left, right = _normal_form(answer), _normal_form(gold)
    return answer == gold if left is None or right is None else left == right


def normalise(answer: str) -> str:
    r"""The answer in the MATH convention's normal form, or as it stands where it has none.

    Layout commands, degree signs, `\$` and `\%` go; so do blanks, a unit in `\text{ ...}` and a head such as `x =`;
    `.5` gets its zero, `\frac12`, `\sqrt3` and `1/2` their braces. One decimal is known: 0.5 is `\frac{1}{2}`.
    """
    form = _normal_form(answer)
    return answer if form is None else form


def _normal_form(text: str) -> str | None:
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    for command in _DELETED:
        text = text.replace(command, "")
    if text.count("\\text{ ") > 1:
        return None
    text = text.split("\\text{ ")[0]
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = "0" + text
    head, sign, rest = text.partition("=")
    if sign and "=" not in rest and len(head) <= 2:
        text = rest
    rooted = _with_root_braces(text)
    braced = None if rooted is None else _with_fraction_braces(rooted.replace(" ", ""))
    if braced is None:
        return None
    if braced == "0.5":
        return "\\frac{1}{2}"
    return _SLASH.sub(r"\\frac{\1}{\2}", braced) if _SLASH.fullmatch(braced) else braced


def _with_root_braces(text: str) -> str | None:
    r"""`\sqrt3` as `\sqrt{3}`; None where nothing follows a root."""
    head, *parts = text.split("\\sqrt")
    if not all(parts):
        return None
    return head + "".join("\\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}") for part in parts)


def _with_fraction_braces(text: str) -> str | None:
    r"""`\frac12`, `\frac1{2}` as `\frac{1}{2}`; as it stands if one character follows `\frac`, None if nothing does."""
    head, *parts = text.split("\\frac")
    pieces = [head]
    for part in parts:
        if not part:
            return None
        if part[0] == "{":
            pieces.append(part)
        elif len(part) == 1:
            return text
        else:
            denominator = "{" if part[1] == "{" else f"{{{part[1]}}}"
            pieces.append(f"{{{part[0]}}}{denominator}{part[2:]}")
    return "\\frac".join(pieces)


# Equality in value.

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]*)?"
_NUMBER = re.compile(rf"([-+]?)[$€£]?([-+]?)({_DIGITS})%?")
_INTEGER = r"(-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+))"
_FRACTION = re.compile(rf"(-?)(?:([0-9]+)\s*)??\\[dt]?frac\{{\s*{_INTEGER}\s*\}}\{{\s*{_INTEGER}\s*\}}")
_RATIO = re.compile(rf"(-?)\(?(?:([0-9]+)(?: and)? +)?{_INTEGER}/{_INTEGER}\)?")
_REPEATING = re.compile(r"(-?)([0-9]*)\.([0-9]*)\\overline\{?([0-9]+)\}?")
_SCIENTIFIC = re.compile(
    r"(?:(-?[0-9]+(?:\.[0-9]+)?) *\\(?:times|cdot) *)?10\^\{?(-?[0-9]{1,2})\}?"
    r"|(-?[0-9]+(?:\.[0-9]+)?)[eE]([-+]?[0-9]{1,2})"
)
_SEPARATOR = re.compile(r"\{,\}|\\,|\\!|,\\!|\\ |~")
_UNIT = re.compile(
    r"(?<=[0-9.})])(?:\s*\\(?:text|mathrm|mbox)\{\s*([A-Za-z /]+)\}|\s+([A-Za-z]{2,}(?:[ /][A-Za-z]+)*))"
    r"(?:\^\{?[23]\}?)?\.?$"
)
_HEAD = re.compile(r"[A-Za-z]{1,2}\s*=\s*(?=[^=]*$)")
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{([^{}]*)\}")


def canonical(answer: str) -> str:
    r"""A form that answers of equal value share, for votes to be pooled by and for data sets of plain numbers.

    Plain numbers (thousands separators, a currency sign, a percent sign or a unit, trailing zeros, negative zero),
    fractions of integers and mixed numbers become exact rationals: "1,000", "1000.0" and "1000 apples" give "1000";
    "\frac{2}{4}" and "0.5" give "1/2"; so do numbers in words ("two dozen" is "24") and repeating decimals. A percent
    sign is dropped, as the MATH convention does: "50\%" is "50". Styles and colours are dropped, an inequality of one
    variable is its interval ("x \le 3" is "(-\infty,3]"), a number keeps its base ("52_{8}" is "52_8"). Words lose
    their case, their first article and their punctuation: "\text{Yes}" and "yes." are "yes", "3:30 p.m." is "3:30pm".
    Everything else is brought to the MATH convention's normal form. Idempotent.
    """
    text = answer.strip()
    if len(text) > LONGEST_ANSWER:
        return text
    text = _unwrapped(readable(text))
    value = _written_value(text)
    while value is None and not are_words(text) and (shorter := _unwrapped(_reduced(text))) != text:
        text = shorter
        value = _written_value(text)
    if value is not None:
        return str(value)
    if (number := in_base(text)) is not None:
        return "_".join(number)
    short = folded(text) if are_words(text) else text
    return text if short == text else canonical(short)  # again, for "the 6" is a number


def _reduced(text: str) -> str:
    r"""The MATH convention's normal form, which takes any `\text{ ...}` for a unit: here only units go."""
    words = spelled_out(text)
    text = words if "\\text" in text and are_words(words) else without_unit(text)
    text = re.sub(r"(?<=[0-9]),\s+(?=[0-9]{3}(?![0-9]))", ";", text)  # "1, 200" is no number
    return normalise(text.replace("\\text{ ", "\\text{"))


def same_value(answer: str, gold: str) -> bool:
    """Whether two answers have one `canonical` form."""
    return canonical(answer) == canonical(gold)


def _unwrapped(text: str) -> str:
    r"""Without `$...$`, `**...**`, the box that `gold_answer` may keep, a `\text{}` around the whole, a head `x =`."""
    text = text.strip()
    for mark in ("$", "**"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)].strip()
    text = text.removeprefix("\\boxed ").strip()
    wrapper = _WRAPPER.fullmatch(text)
    text = wrapper[1].strip() if wrapper else text
    head = _HEAD.match(text)
    return text[head.end() :] if head else text


def _value(text: str) -> Fraction | None:
    """The exact value of a plain number, a fraction of integers or a mixed number; None for anything else."""
    text = _SEPARATOR.sub(lambda mark: "," if "," in mark[0] and mark[0] != "\\," else "", text.replace("\u2212", "-"))
    unit = _UNIT.search(text)
    if unit:
        words = re.split("[ /]+", re.sub("/[hls]$", "", (unit[1] or unit[2]).strip()))  # "km/h", "g/l", "m/s"
        if is_unit(words, bool(unit[1])) and (unit[1] or any(map(is_word, words))):
            text = text[: unit.start()]
    fraction = _FRACTION.fullmatch(text) or _RATIO.fullmatch(text)
    if fraction:
        return _fraction(*fraction.groups())
    number = _NUMBER.fullmatch(text.replace("\\$", "$").replace("\\%", "%").replace("\u00b0", ""))
    if not number or (number[1] and number[2]) or not any(character.isdigit() for character in number[3]):
        return None
    return Fraction(number[1] + number[2] + number[3].replace(",", "").rstrip("."))


def _written_value(text: str) -> Fraction | None:
    r"""As `_value`, and of numbers written as `2 \times 10^3`, `1e5`, `0.1\overline{6}` or in words."""
    value = _value(text)
    if value is not None:
        return value
    if (power := _SCIENTIFIC.fullmatch(text)) is not None:
        return Fraction(power[1] or power[3] or 1) * Fraction(10) ** int(power[2] or power[4])
    if (digits := _REPEATING.fullmatch(text)) is not None:
        sign, whole, fixed, period = digits.groups()
        repeated = int(whole + fixed + period) - int("0" + whole + fixed)
        return int(sign + "1") * Fraction(repeated, (10 ** len(period) - 1) * 10 ** len(fixed))
    return spoken_value(spelled_out(text))


def _fraction(sign: str, whole: str | None, over: str, under: str) -> Fraction | None:
    """`sign (whole + over/under)`; None if there is no such number, or a whole is followed by no proper fraction."""
    above, below = int(over.replace(",", "")), int(under.replace(",", ""))
    if below == 0 or (whole is not None and not 0 <= above < below):
        return None
    return int(sign + "1") * (int(whole or 0) + Fraction(above, below))


def plain_number(text: str) -> str | None:
    """A plain number without decoration ("1,080" and "1080.0" are "1080", ".50" is "0.5"); None for anything else."""
    fraction = "\\frac" in text or "/" in text
    value = _value(text.strip()) if len(text) <= LONGEST_ANSWER and not fraction else None
    if value is None or value.denominator == 1:
        return None if value is None else str(value)
    with localcontext(Context(prec=LONGEST_ANSWER)):  # exact: it was written in fewer digits
        return f"{Decimal(value.numerator) / value.denominator:f}"


def are_plain(golds: Iterable[str]) -> bool:
    """Whether a data set's gold answers are plain numbers and words, to be compared by value: none holds LaTeX.

    The rule for a whole data set, never for one question: MATH's gold answer "1000" looks like GSM8K's, but MATH's
    labels are defined by strings ("1,000" is wrong there, in the paper's counts), GSM8K's by value.
    """
    return not any("\\" in gold for gold in golds)

r"""Closed forms: numbers, fractions, roots, π, variables, and tuples of them, told apart by value, without algebra.

`\frac{3}{4}` and `2\sqrt{3}` differ, and so do `x^2 - 1` and `x^2 + x`: floating-point numbers show it in microseconds
(variables get a value each), where math-verify needs milliseconds. Only "they differ" is ever settled here, and only
where math-verify could not say otherwise: the grammar leaves out whatever it reads in a way of its own (mixed numbers,
thousands separators, units, `e`, function calls, `2^10`, …).

    form   := scalar ["^\circ"] | ("(" | "[") scalar ("," scalar)+ (")" | "]") | matrix
    matrix := "\begin{pmatrix}" scalar ("&" scalar)* ("\\" scalar ("&" scalar)*)* "\end{pmatrix}"
    scalar := ["-"] "\infty" | ["-"] digits "/" digits | sum
    sum    := ["-"] product (("+" | "-") product)*
    product:= factor (["\cdot" | "\times"] factor)*     without a sign only π, roots, variables, and what holds them
    factor := base ["^" (digit | "{" ["-"] digits "}")]
    base   := number | letter | "i" (once, at no power, outside of braces) | "\pi"
            | "\frac" (group group | digit digit) | "\sqrt" ["[" digit "]"] group | "(" sum ")"
    group  := "{" sum "}" | digit
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

Form = tuple[float, ...]
"""The values of a tuple's elements; of a scalar the only one."""

_LONGEST = 80  # characters; longer ones are rare
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?![0-9.]))
    | \\(?P<command>[dt]?frac|sqrt|pi|cdot|times|infty)(?![a-zA-Z])
    | (?P<letter>[abiknpqruvwxyz])
    | (?P<sign>[-+^{}(),/\[\]])
    )""",
    re.VERBOSE,
)
_SIZED = re.compile(r"\\left\s*(?=[(\[])|\\right\s*(?=[)\]])")
_AMBIGUOUS = re.compile(r"[0-9],[0-9]{3}(?![0-9])")  # a tuple, or a number of thousands
_VARIABLES: dict[str, float] = {letter: 0.71 + 0.1234567 * index**1.1 for index, letter in enumerate("abknpqruvwxyzi")}
_DEGREES = re.compile(r"\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*$")
_MATRIX = re.compile(r"\s*\\begin\{([pb]matrix)\}((?:(?!\\begin|\\end).)+)\\end\{\1\}\s*$")


def certainly_differ(left: str, right: str) -> bool:
    """Whether both answers are closed forms whose values differ by more than any tolerance of math-verify's.

    Args:
        left: LaTeX.
        right: LaTeX.

    Returns:
        False also where that cannot be told.
    """
    one, other = closed_form(left), closed_form(right)
    if one is not None and other is not None:
        return _any_apart(one, other)
    some, others = matrix_form(left), matrix_form(right)
    same_shape = some is not None and others is not None and list(map(len, some)) == list(map(len, others))
    return same_shape and any(map(_any_apart, some or (), others or ()))


def _any_apart(one: Form, other: Form) -> bool:
    return len(one) != len(other) or any(_apart(a, b) for a, b in zip(one, other, strict=True))


def _apart(a: float, b: float) -> bool:
    if math.isinf(a) or math.isinf(b):
        return a != b
    return abs(a - b) > 1e-5 + 1e-9 * max(abs(a), abs(b))


@lru_cache(maxsize=1 << 14)
def closed_form(text: str) -> Form | None:
    """The value of a closed form, or its elements' values; None for anything else, and where there is no real value."""
    if len(text) > _LONGEST or _AMBIGUOUS.search(text):
        return None
    try:
        reader = _Reader(_SIZED.sub("", _DEGREES.sub("", text)))
        form = reader.form()
        reader.expect("")
    except (ValueError, ArithmeticError):
        return None
    return form


@lru_cache(maxsize=1 << 12)
def matrix_form(text: str) -> tuple[Form, ...] | None:
    """The values of a matrix of closed forms, row by row; None for anything else."""
    found = _MATRIX.match(text)
    if found is None:
        return None
    rows = [[closed_form(cell) for cell in row.split("&")] for row in found[2].split("\\\\")]
    values = tuple(tuple(cell[0] for cell in row if cell is not None and len(cell) == 1) for row in rows)
    whole = all(len(row) == len(rows[0]) == len(form) for row, form in zip(rows, values, strict=True))
    return values if whole else None


class _Reader:
    """Recursive descent over the grammar above; raises ValueError at whatever is outside it."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at = 0
        text = text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ValueError(text[at:])
            self._tokens.append(found["number"] or found["command"] or found["letter"] or found["sign"])
            at = found.end()
        self._at = 0
        self._refuse_words()
        self._refuse_powers_of_i()
        self._tokens += ["", "", ""]

    def _refuse_words(self) -> None:
        """Three letters in a row may be a word, two at the end a unit ("3yr")."""
        letters = "".join("x" if token in _VARIABLES else " " for token in self._tokens)
        if "xxx" in letters or letters.endswith("xx"):
            raise ValueError("words")

    def _refuse_powers_of_i(self) -> None:
        """What is linear in i differs whether i is a variable, as for math-verify, or the imaginary unit."""
        if "i" not in self._tokens:
            return
        before = self._tokens[: self._tokens.index("i")]
        if self._tokens.count("i") > 1 or "^" in self._tokens or before.count("{") > before.count("}"):
            raise ValueError("a power of i, perhaps")

    @property
    def next(self) -> str:
        return self._tokens[self._at]

    def take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def takes(self, token: str) -> bool:
        if self.next != token:
            return False
        self._at += 1
        return True

    def expect(self, *tokens: str) -> None:
        if self.next not in tokens:
            raise ValueError(self.next)
        self._at += 1

    def form(self) -> Form:
        if self.next not in ("(", "["):
            return (self.scalar(),)
        opening = self.take()
        elements = [self.scalar()]
        while self.takes(","):
            elements.append(self.scalar())
        if len(elements) == 1:  # a scalar that begins with a parenthesis
            self._at = 0
            return (self.scalar(),)
        half_open = opening + self.next in ("(]", "[)")
        self.expect(")", "]")
        if not _VARIABLES.keys().isdisjoint(self._tokens):
            raise ValueError("an interval with variables")
        if not _apart(elements[0], elements[1]) or (half_open and elements[0] > elements[1]):
            raise ValueError("an empty interval, equal to all others, or a set of one number")
        return tuple(elements)

    def scalar(self) -> float:
        if "infty" in self._tokens[self._at : self._at + 2]:
            sign = -math.inf if self.takes("-") else math.inf
            self.expect("infty")
            return sign
        start = self._at + (self.next == "-")
        if self._tokens[start + 1 : start + 2] == ["/"]:
            sign = -1.0 if self.takes("-") else 1.0
            return sign * self.ratio()
        return self.sum()

    def ratio(self) -> float:
        numerator, slash, denominator = self.take(), self.take(), self.take()
        if not numerator.isdigit() or not denominator.isdigit() or self.next not in ("", ",", ")", "]"):
            raise ValueError(f"{numerator}{slash}{denominator}: 1/2x may be read in two ways")
        return int(numerator) / int(denominator)

    def sum(self) -> float:
        value = -self.product() if self.takes("-") else self.product()
        while self.next in ("+", "-"):
            value += self.product() if self.take() == "+" else -self.product()
        return value

    def product(self) -> float:
        value = self.factor()
        while True:
            if self.next in ("cdot", "times"):
                self.take()
                value *= self.factor()
            elif self.next in _VARIABLES or self.next in ("pi", "sqrt", "(") or self.next in _FRACTIONS:
                start = self._at
                value *= self.factor()
                if _IRRATIONAL.isdisjoint(self._tokens[start : self._at]):
                    raise ValueError("a mixed number, perhaps: math-verify reads -7(7) as -14")
            else:
                return value

    def factor(self) -> float:
        is_letter = self.next in _VARIABLES
        value = self.base()
        if self.takes("^"):
            value = float(value ** self.exponent())
        if is_letter and self.next == "(":
            raise ValueError("a function call")
        return value

    def exponent(self) -> int:
        if not self.takes("{"):
            return self.digit()
        value = -self.digits() if self.takes("-") else self.digits()
        self.expect("}")
        return value

    def base(self) -> float:
        token = self.take()
        if token[:1].isdigit():
            return float(token)
        if token in _VARIABLES:
            return _VARIABLES[token]
        if token == "pi":
            return math.pi
        if token in _FRACTIONS:
            return self.fraction()
        if token == "sqrt":
            return self.root()
        if token != "(":
            raise ValueError(token)
        value = self.sum()
        self.expect(")")
        return value

    def fraction(self) -> float:
        if self.next.isdigit() and len(self.next) == 2:  # \frac12
            digits = self.take()
            return int(digits[0]) / int(digits[1])
        return self.group() / self.group()

    def root(self) -> float:
        degree = 2
        if self.takes("["):
            degree = self.digit()
            self.expect("]")
        value = self.group()
        if value < 1e-9 or degree < 2:
            raise ValueError("no real root, or perhaps none")
        return float(value ** (1 / degree))

    def group(self) -> float:
        if not self.takes("{"):
            return self.digit()
        value = self.sum()
        self.expect("}")
        return value

    def digit(self) -> int:
        if len(self.next) != 1:
            raise ValueError(self.next)
        return self.digits()

    def digits(self) -> int:
        token = self.take()
        if not token.isdigit() or len(token) > 2:
            raise ValueError(token)
        return int(token)


_FRACTIONS = ("frac", "dfrac", "tfrac")
_IRRATIONAL = {"pi", "sqrt", *_VARIABLES}

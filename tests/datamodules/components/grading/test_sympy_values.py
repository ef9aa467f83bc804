from __future__ import annotations

import pytest
import sympy  # type: ignore[import-untyped]
from math_verify import parse, verify  # type: ignore[import-untyped]

from datamodules.components.grading.sympy_values import Values, apart, values_of

EQUAL = [
    ("x(x+1)", "x^2 + x"),
    ("\\frac{1}{\\sqrt5}", "\\frac{\\sqrt5}{5}"),
    ("\\sin^2 x", "1 - \\cos^2 x"),
    ("8!", "40320"),
    ("\\left(\\frac12, y, 3\\right)", "(0.5, y, \\sqrt{9})"),
    ("2^{-1000}", "0"),
    ("\\begin{pmatrix} \\frac12 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 0.5 \\\\ \\sqrt{4} \\end{pmatrix}"),
    ("\\log_2 8", "3"),
]
DIFFERENT = [
    ("\\sin x", "\\cos x"),
    ("2^{200}", "2^{201}"),
    ("\\tan \\theta", "\\theta"),
    ("(1, x, 2)", "(x, 1, 2)"),
    ("\\binom{5}{2}", "9"),
    ("\\begin{pmatrix} x \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} y \\\\ 2 \\end{pmatrix}"),
]
UNTOLD = [("\\{1, 2\\}", "\\{2, 1\\}"), ("x = 5", "5"), ("[1, 2]", "[1, 3]"), ("(1, 2)", "3"), ("x > 1", "x > 2")]


def values(latex: str) -> Values | None:
    return values_of(parse(f"${latex}$")[0])


@pytest.mark.parametrize(("left", "right"), EQUAL)
def test_equal_expressions_are_not_apart(left: str, right: str) -> None:
    assert values(left) is not None
    assert not apart(values(left), values(right))


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_different_expressions_are_apart_and_math_verify_agrees(left: str, right: str) -> None:
    assert apart(values(left), values(right))
    assert not verify(parse(f"${left}$"), parse(f"${right}$"))


@pytest.mark.parametrize(("left", "right"), UNTOLD)
def test_what_is_no_number_is_left_to_math_verify(left: str, right: str) -> None:
    assert not apart(values(left), values(right))


def test_what_sympy_cannot_evaluate_has_no_values() -> None:
    assert values_of(sympy.zoo) is None
    assert values_of(sympy.Function("f")(2)) is None
    assert values_of(sympy.MatMul(2, sympy.MatrixSymbol("A", 2, 2))) is None
    assert values_of("text") is None

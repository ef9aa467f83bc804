"""Closed forms read LaTeX as math-verify does: a form has the value of math-verify's expression."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.components.grading.answers import extract_answer
from datamodules.components.grading.closed_forms import _VARIABLES, certainly_differ, closed_form, matrix_form
from datamodules.components.records.readers import read

SCALARS = [
    ("7", 7),
    ("-12.50", -12.5),
    ("\\frac{3}{4}", 0.75),
    ("\\dfrac34", 0.75),
    ("-\\frac{1}{\\sqrt{2}}", -(0.5**0.5)),
    ("2\\sqrt3", 2 * 3**0.5),
    ("\\sqrt[3]{2}", 2 ** (1 / 3)),
    ("2^{10}", 1024),
    ("3^2\\cdot 5", 45),
    ("2^{-1}", 0.5),
    ("-2^2", -4),
    ("4\\pi - 1", 4 * math.pi - 1),
    ("\\left(1 + \\sqrt{5}\\right)^2", (1 + 5**0.5) ** 2),
    ("-\\infty", -math.inf),
    ("2(3+\\pi)", 6 + 2 * math.pi),
    ("1/2", 0.5),
    ("-11/15", -11 / 15),
    ("126.87^{\\circ}", 126.87),
    ("-60^\\circ", -60),
    ("3 - 2i", 3 - 2 * _VARIABLES["i"]),
]
REFUSED = [
    "",
    "1,000",
    "(1,000)",
    "12,345",
    "1\\frac{1}{2}",
    "2^10",
    "5!",
    "50\\%",
    "e",
    "A",
    "3yr",
    "f(x)",
    "x(2)",
    "and",
    "\\text{Yes}",
    "1,2",
    "\\{1,2\\}",
    "(x,2)",
    "(1,2)\\cup(3,4)",
    "--1",
    "1 2",
    "\\sqrt{-1}",
    "\\frac{1}{0}",
    "\\frac{1}{2}3",
    "(2)(3)",
    "-7(7)",
    "-0.5\\frac{1}{2}",
    "[1,1]",
    "0^{-1}",
    "(1",
    "1" * 90,
    "9^{99999}",
    "{" * 70,
    "1/2x",
    "1/2/3",
    "1/0",
    "(60^\\circ,30)",
    "i^2",
    "2i - 3i",
    "(1+i)^2",
    "\\frac{1}{i}",
    "(" * 80,
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars(text: str, value: float) -> None:
    assert closed_form(text) == pytest.approx([value])


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_read_in_other_ways_is_left_to_math_verify(text: str) -> None:
    assert closed_form(text) is None
    assert not certainly_differ(text, "7")


def test_tuples_and_intervals() -> None:
    assert closed_form("\\left( -\\infty, \\frac{1}{2} \\right]") == (-math.inf, 0.5)
    assert certainly_differ("(1,2)", "(2,1)")
    assert certainly_differ("(1,2)", "(1,2,3)")
    assert certainly_differ("(1,2)", "3")
    assert not certainly_differ("(1,2)", "[1,2]")  # equal values settle nothing


def test_equal_values_settle_nothing() -> None:
    for left, right in [("1", "1.0"), ("0.333333", "\\frac13"), ("x^2 - 1", "-1 + x^2"), ("xy", "yx")]:
        assert not certainly_differ(left, right)
    assert certainly_differ("x^2 - 1", "x^2 + 1")
    assert certainly_differ("0.333", "\\frac13")
    assert not certainly_differ("(3,2]", "(5,4]")  # both empty


def test_matrices_of_one_shape_are_told_apart() -> None:
    one = "\\begin{pmatrix} 1/4 & \\frac{\\sqrt{3}}{2} \\\\ -2 & 0 \\end{pmatrix}"
    assert [pytest.approx(row) for row in matrix_form(one) or ()] == [(0.25, 3**0.5 / 2), (-2, 0)]
    assert certainly_differ(one, one.replace("-2", "-3"))
    assert not certainly_differ(one, one.replace("1/4", "0.25"))
    assert not certainly_differ(one, "7")
    assert not certainly_differ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 & 3 \\end{pmatrix}")
    for text in [
        "\\begin{pmatrix} 1 & 2 \\\\ 3 \\end{pmatrix}",
        "\\begin{pmatrix} x! \\end{pmatrix}",
        "2\\begin{pmatrix} 1 \\end{pmatrix}",
        "\\begin{vmatrix} 1 \\end{vmatrix}",
        "\\begin{pmatrix} 1 \\end{bmatrix}",
        "\\begin{pmatrix}\\end{pmatrix}",
    ]:
        assert matrix_form(text) is None, text


numbers = st.sampled_from(["0", "1", "2", "7", "9", "12", "305", "0.5", "3.14", "2.0"])
leaves = numbers | st.sampled_from(["\\pi", "x", "y", "n", "xy", "\\sqrt2", "\\sqrt{4}", "\\frac12", "\\frac{3}{4}"])


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.tuples(inner, inner)
    return (
        two.map(lambda pair: f"\\frac{{{pair[0]}}}{{{pair[1]}}}")
        | two.map(lambda pair: f"{pair[0]} + {pair[1]}")
        | two.map(lambda pair: f"{pair[0]}-{pair[1]}")
        | two.map(lambda pair: f"{pair[0]}\\cdot {pair[1]}")
        | two.map(lambda pair: f"{pair[0]}{pair[1]}")
        | inner.map(lambda one: f"\\sqrt{{{one}}}")
        | inner.map(lambda one: f"\\left({one}\\right)")
        | inner.map(lambda one: f"-{one}")
        | st.tuples(inner, st.sampled_from(["2", "{2}", "{-1}", "{12}", "3"])).map(lambda pair: "^".join(pair))
    )


scalars = st.recursive(leaves, compound, max_leaves=5)
whole = scalars | st.sampled_from(["17", "0.5", "\\sqrt2", "\\frac{1}{3}"]).map(lambda one: one + "^\\circ")
whole |= st.tuples(scalars, scalars).map(lambda parts: f"{parts[0]} + {parts[1]}i")
whole |= st.tuples(st.integers(-99, 99), st.integers(1, 99)).map(lambda parts: "{}/{}".format(*parts))
tuples = st.lists(scalars | st.just("-\\infty"), min_size=2, max_size=3).map(lambda parts: f"({', '.join(parts)})")
FEW = settings(deadline=None, max_examples=100, derandomize=True)


@FEW
@given(whole | tuples)
@example("(3, 2)")
@example("[5,1]")
@example("3x")
@example("2 - k")
@example("x^2(1+x)")
@example("\\frac{1}{2}\\pi")
def test_generated_forms_have_math_verifys_values(text: str) -> None:
    form = closed_form(text)
    if form is not None:
        assert form == pytest.approx(values_by_math_verify(text), rel=1e-9, abs=1e-9)


@FEW
@given(st.lists(whole, min_size=4, max_size=4))
def test_generated_matrices_have_math_verifys_values(cells: list[str]) -> None:
    text = "\\begin{{pmatrix}} {} & {} \\\\ {} & {} \\end{{pmatrix}}".format(*cells)
    form = matrix_form(text)
    if form is not None:
        values = [value for row in form for value in row]
        assert values == pytest.approx(values_by_math_verify(text), rel=1e-9, abs=1e-9)


@pytest.mark.slow
def test_real_answers_have_math_verifys_values(real_data: Path) -> None:
    file = real_data / "gpt-3.5-turbo-math-train.jsonl.xz"
    texts = {extract_answer(r.rationale) or "" for _, rationales in read(file, "tdg") for r in rationales}
    forms = sorted(text for text in texts if closed_form(text) is not None)
    assert len(forms) > 8000
    for text in random.Random(0).sample(forms, 1500):
        assert closed_form(text) == pytest.approx(values_by_math_verify(text), rel=1e-9, abs=1e-9), text


def values_by_math_verify(text: str) -> list[float]:
    import sympy  # type: ignore[import-untyped]
    from math_verify import parse  # type: ignore[import-untyped]

    found: Any = parse(f"${text}$", parsing_timeout=None)[0]
    if isinstance(found, sympy.Interval):
        parts = [found.start, found.end]
    else:
        parts = list(found.args) if isinstance(found, sympy.Tuple) else [found]
    if isinstance(found, sympy.MatrixBase):
        parts = list(found)
    known = {symbol: _VARIABLES[symbol.name] for part in parts for symbol in part.free_symbols}
    return [float(part.subs(known).doit().evalf()) for part in parts]

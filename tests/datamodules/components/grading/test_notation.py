import pytest

from datamodules.components.grading.notation import in_base, readable, without_unit


@pytest.mark.parametrize(
    ("text", "one_notation"),
    [
        (r"\mathbf{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"x^\mathbf{12}", "x^{12}"),
        (r"\frac{1}{\boldsymbol{2}}", r"\frac{1}{2}"),
        (r"{\color{red} 5} ", "5"),
        (r"\textcolor[rgb]{1,0,0}{5}+1", "5+1"),
        (r"$\displaystyle \big(1,2\big)$", "(1,2)"),
        (r"4\sqrt(1+(2))", r"4\sqrt{1+(2)}"),
        (r"sqrt(3", r"\sqrt{3}"),
        ("2pi", r"2\pi"),
        ("2\u00bd", r"2\frac{1}{2}"),
        ("x\u00b2", "x^{2}"),
        (r"1 < x \le 3", "(1,3]"),
        ("3 > y", r"(-\infty,3)"),
        (r"5 \geq x \geq -1", "[-1,5]"),
        *[
            (text, text)
            for text in ("a < b", "x < y + 1", "x = 3", "1 < x > 3", "x < 1, y < 2", "spiral", r"\{1,2\}", "")
        ],
    ],
)
def test_readable_brings_to_one_notation_and_stays_there(text: str, one_notation: str) -> None:
    assert readable(text) == one_notation
    assert readable(one_notation) == one_notation


def test_units_go_and_other_words_stay() -> None:
    assert without_unit(r"5\text{ cm}^2") == "5"
    assert without_unit(r"30\text{ km/h}") == "30"
    assert without_unit(r"5\text{ or more}") == r"5\text{ or more}"


def test_bases() -> None:
    bases = [in_base(text) for text in ("52_8", "1a_{16}", r"52_{\text{eight}}", "x_1", "52")]
    assert bases == [("52", "8"), ("1A", "16"), ("52", "8"), None, None]

from __future__ import annotations

from dust2gold.core.text import escape
from dust2gold.report.markdown import table


def test_table_is_aligned() -> None:
    assert table(["m", "x"], [["longer", "1"], ["a", "22.5"]]) == [
        "| m      |    x |",
        "| ------ | ---: |",
        "| longer |    1 |",
        "| a      | 22.5 |",
    ]


def test_escape_leaves_plain_text() -> None:
    assert escape("C&P gpt-3.5 50%") == "C&P gpt-3.5 50%"
    assert escape("&lt; &#60;") == r"\&lt; \&\#60;"

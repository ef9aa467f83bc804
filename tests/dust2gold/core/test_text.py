import unicodedata

import pytest

from dust2gold.core.errors import InputError
from dust2gold.core.text import code, code_block, escape, spelled, visible

EVIL = "a\x1b[31m\r\nb\u202e\u2028\x9b31m\x00"


def unseen(text: str) -> set[str]:
    return {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")}


def test_nothing_unseen_is_left() -> None:
    assert visible(EVIL) == "a [31m b 31m"
    assert spelled(EVIL) == r"a\x1b[31m\r\nb\u202e\u2028\x9b31m\x00"
    assert unseen(escape(EVIL)) == unseen(code(EVIL)) == set()
    assert escape("C&P gpt-3.5 50% &lt; &#60;") == r"C&P gpt-3.5 50% \&lt; \&\#60;"
    assert visible("naïve Ωμέγα 数学 😀") == spelled("naïve Ωμέγα 数学 😀") == "naïve Ωμέγα 数学 😀"


def test_an_error_is_two_lines_whatever_it_quotes() -> None:
    said = str(InputError(f"'{EVIL}'", file=f"{EVIL}.jsonl", line=3, field=EVIL, remedy=f"mend {EVIL}"))
    assert len(said.splitlines()) == 2
    assert unseen(said) == {"\n"}
    assert r"a\x1b[31m\r\nb\u202e\u2028\x9b31m\x00.jsonl:3" in said


@pytest.mark.parametrize("text", ["plain", "`", "a``b", "``` x", "` ` ```` `"])
def test_code_is_not_left_by_backticks(text: str) -> None:
    """CommonMark: a run of backticks is closed by the next run of the same length, and one blank at each end goes."""
    span = code(text)
    fence = span[: len(span) - len(span.lstrip("`"))]
    inside = span[len(fence) : -len(fence)]
    assert all(run != fence for run in inside.replace(" ", "\n").split())
    assert inside.removeprefix(" ").removesuffix(" ") == visible(text)
    first, *lines, last = code_block(f"x\n{text}\ny", "yaml")
    assert first == f"{last}yaml"
    assert len(last) >= 3
    assert not any(line.strip().startswith(last) for line in "\n".join(lines).split("\n"))

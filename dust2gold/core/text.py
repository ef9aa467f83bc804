"""Text of others made safe to show: no control sequences for a terminal, no markup for Markdown, no end of line."""

from __future__ import annotations

import re
import unicodedata
from typing import TextIO

_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Unicode's categories of characters that draw nothing: controls (ESC among them), formats (direction), separators."""

# An ampersand is markup only where it opens an entity such as &lt; or &#60;
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$]|&(?=#?\w+;))")


def visible(text: str) -> str:
    """Returns text on one line, blanks in the place of control and formatting characters."""
    shown = "".join(" " if unicodedata.category(char) in _UNSEEN else char for char in text)
    return " ".join(shown.split())


def spelled(text: str) -> str:
    r"""Returns text on one line, control and formatting characters spelled out, as `\x1b`: what to mend can be seen."""
    return "".join(ascii(char)[1:-1] if unicodedata.category(char) in _UNSEEN else char for char in text)


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line, by default on standard output, control and formatting characters spelled out."""
    print(spelled(text), file=stream, flush=True)


def escape(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line: no markup, HTML, control or formatting characters."""
    return _MARKUP.sub(r"\\\1", visible(text))


def code(text: str) -> str:
    """Returns text as a Markdown code span, on one line: where backticks are in it, between longer runs of them."""
    shown = visible(text)
    fence = "`" * (_longest_run(shown) + 1)
    return f"{fence} {shown} {fence}" if len(fence) > 1 else f"{fence}{shown}{fence}"


def code_block(text: str, language: str) -> list[str]:
    """Returns the lines of a fenced Markdown code block that nothing in the text can end."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return [f"{fence}{language}", text, fence]


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)

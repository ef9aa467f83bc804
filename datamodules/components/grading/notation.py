r"""One notation for what people write in several: styles and colours, Unicode, `sqrt(2)`, `pi`, inequalities.

Nothing here changes what a text means: `\color{red}{5}` is 5, `1 < x \le 3` is `(1,3]`, `4\sqrt(2)` is `4\sqrt{2}`.
"""

from __future__ import annotations

import re
import unicodedata

from datamodules.components.grading.numerals import is_unit, spoken_value
from datamodules.components.grading.words import variables

_UNICODE = {
    "\u2212": "-",
    "\u221a": "\\sqrt ",
    "\u03c0": "\\pi ",
    "\u221e": "\\infty ",
    "\u2264": "\\le ",
    "\u2265": "\\ge ",
    "\u2260": "\\ne ",
    "\u00d7": "\\times ",
    "\u00b7": "\\cdot ",
    "\u00b0": "^\\circ ",
    "\u222a": "\\cup ",
    "\u2205": "\\emptyset ",
    "\u2208": "\\in ",
}
_SUPERSCRIPTS = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
_VULGAR_FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_SIZES = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|it|rm|limits"
    r"|[bB]igg?[lrm]?)(?![A-Za-z])\s*|\\[;:]|\\!(?=:)|(?<=:)\\!"
)
_STYLE = re.compile(
    r"(\\(?:math(?:bf|it|sf|tt|normal)|text(?:bf|it|rm|sf|tt)|boldsymbol|bm|pmb|emph|underline|boxed|fbox)\s*"
    r"|\\(?:text)?color(?:box)?\s*(?:\[[^\]]*\]\s*)?\{[^{}]*\}\s*)"
)
_NEEDS_BRACES = re.compile(r"(?:[\^_]|\\[A-Za-z]+|\\[dt]?frac\s*\{[^{}]*\})\s*$")
_MARKS = (("$$", "$$"), ("$", "$"), ("**", "**"), ("`", "`"), ("\\(", "\\)"), ("\\[", "\\]"), ("{", "}"))
_ROOT = re.compile(r"(?<![A-Za-z\\])\\?sqrt\s*(?=\()|\\sqrt\s+(?=[0-9A-Za-z])|(?<![A-Za-z\\])sqrt(?=[0-9])")
_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")
_INFINITY = re.compile(r"(?<![A-Za-z\\])(?:infinity|\\text\{\s*infinity\s*\})(?![A-Za-z])", re.IGNORECASE)
_TEXT_UNIT = re.compile(r"(?<=\S)\s*\\(?:text|mathrm|mbox|textnormal)\{\s*([A-Za-z /.]+?)\s*\}(?:\^\{?[23]\}?)?\.?$")
_TEXT = re.compile(r"\\(?:text|mbox|textnormal)\{([^{}]*)\}")
_BASE = re.compile(r"([0-9A-Za-z]*[0-9][0-9A-Za-z]*)_(?:\{?([0-9]+)\}?|\{?\\(?:text|mathrm)\{\s*([a-z]+)\s*\}\}?)")

_RELATION = re.compile(r"(<=|>=|<|>|\\(?:leqslant|leq|le|lt|geqslant|geq|ge|gt)(?![A-Za-z]))")
_OR = re.compile(r"\s*(?:,?\s*\\(?:text|mbox)\{\s*,?\s*or\s*\}|,?\s+or\s+|\\lor(?![A-Za-z])|\\vee(?![A-Za-z]))\s*")
_VARIABLE = re.compile(r"[A-Za-z]|\\(?:alpha|beta|theta|lambda|mu)")
_LIES_IN = re.compile(r"[A-Za-z]\s*\\in\s*(?=[(\[\\])")


def readable(text: str) -> str:
    """An answer without styles, in LaTeX's own words, an inequality of one variable as an interval."""
    for sign, latex in _UNICODE.items():
        text = text.replace(sign, latex)
    text = _SUPERSCRIPTS.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found[0])}}}", text)
    text = _VULGAR_FRACTION.sub(
        lambda found: "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", found[0]).split("\u2044")), text
    )
    text = _without_marks(_without_styles(_SIZES.sub("", text)).strip())
    text = _INFINITY.sub(r"\\infty", _PI.sub(r"\\pi", _with_braced_roots(text)))
    text = text.replace("\\varnothing", "\\emptyset").replace("\\langle", "(").replace("\\rangle", ")")
    return _as_intervals(_LIES_IN.sub("", text, count=1))


def without_unit(text: str) -> str:
    r"""A text without a unit in `\text{ }` at its end, as the MATH convention drops it; other words stay."""
    unit = _TEXT_UNIT.search(text)
    return text[: unit.start()] if unit and is_unit(re.split("[ /]+", re.sub("/[hls]$", "", unit[1])), True) else text


def spelled_out(text: str) -> str:
    r"""A text with what stands in `\text{ }` as plain words."""
    return " ".join(_TEXT.sub(r" \1 ", text).split())


def in_base(text: str) -> tuple[str, str] | None:
    r"""Digits and base of a number such as `52_8`, `1A_{16}` or `52_{\text{eight}}`; None for anything else."""
    found = _BASE.fullmatch(text.strip())
    if found is None:
        return None
    base = found[2] or spoken_value(found[3])
    return None if base is None else (found[1].upper(), str(base))


def _without_styles(text: str) -> str:
    """Without commands of style and colour; their argument keeps its braces where the command before it needs them."""
    while (style := _STYLE.search(text)) is not None:
        before, after = text[: style.start()], text[style.end() :]
        end = _closing(after, "{", "}")
        if end is not None and not _NEEDS_BRACES.search(before):
            after = after[1:end] + after[end + 1 :]
        text = before + after
    return text


def _without_marks(text: str) -> str:
    for opening, closing in _MARKS * 2:
        inner = text[len(opening) : -len(closing)]
        whole = len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing)
        if whole and opening not in inner and closing not in inner:
            text = inner.strip()
    return text


def _with_braced_roots(text: str) -> str:
    r"""`\sqrt(2)`, `sqrt(2)` and `\sqrt 2` with braces."""
    position = 0
    while (root := _ROOT.search(text, position)) is not None:
        rest = text[root.end() :]
        end = _closing(rest, "(", ")")
        if rest.startswith("("):
            inner, rest = (rest[1:], "") if end is None else (rest[1:end], rest[end + 1 :])
        else:
            number = re.match(r"[0-9]+|[A-Za-z]", rest)
            inner, rest = (number[0], rest[number.end() :]) if number else ("", rest)
        head = f"{text[: root.start()]}\\sqrt{{"
        text, position = f"{head}{inner}}}{rest}", len(head)
    return text


def _closing(text: str, opening: str, closing: str) -> int | None:
    """Where the bracket that a text begins with is closed; None if it does not begin with one, or it never closes."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == opening) - (character == closing)
        if depth == 0:
            return place if character == closing else None
    return None


def _as_intervals(text: str) -> str:
    r"""`x < 1 \text{ or } x \ge 3` as `(-\infty,1)\cup[3,\infty)`; a text that is no inequality as it is."""
    intervals = [_interval(part) for part in _OR.split(text)]
    return text if None in intervals else "\\cup".join(each for each in intervals if each)


def _interval(text: str) -> str | None:
    """The interval of an inequality such as `3 > x` or `1 < x <= 3`; None for anything else."""
    parts = [part.strip() for part in _RELATION.split(text)]
    ends, relations = parts[::2], parts[1::2]
    if len(ends) == 2:  # the other end lies at infinity
        ends, relations = (["", *ends] if _VARIABLE.fullmatch(ends[0]) else [*ends, ""]), relations * 2
    less = {relation.startswith(("<", "\\l")) for relation in relations}
    if len(ends) != 3 or len(less) != 1 or not _VARIABLE.fullmatch(ends[1]):
        return None
    if less == {False}:
        ends, relations = ends[::-1], relations[::-1]
    low, _, high = ends
    if any(variables(end) or re.search(r"[=,]|\\text", end) for end in (low, high)):
        return None
    included = [relation.endswith("=") or relation.startswith(("\\le", "\\ge")) for relation in relations]
    opening, closing = "[" if low and included[0] else "(", "]" if high and included[1] else ")"
    return f"{opening}{low or '-∞'},{high or '∞'}{closing}".replace("∞", "\\infty")

r"""Words against formulas: "no solution" may lose its blanks and its case, "a bc" and "12 - xy" may not.

Answers come without saying which they are. What is no word for certain is taken for a formula.
"""

from __future__ import annotations

import re

_ARTICLE = re.compile(r"(?:the|(an?)) (?=([^ ]+))")
_NUMERAL = re.compile(r"[-+]?[0-9][0-9:.,]*(?:st|nd|rd|th|[ap]\.?m\.?)?[.,:]?", re.IGNORECASE)
_TIME = re.compile(r"(?:[0-9]|^)[ap]\.m\.?$|[0-9][ap]m$", re.IGNORECASE)
_FULL_HOUR = re.compile(r"(?<=[0-9]):00(?=\s*[ap]\.?m)")
_LETTERS = re.compile(r"([A-Za-z]+)(?:['\u2019][A-Za-z]*)?[.,:]?|[ap]\.m\.?", re.IGNORECASE)
_VOWEL = re.compile("[aeiouy]")
_BETWEEN_WORDS = re.compile(r"[^a-z0-9:.,-]|[.,-](?![0-9])")
_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
_SHORT_WORDS = """
    all and are bag best big box bus cat cow cup day days dog door egg eggs few for fox hat her his its jr lost man
    men most mr mrs ms new no none not old one or pen per pet pie red she six ten the they toy two was way win won
    yes am pm a.m p.m cm dm ft foot gal gb gram hr hrs kg km kmh kph lb lbs mb mg mi min mins ml mm mph oz pt qt rpm
    sec sq yd yds yr yrs
"""
"""Words and units that are as short as products of variables, or have their letters in order as those mostly do."""
_KNOWN = frozenset(_SHORT_WORDS.split())


def is_word(token: str) -> bool:
    """Whether a token is a word for certain. Products of variables are short, and mostly in order: "abc", "bcd"."""
    letters = _LETTERS.fullmatch(token)
    if letters is None or token.casefold().rstrip(".,:") in _KNOWN:
        return letters is not None
    lower = letters[1].casefold()
    long = len(lower) > (2 if token[0].isupper() else 3)  # "Jim"
    return long and _VOWEL.search(lower) is not None and (len(lower) > 4 or list(lower) != sorted(lower))


def are_words(text: str) -> bool:
    """Whether a text is words, and numbers among them: not if it holds an operator, nor if all may be variables."""
    tokens = [part for token in text.replace(",", ", ").split() for part in _parts(token)]
    certain = any(is_word(token) or _TIME.search(token) for token in tokens)
    return certain and all(_NUMERAL.fullmatch(t) or _LETTERS.fullmatch(t) or t == "&" for t in tokens)


def _parts(token: str) -> list[str]:
    """The parts of a hyphenated word if each is a word: "x-axis" may be a difference."""
    parts = token.split("-")
    return parts if len(parts) > 1 and all(map(is_word, parts)) else [token]


def folded(words: str) -> str:
    """Words without case, first article, blanks and punctuation: "The Cooper wedding." gives "cooperwedding"."""
    words = words.casefold().strip()
    article = _ARTICLE.match(words)
    if article and (not article[1] or (is_word(article[2]) and article[2] not in ("and", "or"))):  # "a bc" is a product
        words = words[article.end() :]
    return _BETWEEN_WORDS.sub("", _FULL_HOUR.sub("", words))


def variables(latex: str) -> set[str]:
    r"""The letters in a formula that stand for themselves, in lower case: not those of commands, `\text{}`, words."""
    runs = re.findall("[A-Za-z]+", _COMMAND.sub(" ", latex))
    return {letter.casefold() for run in runs if not is_word(run) for letter in run}

"""The subjects of MATH in the order and with the short names of the paper's Table 2; others by name after them."""

from __future__ import annotations

import re

from dust2gold.core.text import escape
from dust2gold.report.analyses.predictions import OVERALL

_MATH = {
    "countingprobability": "C&P",
    "intermediatealgebra": "InterAlg",
    "numbertheory": "NumTheory",
    "precalculus": "Precalc",
    "prealgebra": "Prealg",
    "geometry": "Geometry",
    "algebra": "Algebra",
}


def subject_order(subject: str) -> tuple[int, str]:
    """Sorts subjects; `all` comes last."""
    if subject == OVERALL:
        return len(_MATH) + 1, ""
    key = _key(subject)
    return (list(_MATH).index(key), "") if key in _MATH else (len(_MATH), subject)


def short_name(subject: str) -> str:
    """The escaped name of a subject in a table."""
    return escape(_MATH.get(_key(subject), subject))


def _key(subject: str) -> str:
    return re.sub(r"[^a-z]", "", re.sub(r"\band\b", "", subject.lower().replace("_", " ")))

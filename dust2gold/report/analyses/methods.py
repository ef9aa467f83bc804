"""The rows of the report: their order, what they are compared with, a line about each."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dust2gold.run.method import METHODS

BASELINE = "cot-kd"
"""What the paper measures its stages against: a LoRA on the right rationales alone."""

COMPARISONS = (("nce", "kd"), ("nce", "nat"), ("nat", "nat-no-negatives"), ("ws", "sc"), ("asc", "sc"))
"""What the paper claims beyond its baseline: a method and what it is better than."""

_FEWER = re.compile(r"nat-negatives-(\d{1,2})")
_ORDER = {name: place for place, name in enumerate(METHODS)}


def share_of_negatives(method: str) -> int | None:
    """The percentage of D_neg that M_neg saw, as `nat-negatives-25` says it; None for a method not named so."""
    found = _FEWER.fullmatch(method)
    return int(found[1]) if found else None


def descriptions(methods: Iterable[str]) -> list[str]:
    """A line of a list for each method, but not for one we do not know, such as an LLM evaluated by `collect`."""
    lines = []
    for method in sorted(set(methods), key=method_order):
        share = share_of_negatives(method)
        if share is not None or method in METHODS:
            about = METHODS.get(method) or f"NAT whose M_neg saw {share}% of the wrong rationales"
            lines.append(f"- {method}: {about}")
    return lines


def method_order(method: str) -> tuple[int, int, str]:
    """Sorts methods as `METHODS` lists them, all others after them by name."""
    share = share_of_negatives(method)
    if share is not None:
        return _ORDER["nat-delta"], share, method
    return (_ORDER[method], 0, "") if method in _ORDER else (len(_ORDER), 0, method)

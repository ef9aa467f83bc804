"""What a cell's primary contrasts say, in words, by rules."""

from __future__ import annotations

from collections.abc import Sequence

from dust2gold.report.section import p_value
from dust2gold.study.results import Contrast

_LEVEL = 0.05
_RIVAL = "mix"
"""Plain training on everything: where it wins, a reader learns that first."""


def verdict(contrast: Contrast) -> str:
    """`better`, `worse`, `no difference seen` or `not compared yet`; of a secondary contrast by its own p."""
    if contrast.difference is None:
        return "not compared yet"
    p = contrast.difference.p if contrast.corrected is None else contrast.corrected
    if p >= _LEVEL:
        return "no difference seen"
    return "better" if contrast.difference.mean > 0 else "worse"


def in_words(found: Sequence[Contrast], seeds: int) -> list[str]:
    """Sentences about the primary contrasts, the rival's win first; `seeds` is how many the study has."""
    primary = [contrast for contrast in found if contrast.primary]
    lost = [each for each in primary if each.against == _RIVAL and verdict(each) == "worse"]
    sentences = [f"MIX wins: training on right and wrong rationales alike beats {each.method}." for each in lost]
    for each in [*lost, *(each for each in primary if each not in lost)]:
        sentences.append(_sentence(each, seeds))
    for method in dict.fromkeys(each.method for each in primary):
        own = [(verdict(each), each.against) for each in primary if each.method == method]
        groups = {word: ", ".join(other for word_, other in own if word_ == word) for word, _ in own}
        said = "; ".join(f"{word}: {others}" for word, others in groups.items())
        sentences.append(f"In short, {method}: {said}.")
    return sentences


def _sentence(contrast: Contrast, seeds: int) -> str:
    pair, found = f"{contrast.method} against {contrast.against}", contrast.difference
    if found is None:
        return f"{pair}: not compared yet, no seed has both."
    low, high, p = points(found.low), points(found.high), p_value(contrast.corrected or 0)
    text = f"{pair}: {verdict(contrast)}, {points(found.mean)} points (95% interval {low} to {high}; Holm's p: {p})"
    if verdict(contrast) == "no difference seen":
        text += f"; a difference of {100 * found.detectable:.1f} points would have been seen with 80% power"
    if len(contrast.seeds) < seeds:
        text += f"; {len(contrast.seeds)} of {seeds} seeds so far"
    if len(contrast.seeds) == 1:
        text += ", so that the spread of training is not in it"
    return f"{text}."


def points(share: float) -> str:
    """A difference in points, signed."""
    return f"{100 * share:+.1f}"

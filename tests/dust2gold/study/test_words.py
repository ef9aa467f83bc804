"""The sentences about primary contrasts: which comes first, what each verdict says."""

import pytest

from dust2gold.study.results import Contrast
from dust2gold.study.statistics import Difference
from dust2gold.study.words import in_words, verdict


def contrast(against: str, mean: float = 0.0, p: float = 1.0, seeds: int = 5, primary: bool = True) -> Contrast:
    difference = Difference((mean,) * seeds, mean, mean - 0.02, mean + 0.02, 0.01, p) if seeds else None
    return Contrast("nat", against, primary, tuple(range(seeds)), difference, p if primary and seeds else None)


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (contrast("mix", 0.1, 0.01), "better"),
        (contrast("mix", -0.1, 0.01), "worse"),
        (contrast("mix", -0.1, 0.05), "no difference seen"),
        (contrast("mix", 0.1, 0.01, primary=False), "better"),
        (contrast("mix", seeds=0), "not compared yet"),
    ],
)
def test_verdict(found: Contrast, word: str) -> None:
    assert verdict(found) == word


def test_the_rivals_win_stands_first() -> None:
    found = [contrast("nat-shuffled", 0.1, 0.0001), contrast("cot-kd-long", 0.01, 0.4), contrast("mix", -0.1, 0.02)]
    assert in_words(found, 5) == [
        "MIX wins: training on right and wrong rationales alike beats nat.",
        "nat against mix: worse, -10.0 points (95% interval -12.0 to -8.0; Holm's p: 0.020).",
        "nat against nat-shuffled: better, +10.0 points (95% interval +8.0 to +12.0; Holm's p: <0.001).",
        "nat against cot-kd-long: no difference seen, +1.0 points (95% interval "
        "-1.0 to +3.0; Holm's p: 0.400); a difference of 2.8 points would have been seen with 80% power.",
        "In short, nat: better: nat-shuffled; no difference seen: cot-kd-long; worse: mix.",
    ]


def test_what_is_not_there_yet_is_said() -> None:
    first, second, _ = in_words([contrast("mix", 0.1, 0.01, seeds=1), contrast("ul", seeds=0)], 5)
    assert first.endswith("; 1 of 5 seeds so far, so that the spread of training is not in it.")
    assert second == "nat against ul: not compared yet, no seed has both."


def test_secondary_contrasts_are_not_in_the_words() -> None:
    assert in_words([contrast("mix", 0.1, 0.01, primary=False)], 5) == []

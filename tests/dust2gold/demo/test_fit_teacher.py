"""The fit, and the embedded teacher beside the paper's."""

import random
import sys
from pathlib import Path

import pytest

from dust2gold.demo.fit_teacher import Graded, by_level, fit, grade, main, sample_teacher, statistics
from dust2gold.demo.generate import Recipe, generate
from dust2gold.demo.teacher import LEVELS, TEACHERS

REAL = Path(__file__).parents[4] / "shared/data/gpt-3.5-turbo-math-train.jsonl.xz"


@pytest.mark.parametrize(("a", "b"), [(0.7, 0.3), (0.2, 1.2), (3.0, 2.0)])
def test_the_fit_recovers_a_and_b(a: float, b: float) -> None:
    rng = random.Random(0)
    rates = [rng.betavariate(a, b) for _ in range(20_000)]
    counts = [Graded("Level 1", 8, sum(rng.random() < rate for _ in range(8)), 0, 0) for rate in rates]
    assert fit(counts) == pytest.approx((a, b), rel=0.06)


@pytest.mark.skipif(not REAL.is_file(), reason="the paper's teacher data are not in ../shared/data")
def test_the_constants_are_what_the_fit_gives_on_the_papers_data() -> None:
    real = grade(REAL)
    assert sum(each.right for each in real) == 21_127
    for level, own in by_level(real).items():
        assert LEVELS[level] == pytest.approx((len(own), *fit(own)), abs=0.0051)


PAPER = {
    "right samples": (0.36, 0.01),
    "questions without a right sample": (0.37, 0.03),
    "pairs of wrong samples that agree": (0.12, 0.03),
    "right samples, level 1": (0.74, 0.02),
    "right samples, level 2": (0.58, 0.02),
    "right samples, level 3": (0.43, 0.02),
    "right samples, level 4": (0.28, 0.02),
    "right samples, level 5": (0.13, 0.02),
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_the_embedded_teacher_is_like_the_papers(kind: str) -> None:
    measured = statistics(sample_teacher(kind, 7500))
    assert {name: measured[name] for name in PAPER} == {name: pytest.approx(v, abs=t) for name, (v, t) in PAPER.items()}


def test_the_command_prints_both_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(tmp_path, Recipe(train_questions=200, test_questions=1))
    monkeypatch.setattr(sys, "argv", ["fit_teacher", str(tmp_path / "train.jsonl")])
    main()
    fitted, compared = capsys.readouterr().out.split("\n\n")
    assert [int(line.split()[1]) for line in fitted.splitlines()[1:]] == [15, 36, 43, 45, 61]
    [right] = [line.split() for line in compared.splitlines() if line.startswith("right samples ")]
    assert right[2] == right[3], "the file is what the slips teacher writes"

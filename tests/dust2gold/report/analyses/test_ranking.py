import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dust2gold.report.analyses.ranking import correlate, pearson, ranking_study, ranks
from tests.dust2gold.report.analyses.synthetic import drawn_samples, samples, vote_groups


def test_by_hand() -> None:
    """One question: right .9 and .3, wrong .5 and .3, one without an answer, which counts nowhere."""
    study = ranking_study(vote_groups(samples("a", ["1", "1", "2", "3", None], [0.9, 0.3, 0.5, 0.3, 0.99])))
    assert study is not None
    assert [row.subject for row in study.rows] == ["Algebra", "all"]
    row = study.rows[0]
    # (.9, .5) and (.9, .3) right, (.3, .5) wrong, (.3, .3) half.
    assert (row.pairs, row.pair_accuracy) == (4, 2.5 / 4)
    # .9 right, .3 of a right one wrong, .5 and .3 of wrong ones right.
    assert (row.samples, row.threshold_accuracy, row.right) == (4, 0.75, 0.5)
    assert (row.sc, row.asc, row.gain) == (1, 1, 0)
    assert study.pair_accuracy.pearson is None


def test_a_ranker_that_lifts_the_minority() -> None:
    study = ranking_study(
        vote_groups(
            samples("a", ["1", "2", "2"], [0.9, 0.2, 0.2]),
            samples("b", ["1", "2", "2"], [0.1, 0.2, 0.2], subject="Geometry"),
            samples("c", ["1", "1"], [0.5, 0.5], subject="Precalculus"),
        )
    )
    assert study is not None
    assert [(row.subject, row.pairs, row.pair_accuracy, row.gain) for row in study.rows] == [
        ("Algebra", 2, 1, 100),
        ("Geometry", 2, 0, 0),
        ("Precalculus", 0, None, 0),
        ("all", 4, 0.5, pytest.approx(100 / 3)),
    ]
    assert study.pair_accuracy.n == 2, "a subject without pairs is no point"


def test_pairs_are_pooled_over_questions() -> None:
    given = vote_groups(samples("a", ["1", "2"], [0.9, 0.1]), samples("b", ["1", "2", "3", "4"], [0.1, 0.2, 0.3, 0.4]))
    study = ranking_study(given)
    assert study is not None
    assert (study.rows[0].pairs, study.rows[0].pair_accuracy) == (4, 0.25)


def test_drawn_scores_correlate_with_the_gain() -> None:
    study = ranking_study(vote_groups(drawn_samples(150, 8)))
    assert study is not None
    assert study.pair_accuracy.n == 5
    assert (study.pair_accuracy.pearson or 0) > 0.5
    assert ranking_study(vote_groups(samples("a", ["1", "2"]))) is None, "without scores"


def test_correlation_by_hand() -> None:
    # x − x̄ = −1.5, −0.5, 0.5, 1.5; y − ȳ = −1, 1, −1, 1: Σxy = 2, Σx² = 5, Σy² = 4, r = 2/√20.
    found = correlate([1, 2, 3, 4], [0, 2, 0, 2])
    r = 2 / math.sqrt(20)
    # Ranks of y are 1.5, 3.5, 1.5, 3.5: the same deviations.
    assert (found.pearson, found.spearman) == pytest.approx((r, r))
    ends = [math.tanh(math.atanh(r) + side) for side in (-1.959964, 1.959964)]
    assert [found.ci_low, found.ci_high] == pytest.approx(ends)
    assert ranks([30, 10, 20, 10, 30, 30]) == [5, 1.5, 3, 1.5, 5, 5]


def test_spearman_sees_only_the_order() -> None:
    found = correlate([1, 2, 3, 4, 5], [1, 10, 100, 1000, 10000])
    assert found.spearman == pytest.approx(1)
    assert (found.pearson or 1) < 0.8


def test_few_points_say_nothing() -> None:
    for x, y in (([], []), ([1, 2], [2, 1]), ([1, 1, 1], [1, 2, 3])):
        found = correlate(x, y)
        assert (found.n, found.pearson, found.ci_low, found.spearman) == (len(x), None, None, None)
    three = correlate([1, 2, 3], [1, 2, 4])
    assert (three.pearson is None, three.ci_low) == (False, None)


@given(st.lists(st.tuples(st.integers(-100, 100), st.integers(-100, 100)), min_size=3, max_size=12))
def test_pearson_equals_torch(points: list[tuple[int, int]]) -> None:
    x, y = [float(a) for a, _ in points], [float(b) for _, b in points]
    if (found := pearson(x, y)) is not None:
        assert found == pytest.approx(float(torch.corrcoef(torch.tensor([x, y], dtype=torch.float64))[0, 1]), abs=1e-9)

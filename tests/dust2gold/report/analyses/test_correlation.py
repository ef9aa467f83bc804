from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dust2gold.report.analyses.correlation import correlate, pearson, ranks


def test_by_hand() -> None:
    # x − x̄ = −1.5, −0.5, 0.5, 1.5; y − ȳ = −1, 1, −1, 1: Σxy = 2, Σx² = 5, Σy² = 4, r = 2/√20.
    found = correlate([1, 2, 3, 4], [0, 2, 0, 2])
    r = 2 / math.sqrt(20)
    assert found.pearson == pytest.approx(r)
    # Ranks of y are 1.5, 3.5, 1.5, 3.5: the same deviations.
    assert found.spearman == pytest.approx(r)
    assert found.ci_low == pytest.approx(math.tanh(math.atanh(r) - 1.959964))
    assert found.ci_high == pytest.approx(math.tanh(math.atanh(r) + 1.959964))


def test_spearman_sees_only_the_order() -> None:
    found = correlate([1, 2, 3, 4, 5], [1, 10, 100, 1000, 10000])
    assert found.spearman == pytest.approx(1)
    assert found.pearson is not None
    assert found.pearson < 0.8


def test_ranks_share_ties() -> None:
    assert ranks([30, 10, 20, 10, 30, 30]) == [5, 1.5, 3, 1.5, 5, 5]


def test_few_points_say_nothing() -> None:
    for x, y in (([], []), ([1, 2], [2, 1]), ([1, 1, 1], [1, 2, 3])):
        found = correlate(x, y)
        assert (found.n, found.pearson, found.ci_low, found.spearman) == (len(x), None, None, None)
    three = correlate([1, 2, 3], [1, 2, 4])
    assert three.pearson is not None
    assert three.ci_low is None
    with pytest.raises(ValueError, match="against"):
        correlate([1], [])


@given(st.lists(st.tuples(st.integers(-100, 100), st.integers(-100, 100)), min_size=3, max_size=12))
def test_pearson_equals_torch(points: list[tuple[int, int]]) -> None:
    x, y = [float(a) for a, _ in points], [float(b) for _, b in points]
    found = pearson(x, y)
    if found is not None:
        assert found == pytest.approx(float(torch.corrcoef(torch.tensor([x, y], dtype=torch.float64))[0, 1]), abs=1e-9)

from __future__ import annotations

import statistics

import pytest

from dust2gold.collect.collector import delay
from dust2gold.collect.settings import RetryPolicy


def test_waits_double_up_to_the_longest_and_half_of_each_is_chance() -> None:
    retry = RetryPolicy(first=1, longest=10)
    for failures, longest in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (5000, 10)):
        waits = [delay(retry, failures, None) for _ in range(200)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
        assert statistics.fmean(waits) == pytest.approx(0.75 * longest, rel=0.1)
    assert all(20 <= delay(retry, 1, 20) <= 20.5 for _ in range(50))

from __future__ import annotations

import pytest

from dust2gold.report.analyses.stopping import adaptive_stopping
from dust2gold.report.analyses.votes import collect_votes
from tests.dust2gold.report.analyses.synthetic import drawn_samples, samples, vote_groups


def test_replay_by_hand() -> None:
    """Question a stops after four samples of one answer, b after none of its five, c has no answer at all."""
    given = vote_groups(
        samples("a", ["2", "2", "2", "2", "1", "1"]),
        samples("b", ["1", "2", "1", "2", "1"]),
        samples("c", [None, None]),
    )
    row = adaptive_stopping(collect_votes(given), thresholds=(0.95,))[0]
    assert (row.method, row.threshold) == ("sc", 0.95)
    assert row.samples == pytest.approx((4 + 5 + 2) / 3)
    assert row.saved == pytest.approx(2 / 13)
    assert row.tokens == pytest.approx((10 + 11 + 12 + 13 + 60 + 21) / 3)
    assert row.accuracy == pytest.approx(1 / 3)
    assert row.full_accuracy == pytest.approx(1 / 3)


def test_stopping_early_may_cost_an_answer() -> None:
    given = vote_groups(samples("a", ["2", "2", "1", "1", "1"]))
    low, high = adaptive_stopping(collect_votes(given), thresholds=(0.8, 0.95))
    assert (low.samples, low.accuracy, low.full_accuracy) == (2, 0, 1)  # two votes: 1 − 2^−3 = 0.875
    assert (high.samples, high.accuracy, high.saved) == (5, 1, 0)


def test_doubtful_samples_make_asc_wait() -> None:
    given = vote_groups(samples("a", ["1"] * 8, [0.5] * 8))
    sc, asc = adaptive_stopping(collect_votes(given), thresholds=(0.95,))
    assert (sc.method, sc.samples) == ("sc", 4)
    # Half a vote each: 1 − 2^−(v + 1) reaches .95 at v = 3.32, that is with the seventh sample.
    assert (asc.method, asc.samples) == ("asc", 7)


def test_a_lower_threshold_never_takes_more() -> None:
    rows = adaptive_stopping(collect_votes(vote_groups(drawn_samples(40, 12))))
    for method in ("sc", "asc"):
        taken = [row.samples for row in rows if row.method == method]
        assert taken == sorted(taken)
        assert taken[0] < taken[-1] <= 12

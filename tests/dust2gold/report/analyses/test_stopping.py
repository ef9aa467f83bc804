import pytest

from dust2gold.report.analyses.stopping import Stopping, adaptive_stopping
from dust2gold.report.analyses.votes import collect_votes
from tests.dust2gold.report.analyses.synthetic import drawn_samples, samples, vote_groups


def test_replay_by_hand() -> None:
    """Question a stops after four samples of one answer, b after none of its five, c has no answer at all."""
    given = vote_groups(samples("a", list("222211")), samples("b", list("12121")), samples("c", [None, None]))
    taken, tokens = (4 + 5 + 2) / 3, (10 + 11 + 12 + 13 + 60 + 21) / 3
    (found,) = adaptive_stopping(collect_votes(given), thresholds=(0.95,))
    assert found.saved == pytest.approx(2 / 13)
    assert found == Stopping("sc", 0.95, taken, found.saved, tokens, 1 / 3, 1 / 3)


def test_stopping_early_may_cost_an_answer() -> None:
    given = vote_groups(samples("a", ["2", "2", "1", "1", "1"]))
    low, high = adaptive_stopping(collect_votes(given), thresholds=(0.8, 0.95))
    assert (low.samples, low.accuracy, low.full_accuracy) == (2, 0, 1)  # two votes: 1 − 2^−3 = 0.875
    assert (high.samples, high.accuracy, high.saved) == (5, 1, 0)


def test_doubtful_samples_make_asc_wait() -> None:
    given = vote_groups(samples("a", ["1"] * 8, [0.5] * 8))
    found = adaptive_stopping(collect_votes(given), thresholds=(0.95,))
    # Half a vote each: 1 − 2^−(v + 1) reaches .95 at v = 3.32, that is with the seventh sample.
    assert [(row.method, row.samples) for row in found] == [("sc", 4), ("asc", 7)]


def test_a_lower_threshold_never_takes_more() -> None:
    rows = adaptive_stopping(collect_votes(vote_groups(drawn_samples(40, 12))))
    for method in ("sc", "asc"):
        taken = [row.samples for row in rows if row.method == method]
        assert taken == sorted(taken)
        assert taken[0] < taken[-1] <= 12

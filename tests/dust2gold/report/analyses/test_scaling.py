from itertools import combinations

import pytest

from datamodules.components.grading.vote_groups import VoteGroup
from dust2gold.report.analyses.scaling import Point, accuracy_at, accuracy_over_n
from dust2gold.report.analyses.votes import Votes, collect_votes
from lightning_modules.components.voting.votes import vote, vote_accuracy
from tests.dust2gold.report.analyses.synthetic import drawn_samples, samples, vote_groups


def over_all_subsets(given: list[VoteGroup], votes: Votes, method: str, n: int) -> float:
    """The expectation itself: the mean over every choice of n samples."""
    total = 0.0
    for row, group in enumerate(given):
        chosen = list(combinations(range(len(group.answers)), n))
        for subset in chosen:
            winners = vote([group.answers[i] for i in subset], [float(votes.weights[method][row, i]) for i in subset])
            total += (group.gold in winners) / max(len(winners), 1) / len(chosen)
    return total / len(given)


def test_estimates_the_mean_over_all_subsets() -> None:
    given = vote_groups(drawn_samples(20, 5))
    votes = collect_votes(given)
    points = accuracy_over_n(votes, orders=400)
    for n in range(1, 6):
        for method in ("sc", "ws", "asc"):
            exact = over_all_subsets(given, votes, method, n)
            assert points[n - 1].accuracy[method] == pytest.approx(exact, abs=0.015)
    for method in ("sc", "ws", "asc"):
        whole = float(vote_accuracy(votes.answers, votes.weights[method], votes.gold).mean())
        assert points[-1].accuracy[method] == pytest.approx(whole, abs=1e-12)


def test_the_seed_settles_it() -> None:
    votes = collect_votes(vote_groups(drawn_samples(20, 5)))
    assert accuracy_over_n(votes, orders=3) == accuracy_over_n(votes, orders=3)
    assert accuracy_over_n(votes, orders=3) != accuracy_over_n(votes, orders=3, seed=1)


def test_tokens_and_short_questions() -> None:
    # Tokens are 10, 11, 12 for the first question and 10 for the second, which has one sample.
    votes = collect_votes(vote_groups(samples("a", ["1", "2", "2"]), samples("b", ["1"])))
    points = accuracy_over_n(votes, orders=5)
    assert [point.tokens for point in points] == pytest.approx([10.5, 16, 21.5])
    assert points[2].accuracy == {"sc": 0.5, "ws": pytest.approx(0.5)}
    assert list(points[0].accuracy) == ["sc", "ws"]


def test_between_two_numbers_of_samples() -> None:
    points = [Point(n, None, {"sc": accuracy}) for n, accuracy in ((1, 0.2), (2, 0.4), (3, 0.5))]
    given = (0.5, 1, 1.25, 2, 2.5, 3, 9)
    assert [accuracy_at(points, "sc", samples) for samples in given] == pytest.approx(
        [0.2, 0.2, 0.25, 0.4, 0.45, 0.5, 0.5]
    )

import math
import random
from fractions import Fraction

import pytest
import torch

from lightning_modules.components.voting.votes import (
    NEEDS,
    permute_scores,
    vote,
    vote_accuracy,
    vote_weights,
    winning_classes,
)


def reference(answers: list[int], weights: list[Fraction], gold: int) -> Fraction:
    """The paper, stage 3, in exact fractions: the heaviest answer wins, a tie counts 1 / number of tied answers."""
    totals: dict[int, Fraction] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer != -1:
            totals[answer] = totals.get(answer, Fraction(0)) + weight
    tied = [answer for answer, total in totals.items() if total == max(totals.values())]
    return Fraction(1, len(tied)) if gold in tied else Fraction(0)


def draw(numbers: random.Random, n: int) -> tuple[list[int], list[Fraction], int]:
    """A vote in which ties are frequent: few classes, weights in tenths, which float64 cannot hold exactly."""
    answers = [numbers.choice([-1, 0, 0, 1, 1, 2, 3]) for _ in range(n)]
    weights = [Fraction(numbers.randint(0, 3), 10) for _ in range(n)]
    return answers, weights, numbers.choice([-2, 0, 1, 2])


def test_vote_accuracy_equals_exact_fractions() -> None:
    numbers, n = random.Random(0), 9
    votes = [draw(numbers, n) for _ in range(2000)]
    answers = torch.tensor([answers for answers, _, _ in votes])
    weights = torch.tensor([[float(w) for w in weights] for _, weights, _ in votes], dtype=torch.float64)
    gold = torch.tensor([gold for _, _, gold in votes])
    expected = [float(reference(*one)) for one in votes]
    assert vote_accuracy(answers, weights, gold).tolist() == pytest.approx(expected, abs=1e-15)
    assert sum(0 < value < 1 for value in expected) > 100  # ties do occur

    order = numbers.sample(range(n), n)
    shuffled = vote_accuracy(answers[:, order], weights[:, order], gold)
    assert shuffled.tolist() == pytest.approx(expected, abs=1e-15)

    padded = torch.nn.functional.pad(answers, (0, 3), value=-1)
    padded_weights = torch.nn.functional.pad(weights, (0, 3), value=math.nan)
    assert vote_accuracy(padded, padded_weights, gold).tolist() == pytest.approx(expected, abs=1e-15)


def test_renaming_the_classes_changes_nothing() -> None:
    answers = torch.tensor([[0, 1, 1, 2, 2, -1]])
    weights = torch.tensor([[0.9, 0.3, 0.3, 0.5, 0.4, 5.0]])
    renamed = torch.tensor([[2, 0, 0, 1, 1, -1]])
    for gold, same in ((0, 2), (1, 0), (2, 1)):
        one = vote_accuracy(answers, weights, torch.tensor([gold]))
        assert one.equal(vote_accuracy(renamed, weights, torch.tensor([same])))


def test_a_tie_counts_fractionally_and_abstention_is_wrong() -> None:
    answers = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 2, -1, -1], [-1, -1, -1, -1, -1], [0, 0, 0, 1, -1]])
    weights = vote_weights(answers)["sc"]
    gold = torch.tensor([1, 2, -2, -2])
    assert vote_accuracy(answers, weights, gold).tolist() == pytest.approx([1 / 2, 1 / 3, 0, 0])
    assert winning_classes(answers, weights).sum(1).tolist() == [2, 3, 0, 1]


def test_the_placebo_gives_each_sample_another_ones_score() -> None:
    score = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 9.0, 9.0], [0.7, 9.0, 9.0, 9.0]])  # 9: padding
    found = permute_scores(score, torch.tensor([4, 2, 1]))
    wanted = [[0.2, 0.3, 0.4, 0.1], [0.6, 0.5], [0.7]]
    for row, expected in zip(found, wanted, strict=True):
        assert row[: len(expected)].tolist() == pytest.approx(expected)


def test_vote_lists_the_winners() -> None:
    assert vote([0, 1, 1, -1], [1, 1, 1, 9]) == [1]
    assert vote([0, 0, 0, 1], [0.1, 0.1, 0.1, 0.9]) == [1]  # a heavier minority wins
    assert vote([2, 0, 1, 1], [0.6, 0.6, 0.1, 0.2]) == [0, 2]
    assert vote([0, 1, 1, 1], [0.3, 0.1, 0.1, 0.1]) == [0, 1]  # 0.1 + 0.1 + 0.1 > 0.3 in float64
    assert vote([0, 1], [1.0, 1.0 + 1e-8]) == [1]  # a real lead is no tie
    assert vote([0, 1, -1], [0.0, 0.0, 0.0]) == [0, 1]
    assert vote([-1, -1], [1, 1]) == []
    assert vote([], []) == []
    assert vote([70, 3], [2, 1]) == [70]


def test_equal_weights_are_self_consistency() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(-1, 4, (200, 16), generator=generator)
    gold = torch.randint(-2, 4, (200,), generator=generator)
    same = torch.full(answers.shape, 0.37)
    expected, *others = (
        vote_accuracy(answers, weights, gold) for weights in vote_weights(answers, -same, same).values()
    )
    assert len(others) == 4
    assert all(accuracy.equal(expected) for accuracy in others)


def test_weights() -> None:
    answers, logprobs, score = torch.tensor([[0, 1]]), torch.tensor([[-0.5, -2.0]]), torch.tensor([[0.25, 0.75]])
    weights = vote_weights(answers, logprobs, score)
    expected = {"sc": [1, 1], "ws": [math.exp(-0.5), math.exp(-2.0)], "asc": [0.25, 0.75]}
    expected |= {"asc-1+s": [1.25, 1.75], "asc-1+2s": [1.5, 2.5]}
    assert list(weights) == list(expected) == list(NEEDS)
    for name, values in expected.items():
        assert weights[name].tolist()[0] == pytest.approx(values)
        assert weights[name].dtype == torch.float64
    assert list(vote_weights(answers)) == ["sc"]


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_an_impossible_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weights"):
        vote([0, 1], [weight, 1.0])
    assert vote([-1, 1], [weight, 1.0]) == [1]

import itertools
from collections import Counter

import pytest
import torch

from datamodules.components.batching.counts import count_targets
from datamodules.components.batching.groups import Group, Grouping, QuestionPairs, group_counts, group_lengths
from datamodules.components.batching.sampler import Batch, GroupBatchSampler

ONE_QUESTION = ["q"] * 5, [True, True, False, False, False]
NINE_QUESTIONS = [f"q{q}" for q in range(9) for _ in range(5)], ONE_QUESTION[1] * 9
LENGTHS = [q + 1 for q in range(9) for _ in range(5)]


def groups_of(batches: list[Batch]) -> list[Group]:
    """The groups of batches, cut out of their rows."""
    groups: list[Group] = []
    for batch in batches:
        rows = iter(batch.rows)
        groups += [tuple(itertools.islice(rows, size)) for size in batch.sizes or []]
    return groups


def test_pairs_are_right_and_wrong_of_one_question_and_distinct() -> None:
    names, positive = [*NINE_QUESTIONS[0], "lonely"], [*NINE_QUESTIONS[1], True]
    pairing = Grouping(names, positive, groups_per_question=4, seed=0)
    epochs = [pairing.draw(epoch) for epoch in range(3)]
    for pairs in epochs:
        assert len(pairs) == len(set(pairs)) == len(pairing) == 36
        assert all(positive[right] and not positive[wrong] for right, wrong in pairs)
        assert all(names[right] == names[wrong] != "lonely" for right, wrong in pairs)
    assert pairing.draw(1) == epochs[1] != epochs[0]
    assert Grouping(names, positive, 4, seed=1).draw(0) != epochs[0]


@pytest.mark.parametrize("size", [2, 4])
def test_all_pairs_of_a_question_that_has_few(size: int) -> None:
    groups = Grouping(*ONE_QUESTION, 100, seed=0, size=size).draw(0)
    assert sorted(group[:2] for group in groups) == list(itertools.product(range(2), range(2, 5)))


def test_every_pair_is_drawn_equally_often() -> None:
    pairing = Grouping(*ONE_QUESTION, groups_per_question=2, seed=3)
    counts = torch.zeros(5, 5)
    for epoch in range(3000):
        for right, wrong in pairing.draw(epoch):
            counts[right, wrong] += 1
    # 3000 epochs, each of the 6 pairs with probability 1/3: standard deviation 26
    assert (counts[:2, 2:] - 1000).abs().max() < 4 * 26


def test_a_group_of_many_is_a_draw_with_both_verdicts() -> None:
    positive = [n < 2 for n in range(10)]
    grouping = Grouping(["q"] * 10, positive, 1, seed=0, size=4)
    groups = [grouping.draw(number)[0] for number in range(2000)]
    counts = Counter(place for group in groups for place in group)
    assert all(len(set(group)) == len(group) == 4 for group in groups)
    assert all(positive[group[0]] and not positive[group[1]] for group in groups)
    # One of two right places is drawn for sure, the other as 2 of the 8 that remain: 1/2 + 1/2 · 2/8; wrong ones alike.
    assert all(abs(counts[place] / 2000 - 0.625) < 0.05 for place in range(2))
    assert all(abs(counts[place] / 2000 - (1 / 8 + 7 / 8 * 2 / 8)) < 0.05 for place in range(2, 10))


def test_draws_keep_the_order_of_earlier_versions() -> None:
    """A checkpoint of any version goes on with the groups it has not seen."""
    assert Grouping(*ONE_QUESTION, 2, seed=1).draw(3) == [(1, 2), (1, 3)]
    assert Grouping(*ONE_QUESTION, 1, seed=1, size=4).draw(3) == [(1, 2, 0, 4)]


def test_pairs_of_a_question_stay_together_and_are_those_drawn_one_by_one() -> None:
    names, positive = [f"q{q}" for q in range(5) for _ in range(6)], [k % 3 == 0 for _ in range(5) for k in range(6)]
    together, single = QuestionPairs(names, positive, 3, seed=2), Grouping(names, positive, 3, seed=2)
    for epoch in range(3):
        groups = together.draw(epoch)
        assert len(groups) == len(together) == 5
        assert [pair for group in groups for pair in zip(group[::2], group[1::2], strict=True)] == single.draw(epoch)


def test_lengths_and_counts_of_groups() -> None:
    counts = count_targets([3, 4, 5], [True, False, False])
    groups = [(0, 2), (0, 1, 0, 2)]
    assert group_lengths([7, 9, 8], groups).tolist() == [8, 9]
    assert group_counts(counts, groups).tolist() == [
        [[8, 2], [3, 1], [5, 1]],  # all, right, wrong: target tokens and samples
        [[15, 4], [6, 2], [9, 2]],
    ]


def test_ranks_share_an_epoch_and_a_resumed_one_goes_on() -> None:
    pairing = Grouping(*NINE_QUESTIONS, groups_per_question=3, seed=0)
    ranks = [GroupBatchSampler(pairing, 4, LENGTHS, rank=rank, world=2) for rank in range(2)]
    for sampler in ranks:
        sampler.sampler.set_epoch(2)
    assert len(ranks[0]) == len(ranks[1]) == 4
    assert set(groups_of([batch for sampler in ranks for batch in sampler])) == set(pairing.draw(2))

    whole, resumed = (GroupBatchSampler(pairing, 4, LENGTHS) for _ in range(2))
    expected = []
    for epoch in (1, 2):
        whole.set_epoch(epoch)
        expected += list(whole)
    resumed.resume(1, 3)
    rest = list(resumed)
    resumed.set_epoch(2)
    assert [*rest, *resumed] == expected[3:]

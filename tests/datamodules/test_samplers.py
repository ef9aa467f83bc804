"""The order of batches: complete, repeatable, equal over ranks, exact after a resume."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.components.samplers import BucketBatchSampler
from foundation.errors import InputError

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=120)
SIZES = st.integers(1, 9)


def epoch(sampler: BucketBatchSampler, number: int) -> list[list[int]]:
    sampler.set_epoch(number)
    return list(sampler)


@given(LENGTHS, SIZES, st.integers(0, 5), st.booleans())
def test_each_row_comes_once_an_epoch(lengths: list[int], size: int, number: int, shuffle: bool) -> None:
    sampler = BucketBatchSampler(lengths, size, shuffle=shuffle, mega=3)
    batches = epoch(sampler, number)
    assert Counter(row for batch in batches for row in batch) == Counter(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert all(1 <= len(batch) <= size for batch in batches)


@given(LENGTHS, SIZES, st.integers(0, 3))
def test_order_depends_on_seed_and_epoch_alone(lengths: list[int], size: int, seed: int) -> None:
    one, other = (BucketBatchSampler(lengths, size, seed, mega=3) for _ in range(2))
    first = [epoch(one, number) for number in range(3)]
    assert [epoch(other, number) for number in (2, 0, 1)] == [first[2], first[0], first[1]]


def test_epochs_and_seeds_differ() -> None:
    sampler = BucketBatchSampler(list(range(1, 65)), 4)
    orders = [epoch(sampler, number) for number in range(4)] + [epoch(BucketBatchSampler(range(1, 65), 4, seed=1), 0)]
    assert all(one != other for place, one in enumerate(orders) for other in orders[:place])


@given(LENGTHS, SIZES, st.integers(2, 5), st.integers(0, 3))
def test_ranks_share_the_rows_in_equal_steps(lengths: list[int], size: int, world: int, number: int) -> None:
    ranks = [BucketBatchSampler(lengths, size, rank=rank, world=world, mega=3) for rank in range(world)]
    batches = [epoch(rank, number) for rank in ranks]
    steps = len(ranks[0])
    assert [len(mine) for mine in batches] == [len(rank) for rank in ranks] == [steps] * world
    whole = epoch(BucketBatchSampler(lengths, size, mega=3), number)
    dealt = [batches[place % world][place // world] for place in range(steps * world)]
    assert dealt[: len(whole)] == whole  # so no row is given to two ranks, but for the repeats below
    assert all(batch in whole for batch in dealt[len(whole) :])
    assert steps * world - len(whole) < world


@given(LENGTHS, SIZES, st.integers(1, 4))
def test_evaluation_ranks_repeat_nothing(lengths: list[int], size: int, world: int) -> None:
    ranks = [BucketBatchSampler(lengths, size, rank=rank, world=world, shuffle=False) for rank in range(world)]
    rows = [row for rank in ranks for batch in rank for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
    longest_first = [max(lengths[row] for row in batch) for batch in BucketBatchSampler(lengths, size, shuffle=False)]
    assert longest_first == sorted(longest_first, reverse=True)


@given(LENGTHS, SIZES, st.integers(1, 3), st.data())
@settings(max_examples=60)
def test_resuming_goes_on_exactly(lengths: list[int], size: int, world: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, world - 1))
    undisturbed = BucketBatchSampler(lengths, size, 3, rank, world, mega=3)
    steps = len(undisturbed)
    everything = [batch for number in range(3) for batch in epoch(undisturbed, number)]
    done = data.draw(st.integers(0, 3 * steps - 1))
    resumed = BucketBatchSampler(lengths, size, 3, rank, world, mega=3)
    resumed.resume(done)
    rest = list(resumed)  # Lightning draws the first batch before it names the epoch
    for number in range(done // steps + 1, 3):
        rest += epoch(resumed, number)
    assert rest == everything[done:]
    assert len(resumed) == steps  # what Lightning counts against does not shrink


def test_little_is_padding_on_skewed_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    skewed = torch.empty(6000).log_normal_(5.0, 0.6, generator=generator).clamp(20, 1000).long().tolist()
    batches = epoch(BucketBatchSampler(skewed, 16), 0)
    padded = sum(max(skewed[row] for row in batch) * len(batch) for batch in batches)
    assert sum(skewed) / padded > 0.9
    ordered = sorted(skewed)
    at_random = sum(max(ordered[start::375]) * 16 for start in range(375))
    assert sum(skewed) / at_random < 0.5  # what the same lengths give without buckets
    gaps = [max(skewed[row] for row in batch) - min(skewed[row] for row in batch) for batch in batches]
    assert sorted(gaps)[len(gaps) // 2] < 20  # of lengths up to 1,000


def test_nothing_to_feed_is_no_batch() -> None:
    for shuffle in (True, False):
        sampler = BucketBatchSampler([], 4, shuffle=shuffle)
        assert len(sampler) == 0
        assert list(sampler) == []


def test_batches_need_a_row() -> None:
    with pytest.raises(InputError, match=r"data\.batch_size.*at least 1, found 0"):
        BucketBatchSampler([1, 2], 0)

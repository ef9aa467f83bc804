from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.components.batching.counts import NO_TARGETS, count_targets
from datamodules.components.batching.plan import Batching, Packing, RowBatches, TokenBudget
from datamodules.components.batching.sampler import (
    Batch,
    BatchDataset,
    EvaluationSampler,
    TrainingSampler,
    ValidationSampler,
)
from dust2gold.core.errors import InputError

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=120)
SIZES = st.integers(1, 9)
BATCHINGS: dict[str, Callable[[int], Batching]] = {
    "rows": lambda size: RowBatches(size, mega=3),
    "budget": lambda size: TokenBudget(500 * size),
    "packing": lambda size: Packing(500, size),
}
every_batching = pytest.mark.parametrize("kind", BATCHINGS)


def epoch(sampler: TrainingSampler, number: int) -> list[list[int]]:
    sampler.set_epoch(number)
    return [batch.rows for batch in sampler]


def skewed(rows: int, mean: float, longest: int) -> list[int]:
    """Lengths as texts have them: log-normal."""
    drawn = torch.empty(rows).log_normal_(mean, 0.6, generator=torch.Generator().manual_seed(0))
    lengths: list[int] = drawn.clamp(20, longest).long().tolist()
    return lengths


@every_batching
@given(lengths=LENGTHS, size=SIZES, seed=st.integers(0, 3))
def test_each_epoch_has_every_row_once_in_an_order_of_seed_and_epoch(
    kind: str, lengths: list[int], size: int, seed: int
) -> None:
    one, other = (TrainingSampler(lengths, BATCHINGS[kind](size), seed) for _ in range(2))
    epochs = [epoch(one, number) for number in range(3)]
    for batches in epochs:
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
        assert len(batches) == len(one)  # in each epoch: Lightning asks once
        assert all(batches)
    assert [epoch(other, number) for number in (2, 0, 1)] == [epochs[2], epochs[0], epochs[1]]


@pytest.mark.parametrize("batching", [RowBatches(4), TokenBudget(24), Packing(24, 2)], ids=str)
def test_epochs_and_seeds_differ(batching: Batching) -> None:
    lengths = [1 + row // 8 for row in range(64)]
    samplers = [TrainingSampler(lengths, batching, seed) for seed in range(2)]
    orders = [epoch(samplers[0], number) for number in range(4)] + [epoch(samplers[1], 0)]
    as_sets = [{frozenset(batch) for batch in order} for order in orders]  # other company, too
    assert all(one != other for place, one in enumerate(as_sets) for other in as_sets[:place])


def test_rows_keep_the_order_of_earlier_versions() -> None:
    """A checkpoint of any version goes on with the batches it has not seen."""
    sampler = TrainingSampler([5, 3, 9, 1, 7, 7, 2, 8, 4, 6], RowBatches(3), seed=2)
    assert epoch(sampler, 1) == [[3, 6, 1], [8, 0, 9], [2], [4, 5, 7]]


def steps_of(lengths: list[int], batching: Batching, world: int, accumulate: int, number: int) -> list[list[list[int]]]:
    """The optimizer steps of an epoch: the batches of each, over all ranks, that count."""
    counts, per_step = count_targets(lengths, [True] * len(lengths)), world * accumulate
    ranks = [TrainingSampler(lengths, batching, 0, rank, world, counts, accumulate) for rank in range(world)]
    for rank in ranks:
        rank.set_epoch(number)
    batches = [list(rank) for rank in ranks]
    assert {len(mine) for mine in batches} == {len(ranks[0])}
    assert len(batches[0]) % accumulate == 0
    turns = [batch for turn in zip(*batches, strict=True) for batch in turn]
    steps = [turns[start : start + per_step] for start in range(0, len(turns), per_step)]
    kept = [[batch.rows for batch in step if batch.step != NO_TARGETS] for step in steps]
    for step in kept:  # turns are filled only where nothing is left to halve
        assert len(step) == per_step or max(map(len, step)) == 1
    return kept


SPLITS = [(1, 4), (2, 2), (4, 1), (1, 6), (3, 2), (6, 1), (1, 1), (2, 1), (5, 3)]


@every_batching
@given(lengths=LENGTHS, size=SIZES, split=st.sampled_from(SPLITS), number=st.integers(0, 3))
def test_ranks_share_the_rows_in_equal_steps(
    kind: str, lengths: list[int], size: int, split: tuple[int, int], number: int
) -> None:
    steps = steps_of(lengths, BATCHINGS[kind](size), *split, number)
    assert sorted(row for step in steps for batch in step for row in batch) == list(range(len(lengths)))
    assert steps == steps_of(lengths, BATCHINGS[kind](size), 1, split[0] * split[1], number)


@every_batching
def test_ranks_do_equal_work_at_each_step(kind: str) -> None:
    lengths = skewed(6001, 4.0, 500)
    batching = RowBatches(8) if kind == "rows" else BATCHINGS[kind](4)
    ranks = [TrainingSampler(lengths, batching, rank=rank, world=4) for rank in range(4)]
    uneven: list[bool] = []
    for step in zip(*(epoch(rank, 1) for rank in ranks), strict=True):
        work = [sum(lengths[row] for row in batch) for batch in step]
        uneven.append(max(work) > 1.25 * min(work))
    assert sum(uneven) <= max(2, 0.03 * len(uneven))  # the longest rows of a mega-batch, and the halved last batches


@every_batching
@given(lengths=LENGTHS, size=SIZES, world=st.integers(1, 3), data=st.data())
@settings(max_examples=60, deadline=None)
def test_resuming_goes_on_exactly(kind: str, lengths: list[int], size: int, world: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, world - 1))
    undisturbed, resumed = (TrainingSampler(lengths, BATCHINGS[kind](size), 3, rank, world) for _ in range(2))
    steps = len(undisturbed)
    everything = [batch for number in range(3) for batch in epoch(undisturbed, number)]
    done = data.draw(st.integers(0, 3 * steps - 1))
    resumed.resume(*divmod(done, steps))
    rest = [batch.rows for batch in resumed]  # Lightning draws the first batch before it names the epoch
    for number in range(done // steps + 1, 3):
        rest += epoch(resumed, number)
    assert rest == everything[done:]
    assert len(resumed) == steps  # what Lightning counts against does not shrink


def test_little_is_padding_on_skewed_lengths() -> None:
    lengths = skewed(6000, 5.0, 1000)

    def real_share(batches: list[list[int]]) -> float:
        return sum(lengths) / sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)

    batches = epoch(TrainingSampler(lengths, RowBatches(16)), 0)
    assert real_share(torch.randperm(6000).view(-1, 16).tolist()) < 0.5
    assert real_share(batches) > 0.9
    gaps = [max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in batches]
    assert sorted(gaps)[len(gaps) // 2] < 20  # of lengths up to 1,000
    assert real_share(epoch(TrainingSampler(lengths, TokenBudget(4096)), 0)) > 0.97


@given(LENGTHS, SIZES, st.integers(1, 4))
def test_evaluation_ranks_repeat_nothing(lengths: list[int], size: int, world: int) -> None:
    ranks = [EvaluationSampler(lengths, size, rank, world) for rank in range(world)]
    assert sorted(row for rank in ranks for batch in rank for row in batch) == list(range(len(lengths)))
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
    assert min(map(len, ranks)) > 0  # a rank without a batch would not take part in what all do together
    longest_first = [max(lengths[row] for row in batch) for batch in EvaluationSampler(lengths, size)]
    assert longest_first == sorted(longest_first, reverse=True)


@given(LENGTHS, SIZES, st.integers(1, 4))
def test_validation_ranks_make_equally_many_forwards(lengths: list[int], size: int, world: int) -> None:
    ranks = [ValidationSampler(lengths, size, rank, world) for rank in range(world)]
    batches = [list(rank) for rank in ranks]
    assert len({len(mine) for mine in batches} | {len(rank) for rank in ranks}) == 1
    assert all(batch.rows for mine in batches for batch in mine)
    rows = [row for mine in batches for batch in mine if batch.step != NO_TARGETS for row in batch.rows]
    assert sorted(rows) == list(range(len(lengths)))


def test_nothing_to_feed_is_no_batch() -> None:
    samplers: list[Any] = [TrainingSampler([], make(4)) for make in BATCHINGS.values()]
    for sampler in (*samplers, EvaluationSampler([], 4), ValidationSampler([], 4)):
        assert (len(sampler), list(sampler)) == (0, [])
    with pytest.raises(InputError, match=r"data\.batch_size.*at least 1, found 0"):
        EvaluationSampler([1, 2], 0)


@pytest.mark.parametrize(
    ("world", "accumulate", "limit"), [(1, 1, 1.0), (1, 5, 1.0), (2, 1, 1.0), (3, 2, 1.0), (2, 4, 5), (1, 4, 0.5)]
)
def test_step_counts_what_all_ranks_and_accumulated_batches_train_on(
    world: int, accumulate: int, limit: int | float
) -> None:
    rows, per_step = range(23), world * accumulate
    counts = count_targets([10 + row for row in rows], [row % 3 == 0 for row in rows])
    options = {"world": world, "counts": counts, "accumulate": accumulate, "limit": limit}
    lengths = [1 + row for row in rows]
    ranks: list[Any] = [list(TrainingSampler(lengths, RowBatches(2), 1, rank, **options)) for rank in range(world)]  # type: ignore[arg-type]
    end = limit if isinstance(limit, int) else int(limit * len(ranks[0]))
    for start in range(0, end, accumulate):
        turns = [batch for mine in ranks for batch in mine[start : min(start + accumulate, end)]]
        window = [batch for batch in turns if batch.step != NO_TARGETS]
        together = [row for batch in window for row in batch.rows]
        right = [row for row in together if row % 3 == 0]
        wrong = [row for row in together if row % 3]
        for name, of in {"all": together, "positive": right, "negative": wrong}.items():
            expected = pytest.approx((sum(10 + row for row in of) / per_step, len(of) / per_step))
            assert [batch.step[name] for batch in window] == [expected] * len(window)


def test_a_batch_is_fetched_whole_and_each_row_once() -> None:
    letters: Any = SimpleNamespace(take=Mock(side_effect=lambda rows: ["abcd"[row] for row in rows]))
    planned: Any = BatchDataset(letters)
    batch = Batch.of([1, 0], None, [(3, 1), (2, 1, 0)])
    assert batch == Batch([2, 1, 0, 3, 1], None, [3, 2])
    assert planned.__getitems__(batch) == (["c", "b", "a", "d", "b"], batch)
    letters.take.assert_called_once_with([2, 1, 0, 3])

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.components.batching.plan import Packing, RowBatches, TokenBudget, best_fit, choose_batching
from datamodules.components.table import Example
from dust2gold.core.errors import InputError

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=150)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(LENGTHS, st.integers(60, 400), st.integers(0, 3))
def test_rows_times_longest_keep_to_the_budget(lengths: list[int], tokens: int, seed: int) -> None:
    batches = TokenBudget(tokens).plan(torch.tensor(lengths), generator(seed), 1)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    work = [len(batch) * max(lengths[row] for row in batch) for batch in batches]
    assert max(work) <= tokens
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert longest == sorted(longest)  # neighbours are alike
    for batch, following in pairwise(batches):  # no room was left unused, but for a bucket's width
        assert (len(batch) + 1) * 1.02 * (max(lengths[row] for row in following) + 1) > tokens


@given(LENGTHS, st.integers(60, 200), st.integers(1, 5), st.integers(0, 3))
def test_packed_rows_keep_to_their_width(lengths: list[int], width: int, rows: int, seed: int) -> None:
    batching = Packing(width, rows)
    batches = batching.plan(torch.tensor(lengths), generator(seed), 1)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        laid = batching.collate([Example("", "", True, [7] * lengths[row], 0) for row in batch], 0)["input_ids"]
        assert laid.shape[0] <= rows
        assert laid.shape[1] <= width


def test_best_fit_by_hand() -> None:
    # 6 and 4 fill a row; 5 leaves 5 and takes both 3 and 2; 5 would fit with 4, but 6 leaves less.
    assert best_fit([10, 11, 12, 13, 14], [6, 5, 4, 3, 2], 10) == [[10, 12], [11, 13, 14]]


@given(LENGTHS, st.integers(60, 200))
def test_best_fit_opens_a_row_only_if_it_must(lengths: list[int], width: int) -> None:
    rows = best_fit(range(len(lengths)), lengths, width)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    filled = [sum(lengths[number] for number in row) for row in rows]
    assert max(filled) <= width
    for place, row in enumerate(rows):
        assert all(earlier + lengths[row[0]] > width for earlier in filled[:place])


def test_options_choose() -> None:
    assert choose_batching(16, None, False, 1024, 900) == RowBatches(16)
    assert choose_batching(16, 4096, False, 1024, 900) == TokenBudget(4096)
    assert choose_batching(2, None, True, 1024, 100) == Packing(1024, 2)
    assert choose_batching(16, 4096, True, 1024, 900) == Packing(1024, 4)
    assert choose_batching(16, 600, True, 1024, 500) == Packing(600, 1)
    assert choose_batching(16, 4096, True, 1024, 100) == Packing(400, 10)  # short samples, narrow rows


@pytest.mark.parametrize("packing", [False, True])
def test_what_holds_no_row_is_refused(packing: bool) -> None:
    with pytest.raises(InputError, match=r"data\.tokens_per_batch.*101 tokens, a batch holds 100\n.*at least 101"):
        choose_batching(1, 100, packing, 1024, 101).plan(torch.tensor([3, 101]), generator(), 1)
    for field, rows, tokens in (("batch_size", 0, None), ("tokens_per_batch", 1, 0)):
        with pytest.raises(InputError, match=rf"data\.{field}.*at least 1, found 0"):
            choose_batching(rows, tokens, packing, 1024, 3)

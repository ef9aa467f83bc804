from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.components.batching.collate import IGNORE, labels_of, next_fit, packed, padded
from datamodules.components.table import Example

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=150)


def test_targets_are_the_rationale_or_all() -> None:
    example = Example("q/0", "q", True, [1, 2, 3, 4], prompt=3)
    assert labels_of(example, False) == [IGNORE, IGNORE, IGNORE, 4]
    assert labels_of(example, True) == [1, 2, 3, 4]


@given(LENGTHS, st.integers(1, 200))
def test_next_fit_keeps_the_order(lengths: list[int], width: int) -> None:
    rows = next_fit(lengths, width)
    assert [number for row in rows for number in row] == list(range(len(lengths)))
    for row, following in pairwise(rows):
        assert sum(lengths[n] for n in row) + lengths[following[0]] > width
    assert all(len(row) == 1 or sum(lengths[n] for n in row) <= width for row in rows)


def test_packed_batch_by_hand() -> None:
    samples = [
        Example("", "", True, tokens, prompt) for tokens, prompt in (([1, 2, 3], 2), ([4, 5], 0), ([6, 7, 8], 0))
    ]
    batch = packed(samples, pad_id=0, width=5)
    bounds, longest = batch.pop("sample_bounds")
    assert (bounds.dtype, bounds.tolist(), longest) == (torch.int32, [0, 3, 5, 8, 10], 3)
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
        "labels": [[IGNORE, IGNORE, 3, IGNORE, 5], [IGNORE, 7, 8, IGNORE, IGNORE]],
        "position_ids": [[0, 1, 2, 0, 1], [0, 1, 2, 0, 0]],
        "segments": [[0, 0, 0, 1, 1], [2, 2, 2, -1, -1]],
    }
    assert padded(samples, 0)["labels"].tolist() == [[IGNORE, IGNORE, 3], [4, 5, IGNORE], [6, 7, 8]]

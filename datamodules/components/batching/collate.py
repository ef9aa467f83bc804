"""Examples as the tensors of a batch: one a row, or several packed into a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.components.encoding.tokenization import pad, pad_with_mask
from datamodules.components.table import Example

IGNORE = -100
"""Label of a position without a target, as in Hugging Face."""


def labels_of(example: Example, loss_on_prompt: bool) -> list[int]:
    """Its tokens where they are targets (rationale and EOS, and the prompt if asked for), elsewhere IGNORE."""
    if loss_on_prompt:
        return example.tokens
    return [IGNORE] * example.prompt + example.tokens[example.prompt :]


def target_positions(labels: Tensor) -> Tensor:
    """Where labels [B, T] are predicted from: b·T + t for a target at t + 1 of row b, [N] int64."""
    return nn.functional.pad(labels[:, 1:] != IGNORE, (0, 1)).flatten().nonzero()[:, 0]


def padded(examples: Sequence[Example], pad_id: int, loss_on_prompt: bool = False) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `labels` [B, T] int64, right-padded to the longest: row b is example b."""
    return {
        **pad_with_mask([example.tokens for example in examples], pad_id),
        "labels": pad([labels_of(example, loss_on_prompt) for example in examples], IGNORE),
    }


def packed(examples: Sequence[Example], pad_id: int, width: int, loss_on_prompt: bool = False) -> dict[str, Any]:
    """Examples one after another in rows of at most `width` tokens, all [B, T] int64.

    Beside what `padded` gives: `position_ids`, from 0 in each example, and `segments`, the example's number within the
    batch (−1 at padding). The first token of an example is no target: what stands before it is another example.
    `sample_bounds`: where in these rows, one after another, an example or padding begins, and their end [N + 1] int32;
    and the longest's length.
    """
    rows = next_fit([len(example.tokens) for example in examples], width)
    runs = [[len(examples[number].tokens) for number in row] for row in rows]
    longest_row = max(map(sum, runs))
    lengths = torch.tensor([n for run in runs for n in (*run, longest_row - sum(run)) if n])  # [N]

    def joined(part: Callable[[int, Example], Sequence[int]]) -> list[list[int]]:
        return [[value for number in row for value in part(number, examples[number])] for row in rows]

    return {
        **pad_with_mask(joined(lambda _, example: example.tokens), pad_id),
        "labels": pad(joined(lambda _, example: [IGNORE, *labels_of(example, loss_on_prompt)[1:]]), IGNORE),
        "position_ids": pad(joined(lambda _, example: range(len(example.tokens))), 0),
        "segments": pad(joined(lambda number, example: [number] * len(example.tokens)), -1),
        "sample_bounds": (torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int(), int(lengths.max())),
    }


def next_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Cuts 0, 1, 2, … into the fewest rows of consecutive numbers whose lengths add up to at most `width`.

    A sample longer than `width` has a row to itself.
    """
    rows: list[list[int]] = []
    left = 0
    for number, length in enumerate(lengths):
        if not rows or length > left:
            rows.append([])
            left = width
        rows[-1].append(number)
        left -= length
    return rows

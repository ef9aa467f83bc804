"""Rows of ids and labels as the tensors of a batch: one sample a row, or several samples packed into a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from datamodules.components.encoding.tokenization import pad, pad_with_mask
from datamodules.components.table import Example

IGNORE = -100
"""Label of a position without a target, as in Hugging Face."""


class Labelled(NamedTuple):
    """One sample to train on."""

    ids: list[int]  # all its tokens
    labels: list[int]  # as `ids` at targets, IGNORE elsewhere; not shifted

    @classmethod
    def of(cls, example: Example, loss_on_prompt: bool) -> Labelled:
        """The targets are the rationale and EOS, and the prompt if asked for."""
        prompt, completion = example.tokens[: example.prompt], example.tokens[example.prompt :]
        return cls(example.tokens, (prompt if loss_on_prompt else [IGNORE] * len(prompt)) + completion)


def padded(samples: Sequence[Labelled], pad_id: int) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `labels` [B, T] int64, right-padded to the longest: row b is sample b."""
    return {
        **pad_with_mask([sample.ids for sample in samples], pad_id),
        "labels": pad([sample.labels for sample in samples], IGNORE),
    }


def packed(samples: Sequence[Labelled], pad_id: int, width: int) -> dict[str, Tensor]:
    """Samples one after another in rows of at most `width` tokens, all [B, T] int64.

    Beside what `padded` gives: `position_ids`, from 0 in each sample, and `segments`, the sample's number within the
    batch (−1 at padding). The first token of a sample is no target: what stands before it is another sample.
    """
    rows = next_fit([len(sample.ids) for sample in samples], width)

    def joined(part: Callable[[int, Labelled], Sequence[int]]) -> list[list[int]]:
        return [[value for number in row for value in part(number, samples[number])] for row in rows]

    return {
        **pad_with_mask(joined(lambda _, sample: sample.ids), pad_id),
        "labels": pad(joined(lambda _, sample: [IGNORE, *sample.labels[1:]]), IGNORE),
        "position_ids": pad(joined(lambda _, sample: range(len(sample.ids))), 0),
        "segments": pad(joined(lambda number, sample: [number] * len(sample.ids)), -1),
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

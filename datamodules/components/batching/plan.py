"""Ways to put the rows of a data set into batches, and to lay a batch out.

    RowBatches     so many rows of similar length
    TokenBudget    as many rows of similar length as keep rows × longest within a budget
    Packing        so many rows of fixed width, each full of several samples

A plan depends on the lengths and the generator alone, and the number of its batches on the lengths alone: every epoch
has the same number of steps, whatever the seed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.components.batching.collate import packed, padded
from datamodules.components.table import Example
from dust2gold.core.errors import InputError

_BUCKET_RATIO = 1.02
"""Lengths of a bucket differ by at most this factor: its rows may change places without changing where batches end."""


class Batching(ABC):
    """Says which rows make a batch and how they lie in it."""

    @abstractmethod
    def plan(self, lengths: Tensor, generator: torch.Generator, per_step: int) -> list[list[int]]:
        """All batches of an epoch; neighbours are alike in work, so that ranks which share them out wait little.

        Args:
            lengths: [n] int64, of each row, in tokens.
            generator: Of the order.
            per_step: Batches that make an optimizer step: ranks times accumulated batches.

        Raises:
            InputError: If a row is too long for a batch.
        """

    def collate(self, examples: Sequence[Example], pad_id: int, loss_on_prompt: bool = False) -> dict[str, Any]:
        """Lays the examples of a batch out."""
        return padded(examples, pad_id, loss_on_prompt)


@dataclass(frozen=True)
class RowBatches(Batching):
    """So many rows a batch, of similar length."""

    rows: int
    mega: int = 50  # optimizer steps whose batches are sorted together

    def __post_init__(self) -> None:
        check_at_least(1, self.rows, "data.batch_size")

    def plan(self, lengths: Tensor, generator: torch.Generator, per_step: int) -> list[list[int]]:
        """Shuffled rows, sorted by length within each mega-batch, cut into batches."""
        order = torch.randperm(len(lengths), generator=generator)
        return [
            batch.tolist()
            for chunk in order.split(self.rows * self.mega * per_step)
            for batch in chunk[lengths[chunk].argsort(stable=True)].split(self.rows)
        ]


@dataclass(frozen=True)
class TokenBudget(Batching):
    """As many rows a batch as keep rows × longest within a budget: each step does about the same work.

    The rows are sorted by length; those of about the same length change places from epoch to epoch.
    """

    tokens: int  # most tokens a batch, padding included

    def __post_init__(self) -> None:
        check_at_least(1, self.tokens, "data.tokens_per_batch")

    def plan(self, lengths: Tensor, generator: torch.Generator, per_step: int) -> list[list[int]]:
        """Rows by ascending length, cut where the next one would exceed the budget."""
        _check_fits(lengths, self.tokens)
        bounds = _bucket_bounds(lengths).clamp_max(self.tokens)
        order = _sorted_by(bounds, generator)
        batches: list[list[int]] = []
        for row, bound in zip(order.tolist(), bounds[order].tolist(), strict=True):
            # Ascending, so the newest row is the longest. Bounds, not lengths: the cuts stay where they are.
            if not batches or (len(batches[-1]) + 1) * bound > self.tokens:
                batches.append([])
            batches[-1].append(row)
        return batches


@dataclass(frozen=True)
class Packing(Batching):
    """Several samples in a row of fixed width, best-fit decreasing; attention stays inside each sample.

    Which lengths share a row is the same in every epoch, which samples of these lengths is not.
    """

    width: int  # most tokens a row
    rows: int  # rows a batch

    def __post_init__(self) -> None:
        check_at_least(1, self.rows, "data.batch_size")
        check_at_least(1, self.width, "data.max_length")

    def plan(self, lengths: Tensor, generator: torch.Generator, per_step: int) -> list[list[int]]:
        """Packed rows, shuffled and cut into batches, each a list of its samples row by row."""
        _check_fits(lengths, self.width)
        order = _sorted_by(-lengths, generator)
        rows = best_fit(order.tolist(), lengths[order].tolist(), self.width)
        mixed = torch.randperm(len(rows), generator=generator)
        return [[sample for row in batch.tolist() for sample in rows[row]] for batch in mixed.split(self.rows)]

    def collate(self, examples: Sequence[Example], pad_id: int, loss_on_prompt: bool = False) -> dict[str, Any]:
        """Lays the examples into rows again: never more rows than planned, for the order is kept."""
        return packed(examples, pad_id, self.width, loss_on_prompt)


def choose_batching(batch_size: int, tokens_per_batch: int | None, packing: bool, width: int, longest: int) -> Batching:
    """The batching that a DataModule's options ask for.

    Args:
        batch_size: Rows a batch, packed ones too.
        tokens_per_batch: Takes the place of `batch_size` if given.
        packing: Pack samples into rows.
        width: Most tokens of a packed row.
        longest: Tokens of the longest sample.
    """
    if not packing:
        return RowBatches(batch_size) if tokens_per_batch is None else TokenBudget(tokens_per_batch)
    if tokens_per_batch is None:
        return Packing(width, batch_size)
    check_at_least(1, tokens_per_batch, "data.tokens_per_batch")
    # Attention costs by the row's width, and four times the longest sample is enough to fill rows well.
    width = min(width, tokens_per_batch, max(1, 4 * longest))
    return Packing(width, tokens_per_batch // width)


def best_fit(samples: Sequence[int], lengths: Sequence[int], width: int) -> list[list[int]]:
    """Puts each sample in turn (longest first packs best) into the row where it leaves the least room, or opens one."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what rows have left, and their number; sorted
    for sample, length in zip(samples, lengths, strict=True):
        place = bisect_left(room, (length, -1))
        left, row = room.pop(place) if place < len(room) else (width, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(sample)
        if left > length:
            insort(room, (left - length, row))
    return rows


def _sorted_by(keys: Tensor, generator: torch.Generator) -> Tensor:
    """Rows by ascending key [n]; rows of the same key in random order."""
    order = torch.randperm(len(keys), generator=generator)
    return order[keys[order].argsort(stable=True)]


def _bucket_bounds(lengths: Tensor) -> Tensor:
    """Each length rounded up to the end of its bucket [n], at most to the longest length."""
    longest = int(lengths.max()) if len(lengths) else 1
    ends = [1]
    while ends[-1] < longest:
        ends.append(max(ends[-1] + 1, int(ends[-1] * _BUCKET_RATIO)))
    ends[-1] = longest
    return torch.tensor(ends)[torch.bucketize(lengths, torch.tensor(ends))]


def check_at_least(least: int, value: int, field: str) -> None:
    """Refuses a smaller value of an option."""
    if value < least:
        raise InputError(f"must be at least {least}, found {value}", field=field)


def _check_fits(lengths: Tensor, most: int) -> None:
    longest = int(lengths.max()) if len(lengths) else 0
    if longest > most:
        problem = f"the longest text has {longest} tokens, a batch holds {most}"
        remedy = f"give at least {longest}, or --data.max_length {most} --data.drop_longer true"
        raise InputError(problem, field="data.tokens_per_batch", remedy=remedy)

"""Which batch comes when and to whom: equal work per rank, exact after a resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.components.batching import Batching
from datamodules.components.counts import Step, step_counts
from foundation.errors import InputError


class Batch(NamedTuple):
    """What a data set is asked for.

    Attributes:
        rows: What the data set knows the rows by: their numbers, or groups of such.
        step: Counts of the optimizer step that the batch belongs to; None where nobody counted the rows.
    """

    rows: list[Any]
    step: Step | None


class TrainingSampler:
    """The batches of one rank, in an order that depends on (seed, epoch) alone.

    Batches that follow one another in the plan, alike in work, make a step of one batch a rank; the steps are shuffled.
    Where the number of batches does not divide, the last ones are halved until it does: nothing is trained twice. Only
    if all are single samples (`batch_size` 1) are some of them repeated, fewer than there are ranks.

    Args:
        lengths: Length of each row, in tokens.
        batching: What makes a batch.
        seed: Of the order.
        rank: This process.
        world: Number of processes.
        counts: [n, 3, 2] of the rows (`count_targets`), for `Batch.step`.
        accumulate: Batches of a rank that make an optimizer step.
        limit: Batches (int) or share of the batches (float) after which an epoch ends, and with it an optimizer step:
            the Trainer's `limit_train_batches`.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batching: Batching,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        counts: Tensor | None = None,
        accumulate: int = 1,
        limit: int | float = 1.0,
    ) -> None:
        self.lengths = torch.tensor(lengths, dtype=torch.int64)
        self.batching = batching
        self.seed = seed
        self.rank = rank
        self.world = world
        self.counts = counts
        self.accumulate = accumulate
        self.epoch = 0
        self._resume_epoch = 0
        self._skip = 0
        self._length = len(self._steps())
        self.limit = min(limit, self._length) if isinstance(limit, int) else int(limit * self._length)

    @property
    def sampler(self) -> TrainingSampler:
        """Itself: Lightning looks for `set_epoch` on a batch sampler's `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass."""
        self.epoch = epoch

    def resume(self, batches: int) -> None:
        """Goes on after `batches` batches of this rank, counted over all epochs."""
        self._resume_epoch, self._skip = divmod(batches, len(self))
        self.epoch = self._resume_epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return islice(self._batches(), self._skip if self.epoch == self._resume_epoch else 0, None)

    def _batches(self) -> Iterator[Batch]:
        steps = self._steps()
        start = 0
        while start < len(steps):
            end = start + self.accumulate
            if start < self.limit:
                end = min(end, self.limit)
            window = steps[start:end]
            counts = self._count(window)
            yield from (Batch(step[self.rank], counts) for step in window)
            start = end

    def _count(self, window: list[list[list[int]]]) -> Step | None:
        if self.counts is None:
            return None
        rows = [row for step in window for batch in step for row in batch]
        return step_counts(self.counts[torch.tensor(rows)], self.world * self.accumulate)

    def _steps(self) -> list[list[list[int]]]:
        """The epoch's batches [step][rank], each a list of rows."""
        if not len(self.lengths):
            return []
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches = _divisible(self.batching.plan(self.lengths, generator, self.world), self.world)
        steps = [batches[start : start + self.world] for start in range(0, len(batches), self.world)]
        return [steps[number] for number in torch.randperm(len(steps), generator=generator).tolist()]


class EvaluationSampler:
    """Each row exactly once over all ranks, longest first; ranks' numbers of rows and batches may differ by one.

    Args:
        lengths: Length of each row, in tokens.
        batch_size: Rows a batch.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1:
            raise InputError(f"must be at least 1, found {batch_size}", field="data.batch_size")
        order = torch.tensor(lengths, dtype=torch.int64).argsort(stable=True, descending=True)
        self._batches: list[list[int]] = [
            batch.tolist() for batch in order[rank::world].split(batch_size) if len(batch)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)


class Planned:
    """A data set that is asked for whole batches, and hands on the counts of the step beside the rows.

    Args:
        rows: A list, or any map-style data set.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, batch: Batch) -> tuple[list[Any], Step | None]:
        """Torch's fetcher gives this method, where there is one, the sampler's batch as it is."""
        return [self.rows[row] for row in batch.rows], batch.step


def _divisible(batches: list[list[int]], world: int) -> list[list[int]]:
    """Halves batches of the last, incomplete step (or any, if those are single rows) until all ranks have as many."""
    while missing := -len(batches) % world:
        last = range(max(0, len(batches) - (world - missing)), len(batches))
        place = max(last, key=lambda number: len(batches[number]))
        if len(batches[place]) == 1:
            place = max(range(len(batches)), key=lambda number: len(batches[number]))
        rows = batches[place]
        if len(rows) == 1:
            return batches + [batches[number % len(batches)] for number in range(missing)]
        middle = len(rows) // 2
        batches = [*batches[:place], rows[:middle], rows[middle:], *batches[place + 1 :]]
    return batches

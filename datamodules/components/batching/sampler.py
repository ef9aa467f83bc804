"""Which batch comes when and to whom: equal work per rank, exact after a resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.components.batching.counts import NO_TARGETS, Step, step_counts
from datamodules.components.batching.groups import Group, Grouping, group_counts, group_lengths
from datamodules.components.batching.plan import Batching, RowBatches, check_at_least
from datamodules.components.table import Example, Examples


class Batch(NamedTuple):
    """What a data set is asked for."""

    rows: list[int]  # their numbers; those of a group stand together
    step: Step | None  # counts of the optimizer step it belongs to; None where nobody counted the rows
    sizes: list[int] | None = None  # rows of each group; None where there are no groups

    @classmethod
    def of(cls, numbers: list[int], step: Step | None, groups: Sequence[Group] | None) -> Batch:
        """A batch of rows, or of groups, by their numbers."""
        if groups is None:
            return cls(numbers, step)
        chosen = [groups[number] for number in numbers]
        return cls([row for group in chosen for row in group], step, [len(group) for group in chosen])


class TrainingSampler:
    """The batches of one rank, in an order that depends on (seed, epoch, batches an optimizer step) alone.

    Of `world` × `accumulate` batches that follow one another in the plan, alike in work, becomes an optimizer step; the
    steps are shuffled, and each rank takes every `world`-th batch of a step. So n processes see in each step the rows
    that one process sees with n times the accumulation. Where the number of batches does not divide, the last ones are
    halved until it does; if nothing is left to halve, some ranks repeat a row that counts for nothing (`NO_TARGETS`).

    Args:
        lengths: Of each row, in tokens [n].
        batching: What makes a batch.
        seed: Of the order.
        rank: This process, of `world`.
        world: Number of processes.
        counts: [n, 3, 2] of the rows (`count_targets`), for `Batch.step`.
        accumulate: Batches of a rank that make an optimizer step.
        limit: Batches (int) or share of the batches (float) of a rank after which an epoch ends, and with it an
            optimizer step: the Trainer's `limit_train_batches`.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Tensor,
        batching: Batching,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        counts: Tensor | None = None,
        accumulate: int = 1,
        limit: int | float = 1.0,
    ) -> None:
        self.lengths = torch.as_tensor(lengths, dtype=torch.int64)
        self.batching = batching
        self.seed = seed
        self.rank = rank
        self.world = world
        self.counts = counts
        self.accumulate = accumulate
        self.per_step = world * accumulate
        self.groups: Sequence[Group] | None = None  # what the rows are, where they are groups
        self.epoch = 0
        self._resumed = (0, 0)  # epoch, batches of it that are done
        # Batches of an epoch before any is halved: the same however the steps are split.
        self.planned = len(batching.plan(self.lengths, self._rng(), self.per_step)) if len(lengths) else 0
        self._length = -(-self.planned // self.per_step) * accumulate
        self.limit = min(limit, self._length) if isinstance(limit, int) else int(limit * self._length)

    @property
    def sampler(self) -> TrainingSampler:
        """Itself: Lightning looks for `set_epoch` on a batch sampler's `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass."""
        self.epoch = epoch

    def resume(self, epoch: int, batch: int) -> None:
        """Goes on in an epoch after so many batches of this rank."""
        self._resumed = (epoch, batch)
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self._resumed
        return islice(self._batches(), done if self.epoch == epoch else 0, None)

    def _batches(self) -> Iterator[Batch]:
        batches, place = self._plan(), 0
        while batches:
            size = min(self.accumulate, self.limit - place) if place < self.limit else self.accumulate
            window, batches = batches[: size * self.world], batches[size * self.world :]
            place += size
            counted = torch.tensor([row for batch in window for row in batch], dtype=torch.int64)  # [rows of the step]
            counts = (
                None if self.counts is None or not len(counted) else step_counts(self.counts[counted], self.per_step)
            )
            for rows in window[self.rank :: self.world]:
                if rows:
                    yield Batch.of(rows, counts, self.groups)
                else:
                    yield Batch.of([int(self.lengths.argmin())], NO_TARGETS, self.groups)

    def _plan(self) -> list[list[int]]:
        """All batches of the epoch, step by step; an empty list is a padding batch."""
        if not len(self.lengths):
            return []
        rng = self._rng()
        batches = _with_whole_steps(self.batching.plan(self.lengths, rng, self.per_step), self.per_step)
        steps = torch.arange(len(batches)).view(-1, self.per_step)  # [steps, per_step]
        order = steps[torch.randperm(len(steps), generator=rng)].flatten()
        return [batches[number] for number in order.tolist()]

    def _rng(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)


class GroupBatchSampler(TrainingSampler):
    """Batches of groups of similar length, drawn anew each epoch.

    `lengths` [n] and `counts` [n, 3, 2] are those of the rationales, `sharding` is `rank`, `world`, `accumulate` and
    `limit` of `TrainingSampler`.
    """

    def __init__(
        self,
        grouping: Grouping,
        batch_size: int,
        lengths: Sequence[int] | Tensor,
        counts: Tensor | None = None,
        **sharding: Any,
    ) -> None:
        self.grouping = grouping
        self._rationales = (lengths, counts)
        super().__init__([0] * len(grouping), RowBatches(batch_size), grouping.seed, **sharding)

    def __iter__(self) -> Iterator[Batch]:
        lengths, counts = self._rationales
        self.groups = self.grouping.draw(self.epoch)
        self.lengths = group_lengths(lengths, self.groups)
        self.counts = None if counts is None else group_counts(counts, self.groups)
        yield from super().__iter__()


class EvaluationSampler:
    """Each row exactly once over all ranks, longest first; ranks' numbers of rows and batches may differ by one.

    A rank without a row, where others have some, gets an empty batch: Lightning wants every rank to take part.
    """

    def __init__(self, lengths: Sequence[int] | Tensor, batch_size: int, rank: int = 0, world: int = 1) -> None:
        check_at_least(1, batch_size, "data.batch_size")
        order = torch.as_tensor(lengths, dtype=torch.int64).argsort(stable=True, descending=True)
        self._order, self._most = order, -(-len(order[::world]) // batch_size)
        self._batches: list[list[int]] = [
            batch.tolist() for batch in order[rank::world].split(batch_size) if len(batch)
        ] or [[]] * min(1, len(order))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)


class ValidationSampler(EvaluationSampler):
    """The same with equally many batches a rank: where there is none left, the shortest row, counting for nothing.

    Sharded weights are gathered in every forward, so all ranks must make equally many. `Batch.step` makes of all
    batches of all ranks what an optimizer step is in training: their mean does not depend on how the rows are cut.

    Of groups, `lengths` [n] and `counts` [n, 3, 2] are those of the groups. `limit` is the Trainer's
    `limit_val_batches`: batches (int) or share of the batches (float) of a rank that are used.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Tensor,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        counts: Tensor | None = None,
        limit: int | float = 1.0,
        groups: Sequence[Group] | None = None,
    ) -> None:
        super().__init__(lengths, batch_size, rank, world)
        self._groups = groups
        batches = min(limit, self._most) if isinstance(limit, int) else int(limit * self._most)
        used = self._order[: batches * batch_size * world]
        self._step = None if counts is None or not len(used) else step_counts(counts[used], batches * world)

    def __len__(self) -> int:
        return self._most

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # what `BatchDataset` is asked for
        padding = Batch.of(self._order[-1:].tolist(), NO_TARGETS, self._groups)
        own = [Batch.of(rows, self._step, self._groups) for rows in self._batches if rows]
        return iter([*own, *[padding] * (self._most - len(own))])


class BatchDataset:
    """A data set that is asked for whole batches, and hands on the batch beside its examples."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, batch: Batch) -> tuple[list[Example], Batch]:
        """Torch's fetcher gives this method, where there is one, the sampler's batch as it is."""
        once = list(dict.fromkeys(batch.rows))
        found = dict(zip(once, self.examples.take(once), strict=True))
        return [found[row] for row in batch.rows], batch


def _with_whole_steps(batches: list[list[int]], per_step: int) -> list[list[int]]:
    """Halves batches of the last, incomplete step until it is whole; puts empty ones where all are single rows."""
    if not (missing := -len(batches) % per_step):
        return batches
    whole = len(batches) - (per_step - missing)
    last = batches[whole:]
    while len(last) < per_step and len(largest := max(last, key=len)) > 1:
        place, middle = last.index(largest), len(largest) // 2
        last[place : place + 1] = [largest[:middle], largest[middle:]]
    return [*batches[:whole], *last, *[[]] * (per_step - len(last))]

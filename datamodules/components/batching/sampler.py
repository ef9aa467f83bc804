"""Which batch comes when and to whom: equal work per rank, exact after a resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.components.batching.counts import NOTHING, Step, step_counts
from datamodules.components.batching.plan import Batching
from dust2gold.core.errors import InputError


class Batch(NamedTuple):
    """What a data set is asked for.

    Attributes:
        rows: What the data set knows the rows by: their numbers, or groups of such.
        step: Counts of the optimizer step that the batch belongs to; None where nobody counted the rows.
    """

    rows: list[Any]
    step: Step | None


class Leg(NamedTuple):
    """A stretch of an epoch that was trained with steps of one size.

    Attributes:
        share: Batches an optimizer step, all ranks and accumulated ones together.
        done: Batches trained so.
    """

    share: int
    done: int


class Place(NamedTuple):
    """Where training stands, whatever the number of processes that read it.

    Attributes:
        epoch: The epoch, from 0.
        legs: Of this epoch, one after the other; several if it was resumed with steps of another size.
    """

    epoch: int = 0
    legs: tuple[Leg, ...] = ()


class TrainingSampler:
    """The batches of one rank, in an order that depends on (seed, epoch, batches an optimizer step) alone.

    Of `world` × `accumulate` batches that follow one another in the plan, alike in work, becomes an optimizer step; the
    steps are shuffled, and each rank takes every `world`-th batch of a step. So n processes see in each step the rows
    that one process sees with n times the accumulation. Where the number of batches does not divide, the last ones are
    halved until it does; if nothing is left to halve, some ranks repeat a row that counts for nothing (`NOTHING`).

    After a resume with steps of another size the epoch's remaining batches keep their order and are cut into steps of
    the new size.

    Args:
        lengths: Length of each row, in tokens.
        batching: What makes a batch.
        seed: Of the order.
        rank: This process.
        world: Number of processes.
        counts: [n, 3, 2] of the rows (`count_targets`), for `Batch.step`.
        accumulate: Batches of a rank that make an optimizer step.
        limit: Batches (int) or share of the batches (float) of a rank after which an epoch ends, and with it an
            optimizer step: the Trainer's `limit_train_batches`.

    Attributes:
        planned: Batches of an epoch before any is halved; the same however the steps are split.
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
        self.share = world * accumulate
        self.epoch = 0
        self._resumed = Place()  # its legs are those of other splits
        self._skip = self._first = 0
        self.planned = len(batching.plan(self.lengths, self._generator(), self.share)) if len(lengths) else 0
        self._length = -(-self.planned // self.share) * accumulate
        self.limit = min(limit, self._length) if isinstance(limit, int) else int(limit * self._length)

    @property
    def sampler(self) -> TrainingSampler:
        """Itself: Lightning looks for `set_epoch` on a batch sampler's `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass."""
        self.epoch = epoch

    def resume(self, place: Place) -> None:
        """Goes on at a place, which may have been reached with another split."""
        legs = list(place.legs)
        done = legs.pop().done if legs and legs[-1].share == self.share else 0
        if done % self.world:  # of a step that is not whole
            done -= done % self.share
        self._resumed = Place(place.epoch, tuple(Leg(s, whole) for s, n in legs if (whole := n - n % s)))
        self.epoch = place.epoch
        self._first = self._length - len(self._plan()) // self.world
        self._skip = done // self.world

    @property
    def start(self) -> int:
        """Batches of this rank's epoch that lie behind the place it was resumed at."""
        return self._first + self._skip

    def place(self, epoch: int, batch: int) -> Place:
        """The place before this rank's so-manieth batch of an epoch, to `resume` at."""
        resumed = epoch == self._resumed.epoch
        first, legs = (self._first, self._resumed.legs) if resumed else (0, ())
        return Place(epoch, (*legs, Leg(self.share, (batch - first) * self.world)))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return islice(self._batches(), self._skip if self.epoch == self._resumed.epoch else 0, None)

    def _batches(self) -> Iterator[Batch]:
        batches = self._plan()
        place = self._length - len(batches) // self.world
        while batches:
            size = min(self.accumulate, self.limit - place) if place < self.limit else self.accumulate
            window, batches = batches[: size * self.world], batches[size * self.world :]
            counts, place = self._count(window), place + size
            for rows in window[self.rank :: self.world]:
                yield Batch(rows, counts) if rows else Batch([int(self.lengths.argmin())], NOTHING)

    def _count(self, window: list[list[int]]) -> Step | None:
        rows = [row for batch in window for row in batch]
        if self.counts is None or not rows:
            return None
        return step_counts(self.counts[torch.tensor(rows)], self.share)

    def _plan(self) -> list[list[int]]:
        """What is left of the epoch after the legs of other splits, step by step; an empty batch fills a turn."""
        if not len(self.lengths):
            return []
        legs = self._resumed.legs if self.epoch == self._resumed.epoch else ()
        shares, generator = [*(leg.share for leg in legs), self.share], self._generator()
        batches = _filled(self.batching.plan(self.lengths, generator, shares[0]), shares[0])
        steps = torch.arange(len(batches)).view(-1, shares[0])
        order = steps[torch.randperm(len(steps), generator=generator)].flatten()
        batches = [batches[number] for number in order.tolist()]
        for leg, share in zip(legs, shares[1:], strict=True):
            batches = _filled([batch for batch in batches[leg.done :] if batch], share)
        return batches

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)


class EvaluationSampler:
    """Each row exactly once over all ranks, longest first; ranks' numbers of rows and batches may differ by one.

    A rank without a row, where others have some, gets an empty batch: Lightning wants every rank to take part.

    Args:
        lengths: Length of each row, in tokens.
        batch_size: Rows a batch.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, lengths: Sequence[int] | Tensor, batch_size: int, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1:
            raise InputError(f"must be at least 1, found {batch_size}", field="data.batch_size")
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

    Args:
        lengths: Length of each row, in tokens.
        batch_size: Rows a batch.
        rank: This process.
        world: Number of processes.
        counts: [n, 3, 2] of the rows (`count_targets`).
        limit: Batches (int) or share of the batches (float) of a rank that are used: `limit_val_batches`.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Tensor,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        counts: Tensor | None = None,
        limit: int | float = 1.0,
    ) -> None:
        super().__init__(lengths, batch_size, rank, world)
        turns = min(limit, self._most) if isinstance(limit, int) else int(limit * self._most)
        used = self._order[: turns * batch_size * world]
        self._step = None if counts is None or not len(used) else step_counts(counts[used], turns * world)

    def __len__(self) -> int:
        return self._most

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # what `Planned` is asked for
        filler = Batch(self._order[-1:].tolist(), NOTHING)
        turns = [Batch(rows, self._step) for rows in self._batches if rows]
        return iter([*turns, *[filler] * (self._most - len(turns))])


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


def _filled(batches: list[list[int]], share: int) -> list[list[int]]:
    """Halves batches of the last, incomplete step until it is whole; puts empty ones where all are single rows."""
    if not (missing := -len(batches) % share):
        return batches
    whole = len(batches) - (share - missing)
    last = batches[whole:]
    while len(last) < share and len(largest := max(last, key=len)) > 1:
        place, middle = last.index(largest), len(largest) // 2
        last[place : place + 1] = [largest[:middle], largest[middle:]]
    return [*batches[:whole], *last, *[[]] * (share - len(last))]

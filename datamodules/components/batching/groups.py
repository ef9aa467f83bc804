"""Groups of right and wrong rationales of the same question, drawn anew each epoch: pairs, or all a question has."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from datamodules.components.batching.plan import RowBatches
from datamodules.components.batching.sampler import Batch, TrainingSampler
from datamodules.components.encoding.tokenization import Encoded
from dust2gold.core.errors import InputError

Group = tuple[int, ...]
"""Places in `Grouping.candidates` of rationales of one question; of a pair, first the right one; or pair after pair."""


class Groupable(Protocol):
    """What may stand in a group."""

    @property
    def question_id(self) -> str:
        """Whose rationale it is."""

    @property
    def positive(self) -> bool:
        """Its verdict."""

    @property
    def length(self) -> int:
        """In tokens, prompt and EOS included."""


C = TypeVar("C", bound=Groupable)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One encoded rationale that may stand in a group."""

    question_id: str
    encoded: Encoded
    positive: bool

    @property
    def length(self) -> int:
        """In tokens, prompt and EOS included."""
        return len(self.encoded)


class Grouping(Generic[C]):
    """Draws groups from the questions that have both a right and a wrong rationale, and looks them up (a data set).

    A group is a right and a wrong rationale of a question and, for `size` > 2, up to `size` − 2 of its others. Each
    epoch every such question gives `groups_per_question` groups with different pairs at their heart, or one for each
    pair it has if those are fewer: the number of groups is the same in every epoch, the groups depend on (seed, epoch,
    question) alone.

    Args:
        candidates: Rationales of any questions.
        groups_per_question: Most groups of one question an epoch.
        seed: Of the draws.
        size: Most rationales of a group; 2 makes pairs.
        right_only: Let questions without a wrong rationale give one group of up to `size` right ones.
    """

    def __init__(
        self, candidates: Sequence[C], groups_per_question: int, seed: int, size: int = 2, right_only: bool = False
    ) -> None:
        self.candidates = candidates
        self.groups_per_question = groups_per_question
        self.seed = seed
        self.size = size
        sides: dict[str, tuple[list[int], list[int]]] = {}
        for place, candidate in enumerate(candidates):
            right_and_wrong = sides.setdefault(candidate.question_id, ([], []))
            right_and_wrong[0 if candidate.positive else 1].append(place)
        self.questions = {name: both for name, both in sides.items() if both[0] and (both[1] or right_only)}

    def __len__(self) -> int:
        return sum(self._count(right, wrong) for right, wrong in self.questions.values())

    def __getitem__(self, group: Group) -> tuple[C, ...]:
        return tuple(self.candidates[place] for place in group)

    def length(self, group: Group) -> int:
        """Of its longest rationale, in tokens."""
        return max(self.candidates[place].length for place in group)

    def draw(self, epoch: int) -> list[Group]:
        """The groups of an epoch, question by question."""
        groups: list[Group] = []
        for name, (right, wrong) in self.questions.items():
            generator = random.Random(f"{self.seed}/{epoch}/{name}")
            if not wrong:
                groups.append(tuple(sorted(generator.sample(right, min(self.size, len(right))))))
                continue
            for number in generator.sample(range(len(right) * len(wrong)), self._count(right, wrong)):
                pair = right[number // len(wrong)], wrong[number % len(wrong)]
                groups.append(self._filled(pair, [*right, *wrong], generator))
        return groups

    def _filled(self, pair: tuple[int, int], places: list[int], generator: random.Random) -> Group:
        others = [place for place in places if place not in pair] if self.size > 2 else []
        return (*pair, *sorted(generator.sample(others, min(self.size - 2, len(others)))))

    def _count(self, right: list[int], wrong: list[int]) -> int:
        return min(self.groups_per_question, len(right) * len(wrong)) if wrong else 1


class QuestionPairs(Grouping[C]):
    """All pairs that an epoch draws from a question as one group, one after the other: `right, wrong, right, wrong, …`.

    A batch of such groups need read a rationale only once, in however many pairs it stands.

    Args:
        candidates: Rationales of any questions.
        pairs_per_question: Most pairs of one question an epoch.
        seed: Of the draws.
    """

    def __init__(self, candidates: Sequence[C], pairs_per_question: int, seed: int) -> None:
        super().__init__(candidates, pairs_per_question, seed)

    def __len__(self) -> int:
        return len(self.questions)

    def draw(self, epoch: int) -> list[Group]:
        """The pairs of each question in an epoch."""
        of_question: dict[str, list[int]] = {name: [] for name in self.questions}
        for pair in super().draw(epoch):
            of_question[self.candidates[pair[0]].question_id].extend(pair)
        return [tuple(places) for places in of_question.values()]


def require_both_verdicts(grouping: Grouping[Any], field: str) -> None:
    """Refuses data in which no question has both a right and a wrong rationale.

    Args:
        grouping: Of the data.
        field: Where they came from: `train` or `validation`.

    Raises:
        InputError: If there is no such question.
    """
    if not any(wrong for _, wrong in grouping.questions.values()):
        raise InputError(
            "no question has both a right and a wrong rationale",
            field=f"data.{field}",
            remedy="list files of both verdicts (positive.jsonl and negative.jsonl, or samples of both)"
            + (", or lower --data.validation_fraction" if field == "train" else ""),
        )


class GroupBatchSampler(TrainingSampler):
    """Batches of groups of similar length, drawn anew each epoch, in the order of a `TrainingSampler`.

    Args:
        grouping: Where the groups come from.
        batch_size: Groups a batch.
        rank: This process.
        world: Number of processes.
        counts: [n, 3, 2] of the candidates (`count_targets`), for `Batch.step`; without them it is None.
        accumulate: Batches of a rank that make an optimizer step.
        limit: As in `TrainingSampler`.
    """

    def __init__(
        self,
        grouping: Grouping[Any],
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        counts: Tensor | None = None,
        accumulate: int = 1,
        limit: int | float = 1.0,
    ) -> None:
        self.grouping = grouping
        self.candidate_counts = counts
        super().__init__(
            [0] * len(grouping), RowBatches(batch_size), grouping.seed, rank, world, None, accumulate, limit
        )

    def __iter__(self) -> Iterator[Batch]:
        groups = self.grouping.draw(self.epoch)
        self.lengths = torch.tensor([self.grouping.length(group) for group in groups], dtype=torch.int64)
        self.counts = None if self.candidate_counts is None else count_groups(self.candidate_counts, groups)
        for batch in super().__iter__():
            yield Batch([groups[number] for number in batch.rows], batch.step)


def count_groups(counts: Tensor, groups: Sequence[Group]) -> Tensor:
    """The counts of each group [groups, 3, 2]: of its candidates' [n, 3, 2] together, as often as they stand in it."""
    places = torch.tensor([place for group in groups for place in group], dtype=torch.int64)
    number = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]).long())
    return counts.new_zeros(len(groups), *counts.shape[1:]).index_add(0, number, counts[places])

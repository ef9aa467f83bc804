"""Groups of right and wrong rationales of the same question, drawn anew each epoch: pairs, or all a question has."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from dust2gold.core.errors import InputError

Group = tuple[int, ...]
"""Numbers of rationales of one question; of a pair, first the right one; or pair after pair."""


class Grouping:
    """Draws groups from the questions that have both a right and a wrong rationale.

    A group is a right and a wrong rationale of a question and, for `size` > 2, up to `size` − 2 of its others. Each
    epoch every such question gives `groups_per_question` groups with different pairs at their heart, or one for each
    pair it has if those are fewer: the number of groups is the same in every epoch, the groups depend on (seed, epoch,
    question) alone.

    Args:
        question_ids: Of each of n rationales.
        positive: Their verdicts [n].
        groups_per_question: Most groups of one question an epoch.
        seed: Of the draws.
        size: Most rationales of a group; 2 makes pairs.
        right_only: Let questions without a wrong rationale give one group of up to `size` right ones.
    """

    def __init__(
        self,
        question_ids: Sequence[str],
        positive: Sequence[bool] | Tensor,
        groups_per_question: int,
        seed: int,
        size: int = 2,
        right_only: bool = False,
    ) -> None:
        self.groups_per_question = groups_per_question
        self.seed = seed
        self.size = size
        sides: dict[str, tuple[list[int], list[int]]] = {}
        for number, (name, right) in enumerate(zip(question_ids, torch.as_tensor(positive).tolist(), strict=True)):
            sides.setdefault(name, ([], []))[0 if right else 1].append(number)
        # The numbers of each question's right and wrong rationales.
        self.questions = {name: both for name, both in sides.items() if both[0] and (both[1] or right_only)}

    def __len__(self) -> int:
        """Groups an epoch."""
        return sum(self._count(right, wrong) for right, wrong in self.questions.values())

    def draw(self, epoch: int) -> list[Group]:
        """The groups of an epoch, question by question."""
        return [group for name in self.questions for group in self.draw_question(name, epoch)]

    def draw_question(self, name: str, epoch: int) -> list[Group]:
        """The groups of one question in an epoch."""
        right, wrong = self.questions[name]
        rng = random.Random(f"{self.seed}/{epoch}/{name}")
        if not wrong:
            return [tuple(sorted(rng.sample(right, min(self.size, len(right)))))]
        groups: list[Group] = []
        for drawn in rng.sample(range(len(right) * len(wrong)), self._count(right, wrong)):
            pair = right[drawn // len(wrong)], wrong[drawn % len(wrong)]
            others = [number for number in (*right, *wrong) if number not in pair] if self.size > 2 else []
            groups.append((*pair, *sorted(rng.sample(others, min(self.size - 2, len(others))))))
        return groups

    def _count(self, right: list[int], wrong: list[int]) -> int:
        return min(self.groups_per_question, len(right) * len(wrong)) if wrong else 1

    def require_both_verdicts(self, field: str) -> None:
        """Refuses data, of `train` or `validation`, in which no question has both a right and a wrong rationale."""
        if not any(wrong for _, wrong in self.questions.values()):
            remedy = "list files of both verdicts (positive.jsonl and negative.jsonl, or samples of both)"
            remedy += ", or lower --data.validation_fraction" if field == "train" else ""
            raise InputError("no question has both a right and a wrong rationale", field=f"data.{field}", remedy=remedy)


class QuestionPairs(Grouping):
    """All pairs that an epoch draws from a question as one group, one after the other: `right, wrong, right, wrong, …`.

    A batch of such groups need read a rationale only once, in however many pairs it stands.
    """

    def __len__(self) -> int:
        return len(self.questions)

    def draw_question(self, name: str, epoch: int) -> list[Group]:
        """The pairs of one question in an epoch, as one group."""
        return [tuple(number for pair in super().draw_question(name, epoch) for number in pair)]


def group_lengths(lengths: Sequence[int] | Tensor, groups: Sequence[Group]) -> Tensor:
    """The longest rationale of each group [groups] int64, in tokens; `lengths` [n] are those of all rationales."""
    of_each = torch.as_tensor(lengths).tolist()
    return torch.tensor([max(of_each[number] for number in group) for group in groups], dtype=torch.int64)


def group_counts(counts: Tensor, groups: Sequence[Group]) -> Tensor:
    """The counts of each group [groups, 3, 2]: of its rationales' [n, 3, 2] together, as often as they stand in it."""
    numbers = torch.tensor([number for group in groups for number in group], dtype=torch.int64)  # [rows]
    owner = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]).long())  # [rows]
    return counts.new_zeros(len(groups), *counts.shape[1:]).index_add(0, owner, counts[numbers])

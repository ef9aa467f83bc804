"""Accuracy overall and by group, where ranks need not know the same groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from dust2gold.core.text import visible

T = TypeVar("T")
_LONGEST_NAME = 100


def gather_objects(value: T) -> list[T]:
    """The value of every rank, in the order of the ranks; only our own without a process group."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


class GroupedAccuracy(Metric):
    """Mean of fractional correctness over all questions and over each named group of them.

    `compute()` gives, for questions with a subject and a level:

        {"accuracy": 0.5, "accuracy/level/Level 1": 1.0, "accuracy/subject/Algebra": 0.5,
         "count": 2, "count/level/Level 1": 1, "count/subject/Algebra": 2}

    Ranks may hold different groups, which tensor states cannot: the sums are a plain dict, gathered in `compute`.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sums: dict[str, tuple[float, int]] = {}

    def update(self, correct: Tensor | Sequence[float], groups: Iterable[Mapping[str, str]]) -> None:
        """Adds questions.

        Args:
            correct: [Q], 0 to 1.
            groups: For each question the group it belongs to by kind, e.g. {"subject": "Algebra", "level": ""}; blank
                names are left out.
        """
        values = correct.tolist() if isinstance(correct, Tensor) else correct
        for value, named in zip(values, groups, strict=True):
            for group in ("", *(f"/{kind}/{name}" for kind, text in named.items() if (name := metric_name(text)))):
                total, count = self.sums.get(group, (0.0, 0))
                self.sums[group] = (total + float(value), count + 1)

    def compute(self) -> dict[str, Tensor]:
        """The accuracies in float64 and the numbers of questions, over all ranks; NaN and 0 before any question."""
        merged: dict[str, tuple[float, int]] = {"": (0.0, 0)}
        for sums in gather_objects(self.sums) if self.sync_on_compute else [self.sums]:
            for group, (total, count) in sums.items():
                old_total, old_count = merged.get(group, (0.0, 0))
                merged[group] = (old_total + total, old_count + count)
        ordered = sorted(merged.items())
        accuracies = {
            f"accuracy{group}": torch.tensor(total / n if n else float("nan"), dtype=torch.float64)
            for group, (total, n) in ordered
        }
        return accuracies | {f"count{group}": torch.tensor(n) for group, (_, n) in ordered}

    def reset(self) -> None:
        """Forgets all questions."""
        super().reset()
        self.sums = {}


def metric_name(name: str) -> str:
    """A group's name as part of a metric's, without what Lightning, rich's markup or a terminal would interpret."""
    plain = visible(name).replace("[", "(").replace("]", ")").replace("dataloader_idx", "dataloader idx")
    return plain[:_LONGEST_NAME]

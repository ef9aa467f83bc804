"""Teacher targets as rows of fixed width, to be kept in a file.

| storage | per token | what is lost |
|---|---|---|
| float32 | 4 d bytes | nothing beyond 1e-7 |
| float16 | 2 d bytes | KD's gradient is right to 1e-3 |
| top_k | 6 k bytes, 4 k up to 65,536 tokens | the tail's shape: the student's own replaces it, 2e-2 at k = 64 |

and four bytes for the divergence, from which β comes, of a sample or of a token.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.distillation.cache import Columns
from lightning_modules.components.losses.output_head import TeacherTargets, TopK


class Storage(ABC):
    """Turns teacher targets into columns and back.

    Args:
        columns: The summary's columns, without rows.
        calibrated: Keep the divergence too.
    """

    def __init__(self, columns: Columns, calibrated: bool) -> None:
        self.columns = {**columns, "divergence": torch.empty(0)} if calibrated else columns

    @property
    def row_bytes(self) -> int:
        """Bytes per target token."""
        return sum(column.element_size() * math.prod(column.shape[1:]) for column in self.columns.values())

    def encode(self, targets: TeacherTargets) -> Columns:
        """The columns of N target tokens; an InputError if a number is too large for the storage."""
        made = self._summary_columns(targets.summary)
        if targets.divergence is not None:
            made["divergence"] = targets.divergence  # [N]
        return {name: made[name].detach().cpu().to(column.dtype) for name, column in self.columns.items()}

    def decode(self, columns: Columns, device: torch.device) -> TeacherTargets:
        """The inverse of `encode`."""
        moved = {name: column.to(device) for name, column in columns.items()}
        return TeacherTargets(self._summary(moved), moved.get("divergence"))

    @abstractmethod
    def _summary_columns(self, summary: Tensor | TopK) -> Columns:
        """In any dtype."""

    @abstractmethod
    def _summary(self, columns: Columns) -> Tensor | TopK: ...


class SummaryStorage(Storage):
    """The summary, d = `width` numbers of `dtype`."""

    def __init__(self, width: int, calibrated: bool, dtype: torch.dtype) -> None:
        super().__init__({"summary": torch.empty(0, width, dtype=dtype)}, calibrated)

    def _summary_columns(self, summary: Tensor | TopK) -> Columns:
        assert isinstance(summary, Tensor)
        dtype = self.columns["summary"].dtype
        summary = summary.to(dtype)  # [N, d]
        if not summary.isfinite().all():
            raise InputError(
                f"the teacher's summary does not fit into {str(dtype).removeprefix('torch.')}",
                field="model.cache.storage",
                remedy="take float32, or look whether the teacher's weights are finite",
            )
        return {"summary": summary}

    def _summary(self, columns: Columns) -> Tensor:
        return columns["summary"].float()  # [N, d]


class TopKStorage(Storage):
    """The k likeliest tokens of `vocabulary` and their probabilities in half precision."""

    def __init__(self, vocabulary: int, calibrated: bool, k: int) -> None:
        if k > vocabulary:
            raise InputError(f"{k} is more than the vocabulary of {vocabulary}", field="model.cache.top_k")
        tokens = torch.empty(0, k, dtype=torch.uint16 if vocabulary <= 2**16 else torch.int32)
        super().__init__({"tokens": tokens, "probabilities": torch.empty(0, k, dtype=torch.float16)}, calibrated)

    def _summary_columns(self, summary: Tensor | TopK) -> Columns:
        assert isinstance(summary, TopK)
        return summary._asdict()  # [N, k] each

    def _summary(self, columns: Columns) -> TopK:
        return TopK(columns["tokens"].long(), columns["probabilities"].float())  # [N, k] each


STORAGES: dict[str, Callable[[int, int, bool, int], Storage]] = {
    "float16": lambda vocabulary, width, calibrated, k: SummaryStorage(width, calibrated, torch.float16),
    "float32": lambda vocabulary, width, calibrated, k: SummaryStorage(width, calibrated, torch.float32),
    "top_k": lambda vocabulary, width, calibrated, k: TopKStorage(vocabulary, calibrated, k),
}
"""Storages by name, made from (V, d, calibrated, k)."""

"""What teachers say of a target token, as rows of fixed width, to be kept in a file.

| storage | per token | what is lost |
|---|---|---|
| float32 | 4 d bytes | nothing beyond 1e-7 |
| float16 | 2 d bytes | KD's gradient is right to 1e-3 |
| top_k | 6 k bytes, 4 k up to 65,536 tokens | the tail's shape: the student's own is put there, 2e-2 at k = 64 |

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
    """Turns what teachers say into columns and back.

    Attributes:
        columns: The columns, without rows.
    """

    columns: Columns

    @property
    def row_bytes(self) -> int:
        """Bytes per target token."""
        return sum(column.element_size() * math.prod(column.shape[1:]) for column in self.columns.values())

    def encode(self, taught: TeacherTargets) -> Columns:
        """What is kept of N target tokens.

        Raises:
            InputError: If a number is too large for the storage.
        """
        made = self._summary_columns(taught)
        if taught.divergence is not None:
            made["divergence"] = taught.divergence
        return {name: made[name].detach().cpu().to(column.dtype) for name, column in self.columns.items()}

    def decode(self, columns: Columns, device: torch.device) -> TeacherTargets:
        """The inverse of `encode`."""
        moved = {name: column.to(device) for name, column in columns.items()}
        return TeacherTargets(self._summary(moved), moved.get("divergence"))

    @abstractmethod
    def _summary_columns(self, taught: TeacherTargets) -> Columns:
        """The summary's columns, in any dtype."""

    @abstractmethod
    def _summary(self, columns: Columns) -> Tensor | TopK:
        """Reads the summary."""


class SummaryStorage(Storage):
    """The summary, d numbers.

    Args:
        width: d.
        calibrated: Keep the divergence too.
        dtype: Of the numbers.
    """

    def __init__(self, width: int, calibrated: bool, dtype: torch.dtype) -> None:
        self.columns = {"summary": torch.empty(0, width, dtype=dtype), **_divergence(calibrated)}

    def _summary_columns(self, taught: TeacherTargets) -> Columns:
        assert isinstance(taught.summary, Tensor)
        dtype = self.columns["summary"].dtype
        summary = taught.summary.to(dtype)  # [N, d]
        if not summary.isfinite().all():
            raise InputError(
                f"the teacher's summary does not fit into {str(dtype).removeprefix('torch.')}",
                field="model.cache.storage",
                remedy="take float32, or look whether the teacher's weights are finite",
            )
        return {"summary": summary}

    def _summary(self, columns: Columns) -> Tensor:
        return columns["summary"].float()


class TopKStorage(Storage):
    """The k likeliest tokens and their probabilities in half precision.

    Args:
        vocabulary: V.
        calibrated: Keep the divergence too.
        k: How many.

    Raises:
        InputError: If the vocabulary is smaller than k.
    """

    def __init__(self, vocabulary: int, calibrated: bool, k: int) -> None:
        if k > vocabulary:
            raise InputError(f"{k} is more than the vocabulary of {vocabulary}", field="model.cache.top_k")
        token = torch.uint16 if vocabulary <= 2**16 else torch.int32
        self.columns = {
            "tokens": torch.empty(0, k, dtype=token),
            "probabilities": torch.empty(0, k, dtype=torch.float16),
            **_divergence(calibrated),
        }

    def _summary_columns(self, taught: TeacherTargets) -> Columns:
        assert isinstance(taught.summary, TopK)
        return {"tokens": taught.summary.tokens, "probabilities": taught.summary.probabilities}  # [N, k] each

    def _summary(self, columns: Columns) -> TopK:
        return TopK(columns["tokens"].long(), columns["probabilities"].float())


def _divergence(calibrated: bool) -> Columns:
    return {"divergence": torch.empty(0)} if calibrated else {}


STORAGES: dict[str, Callable[[int, int, bool, int], Storage]] = {
    "float16": lambda vocabulary, width, calibrated, k: SummaryStorage(width, calibrated, torch.float16),
    "float32": lambda vocabulary, width, calibrated, k: SummaryStorage(width, calibrated, torch.float32),
    "top_k": lambda vocabulary, width, calibrated, k: TopKStorage(vocabulary, calibrated, k),
}
"""Storages by name, made from (V, d, calibrated, k)."""

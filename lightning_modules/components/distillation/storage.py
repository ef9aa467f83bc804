"""A teacher's lessons as bytes: one fixed-size row per target token.

| storage | per token | what is lost |
|---|---|---|
| float32 | 4 d bytes | nothing beyond 1e-7 |
| float16 | 2 d bytes | KD's gradient is right to 1e-3 |
| top_k | 6 k bytes, 4 k up to 65,536 tokens | the tail's shape: the student's own is put there, 2e-2 at k = 64 |

and four bytes for the divergence, from which β comes, of a sample or of a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.losses.output_head import Lesson, TopK

_DIVERGENCE = ("divergence", "<f4")


class Storage(ABC):
    """Writes lessons as rows of a NumPy record type and reads them back.

    Attributes:
        row: The record type.
    """

    row: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes per target token."""
        return self.row.itemsize

    def encode(self, lesson: Lesson, rows: slice) -> bytes:
        """The lesson of some target tokens.

        Raises:
            InputError: If a number is too large for the storage.
        """
        array = np.empty(rows.stop - rows.start, self.row)
        if lesson.divergence is not None:
            array["divergence"] = _numpy(lesson.divergence[rows])
        self._fill(array, lesson, rows)
        return array.tobytes()

    def decode(self, payloads: Sequence[memoryview], device: torch.device) -> Lesson:
        """The inverse of `encode`, of several samples one after the other."""
        array = np.concatenate([np.frombuffer(p, self.row) for p in payloads] or [np.empty(0, self.row)])
        has_divergence = "divergence" in (self.row.names or ())
        divergence = torch.from_numpy(array["divergence"].copy()).to(device) if has_divergence else None
        return Lesson(self._summary(array, device), divergence)

    @abstractmethod
    def _fill(self, array: np.ndarray[Any, Any], lesson: Lesson, rows: slice) -> None:
        """Writes the summary into the array."""

    @abstractmethod
    def _summary(self, array: np.ndarray[Any, Any], device: torch.device) -> Tensor | TopK:
        """Reads it."""


class SummaryStorage(Storage):
    """The summary, d numbers.

    Args:
        width: d.
        calibrated: Keep the divergence too.
        dtype: NumPy's name of the number type.
    """

    def __init__(self, width: int, calibrated: bool, dtype: str) -> None:
        self.row = np.dtype([*([_DIVERGENCE] if calibrated else []), ("summary", dtype, (width,))])

    def _fill(self, array: np.ndarray[Any, Any], lesson: Lesson, rows: slice) -> None:
        assert isinstance(lesson.summary, Tensor)
        with np.errstate(over="ignore"):
            array["summary"] = _numpy(lesson.summary[rows])
        if not np.isfinite(array["summary"]).all():
            raise InputError(
                f"the teacher's summary does not fit into {array['summary'].dtype}",
                field="model.cache.storage",
                remedy="take float32, or look whether the teacher's weights are finite",
            )

    def _summary(self, array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
        return torch.from_numpy(array["summary"].copy()).to(device).float()


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
        token = "<u2" if vocabulary <= 2**16 else "<u4"
        fields = [("tokens", token, (k,)), ("probabilities", "<f2", (k,))]
        self.row = np.dtype([*([_DIVERGENCE] if calibrated else []), *fields])

    def _fill(self, array: np.ndarray[Any, Any], lesson: Lesson, rows: slice) -> None:
        assert isinstance(lesson.summary, TopK)
        array["tokens"] = _numpy(lesson.summary.tokens[rows])
        array["probabilities"] = _numpy(lesson.summary.probabilities[rows])

    def _summary(self, array: np.ndarray[Any, Any], device: torch.device) -> TopK:
        tokens = torch.from_numpy(array["tokens"].astype(np.int64))
        return TopK(tokens.to(device), torch.from_numpy(array["probabilities"].copy()).to(device).float())


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy()


STORAGES: dict[str, Callable[[int, int, bool, int], Storage]] = {
    "float16": lambda vocabulary, width, calibrated, k: SummaryStorage(width, calibrated, "<f2"),
    "float32": lambda vocabulary, width, calibrated, k: SummaryStorage(width, calibrated, "<f4"),
    "top_k": lambda vocabulary, width, calibrated, k: TopKStorage(vocabulary, calibrated, k),
}
"""Storages by name, made from (V, d, calibrated, k)."""

"""Teacher targets as columns of fixed width, for files: a summary and a divergence (docs/method.md, stage 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch

from dust2gold.core.errors import InputError
from lightning_modules.components.distillation.cache import Columns
from lightning_modules.components.losses.output_head import TeacherTargets, TopK


class Storage:
    """Turns teacher targets into columns and back.

    Args:
        columns: Those of a summary, without rows: `summary`, or `tokens` and `probabilities`.
        calibrated: Keep the divergence too.
    """

    def __init__(self, columns: Columns, calibrated: bool) -> None:
        self.columns = {**columns, "divergence": torch.empty(0)} if calibrated else columns

    @property
    def bytes_per_token(self) -> int:
        """What a target token takes."""
        return sum(column.element_size() * math.prod(column.shape[1:]) for column in self.columns.values())

    def encode(self, targets: TeacherTargets) -> Columns:
        """The columns of N target tokens; an InputError if a number is too large for the storage."""
        if isinstance(targets.summary, TopK):
            made = targets.summary._asdict()  # [N, k] each
        else:
            dtype = self.columns["summary"].dtype
            made = {"summary": targets.summary.to(dtype)}  # [N, d]
            if not made["summary"].isfinite().all():
                raise InputError(
                    f"the teacher's summary does not fit into {str(dtype).removeprefix('torch.')}",
                    field="model.cache.storage",
                    remedy="take float32, or look whether the teacher's weights are finite",
                )
        if targets.divergence is not None:
            made["divergence"] = targets.divergence  # [N]
        return {name: made[name].detach().cpu().to(column.dtype) for name, column in self.columns.items()}

    def joined(self, samples: Sequence[Columns]) -> Columns:
        """The columns of samples one after the other; of none, no rows."""
        with torch.autocast("cpu", enabled=False):  # which would promote the stored types, or refuse float16
            return {
                name: torch.cat([empty, *(sample[name] for sample in samples)]) for name, empty in self.columns.items()
            }

    def decode(self, columns: Columns, device: torch.device) -> TeacherTargets:
        """The inverse of `encode`."""
        moved = {name: column.to(device) for name, column in columns.items()}
        if "tokens" in moved:
            top = TopK(moved["tokens"].long(), moved["probabilities"].float())  # [N, k] each
            return TeacherTargets(top, moved.get("divergence"))
        return TeacherTargets(moved["summary"].float(), moved.get("divergence"))


def _summary(dtype: torch.dtype, vocabulary: int, width: int, calibrated: bool, k: int) -> Storage:
    return Storage({"summary": torch.empty(0, width, dtype=dtype)}, calibrated)


def _top_k(vocabulary: int, width: int, calibrated: bool, k: int) -> Storage:
    if k > vocabulary:
        raise InputError(f"{k} is more than the vocabulary of {vocabulary}", field="model.cache.top_k")
    tokens = torch.empty(0, k, dtype=torch.uint16 if vocabulary <= 2**16 else torch.int32)
    return Storage({"tokens": tokens, "probabilities": torch.empty(0, k, dtype=torch.float16)}, calibrated)


STORAGES: dict[str, Callable[[int, int, bool, int], Storage]] = {
    "float16": partial(_summary, torch.float16),
    "float32": partial(_summary, torch.float32),
    "top_k": _top_k,
}
"""Storages by name, made from (V, d, calibrated, k)."""

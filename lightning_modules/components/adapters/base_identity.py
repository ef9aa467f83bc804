"""Whether two loads of a base model have the same weights, whatever their dtype and quantization."""

from __future__ import annotations

import base64
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dust2gold.core.provenance import short_hash
from lightning_modules.components.adapters.manifest import damaged_manifest
from lightning_modules.components.adapters.quantization import Quantization, quantization_of

_VALUES = 4
_RELATIVE, _ABSOLUTE = 2**-8 + 2**-11, 2**-24
"""What rounding to bfloat16 on one side and to float16 on the other makes of one number."""


@dataclass(frozen=True, eq=False)
class BaseIdentity:
    """What a base is known by; taken before adapters are put in and before it is sharded."""

    shapes: str  # a hash of the names and shapes of all weights; "" on the meta device, where nothing can be compared
    values: Tensor  # [weights, 4] float32, a few values of each weight, evenly spaced; NaN for a quantised one
    dtype: str  # that the base is loaded in
    quantization: Quantization  # of its linear layers

    @classmethod
    def of(cls, base: nn.Module) -> BaseIdentity:
        """That of a model without adapters."""
        weights = dict(base.named_parameters())
        on_meta = any(weight.is_meta for weight in weights.values())
        rows = [] if on_meta else [_some_values(weight) for weight in weights.values()]
        return cls(
            shapes="" if on_meta else _shapes(base, weights),
            values=torch.stack(rows) if rows else torch.empty(0, _VALUES, device="cpu"),  # [weights, 4]
            dtype=str(getattr(base, "dtype", "")).removeprefix("torch."),
            quantization=quantization_of(base),
        )

    @property
    def key(self) -> str:
        """A hash that differs between dtypes and quantizations, too, for what depends on the last bit."""
        return short_hash(self.to_json())

    def to_json(self) -> dict[str, str]:
        """For a manifest or a checkpoint."""
        values = base64.b64encode(self.values.numpy().astype("<f4").tobytes()).decode()
        return {"shapes": self.shapes, "dtype": self.dtype, "quantization": self.quantization, "values": values}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BaseIdentity:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        values = np.frombuffer(base64.b64decode(value["values"]), "<f4").reshape(-1, _VALUES)
        return cls(value["shapes"], torch.from_numpy(values.copy()), value["dtype"], value["quantization"])

    def is_same(self, trained_on: BaseIdentity) -> bool:
        """Whether this base has the weights something was trained on, up to rounding, where neither is quantised.

        Prints a warning for another quantization of the same base.
        """
        if not self.shapes or not trained_on.shapes:
            return True
        if self.shapes != trained_on.shapes or self.values.shape != trained_on.values.shape:
            return False
        here, there = self.values, trained_on.values  # [weights, 4]
        explained = (here - there).abs() <= _RELATIVE * torch.maximum(here.abs(), there.abs()) + _ABSOLUTE
        if not bool((explained | ~here.isfinite() | ~there.isfinite()).all()):
            return False
        if trained_on.quantization != self.quantization:
            print(
                f"trained with quantization {trained_on.quantization}, the base is loaded with {self.quantization}: "
                "the results will be close, not the same",
                file=sys.stderr,
            )
        return True


def base_of(directory: Path, manifest: dict[str, Any]) -> BaseIdentity | None:
    """The base that a manifest names, None if it names none; an InputError if its entry is damaged."""
    try:
        return None if manifest.get("base") is None else BaseIdentity.from_json(manifest["base"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_manifest(directory, error) from error


def _some_values(weight: Tensor) -> Tensor:
    """[4] float32 on the CPU; NaN of a quantised or empty weight."""
    flat = weight.detach().reshape(-1)
    if not weight.is_floating_point() or not len(flat):
        return torch.full((_VALUES,), torch.nan, device="cpu")
    indices = [(2 * k + 1) * len(flat) // (2 * _VALUES) for k in range(_VALUES)]
    return flat[indices].float().cpu()


def _shapes(base: nn.Module, weights: dict[str, nn.Parameter]) -> str:
    """The same in every quantization, which packs the weights of linear layers."""
    linear = {name: module for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    found = [f"{name} {module.out_features} {module.in_features}" for name, module in linear.items()]
    found += [f"{name} {tuple(w.shape)}" for name, w in weights.items() if name.rpartition(".")[0] not in linear]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]

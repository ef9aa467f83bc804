"""Which base an adapter belongs to, told by a short hash of its weights."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.components.adapters.quantization import quantization_of


@dataclass(frozen=True)
class BaseIdentity:
    """What a base is known by.

    Attributes:
        fingerprint: Of its weights; of a quantised base, whose weights differ a little between machines, that of the
            weights left alone, and how the others are quantised. "" where nothing can be sampled.
        unquantized: Of the weights that quantisation leaves alone.
        quantization: Of the others.
        dtype: That the base is loaded in.
        in_float16: As `unquantized` after a rounding to float16, which loses what bfloat16 keeps (small weights) and
            rounds a second time what bfloat16 then rounds: a base in float16 has another hash than in float32.
        all_in_float16: As `fingerprint` after that rounding; "" of a quantised base.
        shapes: Of the weights' names and shapes alone.
    """

    fingerprint: str
    unquantized: str
    quantization: str
    dtype: str = ""
    in_float16: str = ""
    all_in_float16: str = ""
    shapes: str = ""

    @classmethod
    def of(cls, base: nn.Module) -> BaseIdentity:
        """That of a model without adapters."""
        unquantized, quantization = unquantized_fingerprint(base), quantization_of(base)
        fingerprint = base_fingerprint(base) if quantization == "none" else f"{unquantized}-{quantization}"
        return cls(
            fingerprint,
            unquantized,
            quantization,
            dtype=str(getattr(base, "dtype", "")).removeprefix("torch."),
            in_float16=unquantized_fingerprint(base, torch.float16),
            all_in_float16=base_fingerprint(base, torch.float16) if quantization == "none" else "",
            shapes=_shapes(base),
        )

    def facts(self) -> dict[str, str]:
        """Entries of an adapter's manifest."""
        return {
            "base_fingerprint": self.fingerprint,
            "unquantized_fingerprint": self.unquantized,
            "quantization": self.quantization,
            "base_dtype": self.dtype,
            "unquantized_float16": self.in_float16,
            "base_float16": self.all_in_float16,
            "base_shapes": self.shapes,
        }

    def fits(self, manifest: dict[str, Any]) -> bool:
        """Whether an adapter was trained on this base, or on it in another quantisation, which is said on stderr.

        Said is also where float16 on one side and bfloat16 on the other leave nothing to compare but names and shapes.
        """
        trained_on, bits = manifest.get("base_fingerprint", ""), manifest.get("quantization", "none")
        if not trained_on or not self.fingerprint or trained_on == self.fingerprint:
            return True
        if not self._same_weights(manifest, bits) and not self._same_shapes(manifest):
            return False
        if bits != self.quantization:
            print(
                f"the adapter was trained with quantization {bits}, the base is loaded with {self.quantization}: "
                "what it says will be close, not the same",
                file=sys.stderr,
            )
        return True

    def _same_weights(self, manifest: dict[str, Any], bits: str) -> bool:
        """Whether a hash agrees, of weights as they are or rounded to float16: of all, or of those both have whole."""
        if bits == self.quantization == "none":
            here, there = {self.fingerprint, self.all_in_float16}, ("base_fingerprint", "base_float16")
        else:
            here, there = {self.unquantized, self.in_float16}, ("unquantized_fingerprint", "unquantized_float16")
        return bool((here & {manifest.get(name) for name in there}) - {""})

    def _same_shapes(self, manifest: dict[str, Any]) -> bool:
        """Whether float16 hides which weights it were, and names and shapes agree, which is said on stderr."""
        rounded_apart = {manifest.get("base_dtype"), self.dtype} == {"float16", "bfloat16"}  # float32 tells, rounded
        if not rounded_apart or not self.shapes or manifest.get("base_shapes") != self.shapes:
            return False
        print(
            f"the adapter was trained on a base in {manifest['base_dtype']}, this one is loaded in {self.dtype}: "
            "compared by names and shapes alone, their roundings differ",
            file=sys.stderr,
        )
        return True


def base_fingerprint(base: nn.Module, rounded: torch.dtype | None = None) -> str:
    """A short hash of a base model: names, shapes and a sample of each weight, the same in fp32 and bf16.

    Computed before adapters are put in. Empty on the meta device, where there is nothing to sample.

    Args:
        base: The model.
        rounded: Round the weights to this dtype first.
    """
    return _hash(base.named_parameters(), rounded)


def unquantized_fingerprint(base: nn.Module, rounded: torch.dtype | None = None) -> str:
    """The same of the weights that quantisation leaves alone: embeddings, norms and the output head.

    A quantised base and its original have it in common.
    """
    get_head = getattr(base, "get_output_embeddings", None)
    head = get_head() if get_head is not None else None
    linear = {
        id(parameter)
        for module in base.modules()
        if isinstance(module, nn.Linear) and module is not head
        for parameter in module.parameters(recurse=False)
    }
    kept = ((name, parameter) for name, parameter in base.named_parameters() if id(parameter) not in linear)
    return _hash(kept, rounded)


def _shapes(base: nn.Module) -> str:
    """A hash of names and shapes, the same in any dtype and quantisation; empty on the meta device, as the others."""
    linear = {name: module for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    found = [f"{name} {module.out_features} {module.in_features}" for name, module in linear.items()]
    for name, parameter in base.named_parameters():
        if parameter.is_meta:
            return ""
        if name.rpartition(".")[0] not in linear:
            found.append(f"{name} {tuple(parameter.shape)}")
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


def _hash(weights: Iterable[tuple[str, Tensor]], rounded: torch.dtype | None) -> str:
    digest = hashlib.sha256()
    for name, weight in weights:
        if weight.is_meta:
            return ""
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)]
        sample = sample if rounded is None else sample.to(rounded)
        sample = sample.to(torch.bfloat16).cpu().view(torch.int16)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]

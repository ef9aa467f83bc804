"""Which base an adapter belongs to, told by a short hash of its weights."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.components.quantization import quantization_of


@dataclass(frozen=True)
class BaseIdentity:
    """What a base is known by.

    Attributes:
        fingerprint: Of its weights; of a quantised base, whose weights differ a little between machines, that of the
            weights left alone, and how the others are quantised. "" where nothing can be sampled.
        unquantized: Of the weights that quantisation leaves alone.
        quantization: Of the others.
    """

    fingerprint: str
    unquantized: str
    quantization: str

    @classmethod
    def of(cls, base: nn.Module) -> BaseIdentity:
        """That of a model without adapters."""
        unquantized, quantization = unquantized_fingerprint(base), quantization_of(base)
        fingerprint = base_fingerprint(base) if quantization == "none" else f"{unquantized}-{quantization}"
        return cls(fingerprint, unquantized, quantization)

    def facts(self) -> dict[str, str]:
        """Entries of an adapter's manifest."""
        return {
            "base_fingerprint": self.fingerprint,
            "unquantized_fingerprint": self.unquantized,
            "quantization": self.quantization,
        }

    def fits(self, manifest: dict[str, Any]) -> bool:
        """Whether an adapter was trained on this base, or on it in another quantisation, which is said on stderr."""
        trained_on, bits = manifest.get("base_fingerprint", ""), manifest.get("quantization", "none")
        if not trained_on or not self.fingerprint or trained_on == self.fingerprint:
            return True
        if bits == self.quantization or manifest.get("unquantized_fingerprint") != self.unquantized:
            return False
        print(f"the adapter was trained with quantization {bits}, the base is loaded with {self.quantization}: "
              "what it says will be close, not the same", file=sys.stderr)  # fmt: skip
        return True


def base_fingerprint(base: nn.Module) -> str:
    """A short hash of a base model: names, shapes and a sample of each weight, the same in fp32 and bf16.

    Computed before adapters are put in. Empty on the meta device, where there is nothing to sample.
    """
    return _hash(base.named_parameters())


def unquantized_fingerprint(base: nn.Module) -> str:
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
    return _hash((name, parameter) for name, parameter in base.named_parameters() if id(parameter) not in linear)


def _hash(weights: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, weight in weights:
        if weight.is_meta:
            return ""
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)].to(torch.bfloat16).cpu().view(torch.int16)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]

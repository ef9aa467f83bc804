"""The Dynamic Integration Unit: how a positive LoRA and a frozen negative one share a layer (PAPER.md, stage 1).

With x the layer's input, y = W₀x, z_i = A_i x and s_i = lora_alpha / r, the paper's unit is

    h_i = y + s_i B_i z_i          i ∈ {pos, neg}; variant "delta": h_i = s_i B_i z_i
    α   = softmax([q·k_pos, q·k_neg]) + [0.5, −0.5],   q = W_Q x, k_i = W_K h_i
    out = y + α_pos v_pos + α_neg v_neg,               v_i = W_2 GELU(W_1 h_i)

Written so, it builds two [tokens, d_out] tensors per branch. The form below is algebraically the same and does not:

* the softmax of two logits is a sigmoid of their difference, in which W_K y cancels, and
  q·W_K B z = ((W_K B)ᵀ W_Q x)·z: an [r, d_in] matrix made once per step serves every token;
* W_1 h_i = W_1 y + s_i (W_1 B_i) z_i, so W_1 y is made once for both branches;
* W_2 is linear, so both branches go through it together.

`tests/lightning_modules/test_integration.py` holds the form above, in float64, as the reference.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor, nn

CANNOT_MERGE = (
    "NAT cannot be merged into the base weights: its gate depends on the token. Train NCE on it instead; "
    "NCE is one ordinary LoRA and merges."
)


class IntegrationGate(nn.Module):
    """α_neg, the share of the negative branch, per token (eq. 4); α_pos = 1 − α_neg.

    A module of its own so that a forward hook can watch the gate without touching the layer.

    Args:
        in_features: Width of the layer's input; W_Q acts on it.
        out_features: Width of the layer's output; W_K acts on it. May differ from `in_features` (GQA's v_proj).
        key_dim: Width d_k of queries and keys.
    """

    def __init__(self, in_features: int, out_features: int, key_dim: int = 128) -> None:
        super().__init__()
        self.query = nn.Linear(in_features, key_dim, bias=False)
        self.key = nn.Linear(out_features, key_dim, bias=False)

    def forward(self, x: Tensor, positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor]) -> Tensor:
        """Computes α_neg ∈ [−0.5, 0.5] from x [..., d_in]; a branch is (z [..., r], s·B [d_out, r]). Returns [...]."""
        logit = self._score(x, *negative) - self._score(x, *positive)
        return torch.sigmoid(logit if logit.dtype == torch.float64 else logit.float()) - 0.5

    def _score(self, x: Tensor, z: Tensor, scaled_b: Tensor) -> Tensor:
        projection = (self.key.weight @ scaled_b).mT @ self.query.weight  # [r, d_in]
        return (F.linear(x, projection) * z).sum(-1)


class IntegrationUnit(nn.Module):
    """One layer's unit: the gate and the bottleneck W_1, W_2.

    W_2 starts at zero, so a fresh unit returns y exactly: NAT begins as the base model.

    Args:
        in_features: Width d_in of the adapted layer's input.
        out_features: Width d_out of its output.
        key_dim: d_k of the gate.
        bottleneck: Width between W_1 and W_2.
        delta: Give the branches s·B z alone, without y (option "delta" of PAPER.md).
    """

    def __init__(
        self, in_features: int, out_features: int, key_dim: int = 128, bottleneck: int = 128, delta: bool = False
    ) -> None:
        super().__init__()
        self.gate = IntegrationGate(in_features, out_features, key_dim)
        self.down = nn.Linear(out_features, bottleneck, bias=False)
        self.up = nn.Linear(bottleneck, out_features, bias=False)
        self.delta = delta
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, y: Tensor, positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor]) -> Tensor:
        """Mixes both branches into the base output (eq. 5).

        Args:
            x: The layer's input [..., d_in].
            y: The base layer's output W₀x [..., d_out].
            positive: z_pos = A_pos x (after dropout) [..., r] and s·B_pos [d_out, r].
            negative: z_neg and s·B_neg likewise; r may differ.

        Returns:
            y + α_pos v_pos + α_neg v_neg, [..., d_out].
        """
        alpha_negative = self.gate(x, positive, negative).unsqueeze(-1)
        shared = None if self.delta else self.down(y.to(self.down.weight.dtype))
        hidden_positive = F.gelu(self._hidden(shared, *positive))
        hidden_negative = F.gelu(self._hidden(shared, *negative))
        mixed = torch.lerp(hidden_positive, hidden_negative, alpha_negative.to(hidden_positive.dtype))
        update: Tensor = self.up(mixed)
        return y + update

    def _hidden(self, shared: Tensor | None, z: Tensor, scaled_b: Tensor) -> Tensor:
        own = F.linear(z, self.down.weight @ scaled_b)  # W_1 (s B z) through an [h, r] matrix
        return own if shared is None else shared + own


class IntegrationVariant(LoraVariant):
    """Puts a unit into a stock PEFT LoRA layer: PEFT calls it instead of `result + B A x · s` for one adapter.

    PEFT calls the class private; `pyproject.toml` bounds peft for that reason and the tests hold the seam.

    Args:
        unit: The layer's unit. The variant refers to it; it is owned (and trained, and saved) elsewhere.
        negative: Name of the frozen adapter that takes the negative branch.
    """

    def __init__(self, unit: IntegrationUnit, negative: str) -> None:
        self.unit = unit
        self.negative = negative

    def supports_lora_conversion(self) -> bool:
        """A gate that depends on the token has no equivalent LoRA."""
        return False

    def forward(  # type: ignore[override]  # PEFT's are static; it calls them through the instance
        self, module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """The layer's output; dropout acts on the positive branch only, the negative half is a frozen model."""
        positive = self._branch(module, active_adapter, module.lora_dropout[active_adapter](x))
        negative = self._branch(module, self.negative, x)
        mixed: Tensor = self.unit(x, result, positive, negative)
        return mixed

    @staticmethod
    def _branch(module: LoraLayer, adapter: str, x: Tensor) -> tuple[Tensor, Tensor]:
        return module.lora_A[adapter](x), module.lora_B[adapter].weight * module.scaling[adapter]

    @staticmethod
    def merge_safe(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Refuses, see `CANNOT_MERGE`."""
        raise ValueError(CANNOT_MERGE)

    @staticmethod
    def merge_unsafe(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> None:
        """Refuses, see `CANNOT_MERGE`."""
        raise ValueError(CANNOT_MERGE)

"""The Dynamic Integration Unit: how a positive LoRA and a frozen negative one share a layer (docs/method.md, stage 1).

With x the layer's input, y = W₀x, z_i = A_i x and s_i = lora_alpha / r, the paper's unit is

    h_i = y + s_i B_i z_i          i ∈ {pos, neg}; variant "delta": h_i = s_i B_i z_i
    α   = softmax(c [q·k_pos, q·k_neg]) + [0.5, −0.5],   q = W_Q x, k_i = W_K h_i
    out = y + α_pos v_pos + α_neg v_neg,               v_i = W_2 GELU(W_1 h_i)

c is 1 in the paper and 1 / √d_k with `scale_gate`, as in other attention: without it the gate saturates.

Written so, it builds two [tokens, d_out] tensors per branch. The form here is algebraically the same and does not:

* the softmax of two logits is a sigmoid of their difference, in which W_K y cancels, and
  q·W_K B z = ((W_K B)ᵀ W_Q x)·z: an [r, d_in] matrix made once per step serves every token;
* W_1 h_i = W_1 y + s_i (W_1 B_i) z_i, so W_1 y is made once for both branches;
* W_2 is linear, so both branches go through it together.

Here are the weights and what is made of them once per step; in `kernel.py` the arithmetic per token and its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor, nn

from lightning_modules.components.integration.kernel import Base, StepMatrices, mix
from lightning_modules.components.losses.output_head import wide
from lightning_modules.components.properties import ModuleWithProperties

CANNOT_MERGE = (
    "NAT cannot be merged into the base weights: its gate depends on the token. Train NCE on it instead; "
    "NCE is one ordinary LoRA and merges."
)


class Half(NamedTuple):
    """One branch's LoRA: A [r, d_in], B [d_out, r] and the scale s = lora_alpha / r."""

    a: Tensor
    b: Tensor
    scale: float


class Mixed(NamedTuple):
    """What a unit returns: the layer's output [..., d_out] and α_neg [...] (None without attention)."""

    output: Tensor
    alpha_negative: Tensor | None


class IntegrationGate(nn.Module):
    """W_Q, on the layer's input, and W_K, on its output: a token's shares of the two branches (eq. 4)."""

    def __init__(self, in_features: int, out_features: int, key_dim: int = 128, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.query = nn.Linear(in_features, key_dim, bias=False)
        self.key = nn.Linear(out_features, key_dim, bias=False)


def padded(columns: Tensor, rank: int) -> Tensor:
    """[..., d, rank] of [..., d, r]: branches of different ranks get columns of zeros, which change nothing."""
    missing = rank - columns.shape[-1]
    return nn.functional.pad(columns, (0, missing)) if missing else columns


def make_shift(dtype: torch.dtype, device: torch.device) -> Tensor:
    """[½, −½] of eq. 4, in float32 or wider."""
    return torch.linspace(0.5, -0.5, 2, dtype=wide(dtype), device=device)


class IntegrationUnit(ModuleWithProperties):
    """One layer's unit: the gate and the bottleneck W_1, W_2.

    W_2 starts at zero, so a fresh unit returns y exactly: NAT begins as the base model. The settings are those of
    `adapters.nat.UnitSettings`; d_in may differ from d_out (GQA's v_proj).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        key_dim: int = 128,
        bottleneck: int = 128,
        delta: bool = False,
        attention: bool = True,
        scale_gate: bool = False,
    ) -> None:
        super().__init__()
        self.key_dim = key_dim
        self.scale_gate = scale_gate
        scale = key_dim**-0.5 if scale_gate else 1.0
        self.gate = IntegrationGate(in_features, out_features, key_dim, scale) if attention else None
        self.down = nn.Linear(out_features, bottleneck, bias=False)
        self.up = nn.Linear(bottleneck, out_features, bias=False)
        self.delta = delta
        self.given: StepMatrices | None = None  # for this training pass, made with other units' (`step_batch.py`)
        self._cached: _CachedMatrices | None = None
        nn.init.zeros_(self.up.weight)

    def forward(
        self, x: Tensor, y: Tensor, positive: Half, negative: Half, base: Base | None = None, dropout: float = 0.0
    ) -> Mixed:
        """Mixes both branches into the base output (eq. 5).

        Computed in autocast's dtype where it is on, otherwise in the dtype of the unit's weights; the gate's softmax in
        float32 or wider.

        Args:
            x: The layer's input [..., d_in].
            y: The base layer's output W₀x [..., d_out].
            positive: The trainable LoRA.
            negative: The frozen LoRA; its rank may differ.
            base: The weights that made y from x, if y is nothing else: then y need not be kept for the backward pass.
            dropout: Probability of dropping a feature of x on its way into A_pos. The negative half sees all of x.
        """
        dtype = self.compute_dtype(x.device.type)
        given = self.given if torch.is_grad_enabled() else None
        matrices = given or self._step_matrices(positive, negative, dtype)
        tokens = x.to(dtype).reshape(-1, x.shape[-1])  # [n, d_in]
        outputs = y.to(dtype).reshape(-1, y.shape[-1])  # [n, d_out]
        out, alpha = mix(tokens, outputs, matrices, base, dropout)  # [n, d_out], [n, 2]
        return Mixed(out.reshape(y.shape), None if alpha is None else alpha[:, 1].reshape(y.shape[:-1]))

    def compute_dtype(self, device: str) -> torch.dtype:
        """Autocast's dtype where it is on for this kind of device, otherwise that of the weights."""
        dtype = self.up.weight.dtype
        autocast = torch.is_autocast_enabled(device) and dtype != torch.float64
        return torch.get_autocast_dtype(device) if autocast else dtype

    def make_matrices(self, halves: Sequence[Half], dtype: torch.dtype) -> StepMatrices:
        """Makes what all tokens of a step share, in the weights' own precision, and casts it to `dtype`."""
        own, down, up = self.up.weight.dtype, self.down.weight, self.up.weight
        rank = max(half.a.shape[0] for half in halves)
        with torch.autocast(up.device.type, enabled=False):
            rows = [padded(half.a.to(own).mT, rank).mT for half in halves]  # [r, d_in] each
            both = torch.cat([padded(half.b.to(own) * half.scale, rank) for half in halves], -1)  # [d_out, 2r]
            shift, gate_rows = None, 0
            if self.gate is not None:
                # Times x and then z_i: a branch's logit c q·k_i less the part both branches share.
                scores = (self.gate.key.weight @ (self.gate.scale * both)).mT @ self.gate.query.weight  # P, [2r, d_in]
                rows = [scores.detach(), *rows, scores]
                shift = make_shift(dtype, both.device)
                gate_rows = 2 * rank
            # [h, 2r] in one product: of 8 columns alone it takes longer than of 16.
            spread = (down @ both).unflatten(1, (2, rank)).transpose(0, 1)  # [2, h, r]
            stacked = torch.cat(rows).to(dtype)  # [P; A; P], [6r, d_in]: both orders in one
            read, back = stacked.detach()[: gate_rows + 2 * rank], stacked[gate_rows:]
            given = None if self.delta else down.to(dtype)
            return StepMatrices(read, back, spread.to(dtype), given, up.to(dtype), shift)

    def train(self, mode: bool = True) -> IntegrationUnit:
        """Sets the mode and forgets the cached step matrices."""
        self._cached = None
        return super().train(mode)

    def _step_matrices(self, positive: Half, negative: Half, dtype: torch.dtype) -> StepMatrices:
        """Without gradients, as in generation, the last call's matrices are reused until a weight changes."""
        weights = [positive.a, positive.b, negative.a, negative.b, *self.parameters()]
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _changes_show(weights):
            self._cached = None
            return self.make_matrices((positive, negative), dtype)
        key = (positive.scale, negative.scale, self.delta, dtype, *((w.data_ptr(), w._version) for w in weights))
        if self._cached is None or self._cached.key != key:
            matrices = self.make_matrices((positive, negative), dtype)
            self._cached = _CachedMatrices(matrices, key, [w.untyped_storage() for w in weights])
        return self._cached.matrices


class _CachedMatrices(NamedTuple):
    """Step matrices and what they were made from.

    A weight is identified by its address (its storage is held, so that the address is not reused) and by the version
    that in-place changes raise. Fused optimizers do not raise it, hence `_changes_show`. Nor do changes that bypass
    autograd (`weight.data.mul_`): call `IntegrationUnit.train` after them.
    """

    matrices: StepMatrices
    key: tuple[Any, ...]
    storages: list[torch.UntypedStorage]


def _changes_show(weights: Sequence[Tensor]) -> bool:
    """Whether a change raises a weight's version: not in inference tensors, nor once an optimizer has gradients."""
    return not any(w.is_inference() or (w.is_leaf and w.grad is not None) for w in weights)


class IntegrationVariant(LoraVariant):
    """Puts a unit, owned elsewhere, into a stock PEFT LoRA layer: called instead of `result + B A x · s`.

    `negative` names the frozen adapter of the negative branch. PEFT calls the class private: `pyproject.toml` bounds
    peft's version for that reason, and tests cover its use.
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
        dropout = module.lora_dropout[active_adapter]
        probability = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        halves = (self.half(module, name) for name in (active_adapter, self.negative))
        mixed: Mixed = self.unit(x, result, *halves, base=self._base(module), dropout=probability)
        return mixed.output

    @staticmethod
    def half(module: LoraLayer, adapter: str) -> Half:
        """An adapter's matrices and scale in a layer."""
        a, b = (cast(nn.Linear, side[adapter]) for side in (module.lora_A, module.lora_B))
        return Half(a.weight, b.weight, module.scaling[adapter])

    @staticmethod
    def _base(module: LoraLayer) -> Base | None:
        """The base's weights, where they alone made the result: a plain linear layer under a single adapter."""
        layer: Any = module.get_base_layer()
        alone = type(layer) is nn.Linear and len(module.active_adapters) == 1  # a quantised layer is a subclass
        return Base(layer.weight, layer.bias) if alone else None

    @staticmethod
    def merge_safe(*args: Any, **kwargs: Any) -> Any:
        """Refuses: a gate that depends on the token cannot be merged."""
        raise ValueError(CANNOT_MERGE)

    merge_unsafe = merge_safe

"""The integration unit's arithmetic as one differentiable function that keeps little for the backward pass.

With n tokens, R = r_pos + r_neg and bottleneck h, one product reads everything that is linear in x:

    [s, z] = x Mᵀ             M = [−P_pos; P_neg; A_pos; A_neg], P_i = c s_i (W_K B_i)ᵀ W_Q        [n, 2R]
    α_neg  = σ(Σ_j s_j z_j) − ½                                                                   [n]
    u      = z Sᵀ + [W_1 y, W_1 y]         S = diag(s_pos W_1 B_pos, s_neg W_1 B_neg)              [n, 2h]
    out    = y + W_2 (α_pos GELU(u_pos) + α_neg GELU(u_neg))

Kept are x (which plain LoRA keeps too), W_1 y, [s, z] and α: h + 2R + 1 numbers a token. u and GELU are made again. y
is not kept: with y = W₀x + b, the gradient of W_1 is ∂uᵀy = (∂uᵀx) W₀ᵀ + (Σ_n ∂u) bᵀ, and ∂uᵀx comes with the gradient
of M in one product.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class StepMatrices(NamedTuple):
    """What the unit's weights amount to within one step, all of one dtype."""

    read: Tensor  # M, [2R, d_in]; without a gate only its lower half [A_pos; A_neg]
    spread: Tensor  # S, [2h, R]
    down: Tensor | None  # W_1, [h, d_out]; None if the branches see their own LoRA's output alone ("delta")
    up: Tensor  # W_2, [d_out, h]


class Base(NamedTuple):
    """W₀ [d_out, d_in] and b [d_out] of the base layer, y = W₀x + b."""

    weight: Tensor
    bias: Tensor | None


def mix(
    x: Tensor, y: Tensor, matrices: StepMatrices, base: Base | None, positive_rank: int, dropout: float = 0.0
) -> tuple[Tensor, Tensor | None]:
    """Mixes both branches into the base output (eq. 5), see `IntegrationUnit.forward`.

    Takes x [n, d_in] and y [n, d_out] of one dtype, and r_pos, the rows of A_pos. Returns the output [n, d_out], and
    α_neg [n] without a gradient, None if there is no gate.
    """
    if torch.is_grad_enabled():
        weight, bias = base or (None, None)
        mixed: tuple[Tensor, Tensor | None] = _Mix.apply(x, y, *matrices, weight, bias, positive_rank, dropout)  # type: ignore[no-untyped-call]
        return mixed
    return _forward(x, y, matrices, positive_rank, dropout)[:2]


class _Kept(NamedTuple):
    read: Tensor
    alpha: Tensor | None
    shared: Tensor | None
    mask: Tensor | None


def _forward(
    x: Tensor, y: Tensor, matrices: StepMatrices, positive_rank: int, dropout: float
) -> tuple[Tensor, Tensor | None, _Kept]:
    read, mask = x @ matrices.read.mT, None  # [n, 2R], or [n, R] without a gate
    if dropout > 0:
        dropped, mask = torch.native_dropout(x, dropout, True)  # [n, d_in]
        rows = _positive_rows(matrices, positive_rank)
        read[:, rows] = dropped @ matrices.read[rows].mT  # [n, r_pos]
    shared = None if matrices.down is None else y @ matrices.down.mT  # [n, h]
    scores, z = _halves(read, matrices.spread)  # [n, R] each
    alpha = None
    if scores is not None:
        wide = torch.promote_types(z.dtype, torch.float32)
        alpha = torch.sigmoid((scores.to(wide) * z.to(wide)).sum(-1)) - 0.5  # [n], α_neg in float32 or wider
    hidden = F.gelu(_hidden(z, shared, matrices.spread))  # [n, 2, h]
    return torch.addmm(y, _blend(hidden, alpha), matrices.up.mT), alpha, _Kept(read, alpha, shared, mask)


def _positive_rows(matrices: StepMatrices, positive_rank: int) -> slice:
    """The rows of A_pos in M."""
    start = len(matrices.read) - matrices.spread.shape[1]
    return slice(start, start + positive_rank)


def _halves(read: Tensor, spread: Tensor) -> tuple[Tensor | None, Tensor]:
    """Splits [s, z] = x Mᵀ into s [n, R] (None without a gate) and z [n, R]."""
    rank = spread.shape[1]
    return (None if read.shape[1] == rank else read[:, :rank]), read[:, -rank:]


def _hidden(z: Tensor, shared: Tensor | None, spread: Tensor) -> Tensor:
    """The bottleneck u before GELU [n, 2, h]: positive, negative."""
    hidden = (z @ spread.mT).view(len(z), 2, -1)  # [n, 2, h]
    return hidden if shared is None else hidden.add_(shared.unsqueeze(1))


def _blend(hidden: Tensor, alpha: Tensor | None) -> Tensor:
    """α_pos GELU(u_pos) + α_neg GELU(u_neg) [n, h]; both weights are 1 without a gate."""
    positive, negative = hidden.unbind(1)  # [n, h] each
    if alpha is None:
        return positive + negative
    return torch.addcmul(positive, negative - positive, alpha.unsqueeze(-1).to(hidden.dtype))  # α_pos = 1 − α_neg


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        read: Tensor,
        spread: Tensor,
        down: Tensor | None,
        up: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        positive_rank: int,
        dropout: float,
    ) -> tuple[Tensor, Tensor | None]:
        out, alpha, kept = _forward(x, y, StepMatrices(read, spread, down, up), positive_rank, dropout)
        needs_y = down is not None and weight is None
        ctx.save_for_backward(x, y if needs_y else None, read, spread, down, up, weight, bias, *kept)
        ctx.positive_rank, ctx.dropout = positive_rank, dropout
        if alpha is not None:
            ctx.mark_non_differentiable(alpha)
        return out, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, read, spread, down, up, weight, bias, *rest = ctx.saved_tensors
        matrices, kept = StepMatrices(read, spread, down, up), _Kept(*rest)
        d_up, d_spread, d_read, d_hidden = _backward_inner(upstream, matrices, kept)
        d_shared = None if down is None else d_hidden[:, 0] + d_hidden[:, 1]  # [n, h]
        # One product for the gradients of M [2R, d_in] and ∂uᵀx [h, d_in].
        sums = (d_read if d_shared is None else torch.cat([d_read, d_shared], 1)).mT @ x  # [2R + h, d_in]
        d_matrix, d_down = sums[: len(read)], None
        if d_shared is not None:
            d_down = d_shared.mT @ y if weight is None else _through_base(sums[len(read) :], d_shared, weight, bias)
        d_x = d_read @ read if ctx.needs_input_grad[0] else None  # [n, d_in]
        if kept.mask is not None:  # corrects both gradients, made as if without dropout, in A_pos's rows
            rows, scale = _positive_rows(matrices, ctx.positive_rank), 1 / (1 - ctx.dropout)
            d_z = d_read[:, rows]  # [n, r_pos]
            d_matrix[rows] = d_z.mT @ torch.ops.aten.native_dropout_backward(x, kept.mask, scale)
            if d_x is not None:
                d_dropped = d_z @ read[rows]  # [n, d_in]
                d_x = d_x - d_dropped + torch.ops.aten.native_dropout_backward(d_dropped, kept.mask, scale)
        d_y = upstream if d_shared is None or not ctx.needs_input_grad[1] else torch.addmm(upstream, d_shared, down)
        return d_x, d_y, d_matrix, d_spread, d_down, d_up, None, None, None, None


def _backward_inner(upstream: Tensor, matrices: StepMatrices, kept: _Kept) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of W_2, S, [s, z] (or z) and u [n, 2, h]."""
    (scores, z), alpha = _halves(kept.read, matrices.spread), kept.alpha
    before = _hidden(z, kept.shared, matrices.spread)  # [n, 2, h]
    hidden = F.gelu(before)  # [n, 2, h]
    d_up = upstream.mT @ _blend(hidden, alpha)  # [d_out, h]
    d_blend = upstream @ matrices.up  # [n, h]
    if alpha is None:
        d_hidden = d_blend.unsqueeze(1).expand_as(hidden)  # [n, 2, h]
    else:
        shares = torch.stack([1 - alpha, alpha], -1).to(hidden.dtype)  # [n, 2]
        d_hidden = d_blend.unsqueeze(1) * shares.unsqueeze(-1)  # [n, 2, h]
    d_before = torch.ops.aten.gelu_backward(d_hidden, before)  # [n, 2, h]
    d_z = d_before.flatten(1) @ matrices.spread  # [n, R]
    d_spread = d_before.flatten(1).mT @ z  # [2h, R]
    if scores is None or alpha is None:
        return d_up, d_spread, d_z, d_before
    d_alpha = (d_blend * (hidden[:, 1] - hidden[:, 0])).sum(-1, dtype=alpha.dtype)  # [n]
    d_logit = (d_alpha * (0.25 - alpha * alpha)).unsqueeze(-1).to(z.dtype)  # [n, 1]; σ(1 − σ), σ = α + ½
    return d_up, d_spread, torch.cat([d_logit * z, torch.addcmul(d_z, d_logit, scores)], 1), d_before


def _through_base(sums: Tensor, d_shared: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """∂uᵀy [h, d_out] from ∂uᵀx [h, d_in]."""
    direct = sums @ weight.to(sums.dtype).mT  # [h, d_out]
    return direct if bias is None else torch.addr(direct, d_shared.sum(0), bias.to(sums.dtype))

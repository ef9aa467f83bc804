"""The integration unit's arithmetic as one differentiable function that keeps little for the backward pass.

With n tokens, both branches of rank r and bottleneck h, one product reads everything that is linear in x:

    [s, z] = x Mᵀ             M = [P_pos; P_neg; A_pos; A_neg], P_i = c s_i (W_K B_i)ᵀ W_Q          [n, 4r]
    α      = softmax([s_pos·z_pos, s_neg·z_neg]) + [½, −½]                                        [n, 2]
    u_i    = S_i z_i + W_1 y               S_i = s_i W_1 B_i                                      [2, n, h]
    out    = y + W_2 (α_pos GELU(u_pos) + α_neg GELU(u_neg))

Kept are x (which plain LoRA keeps too), W_1 y, [s, z], the softmax and α: h + 4r + 4 numbers a token. u and GELU are
made again. y is not kept: with y = W₀x + b, the gradient of W_1 is ∂uᵀy = (∂uᵀx) W₀ᵀ + (Σ_n ∂u) bᵀ, and ∂uᵀx comes
with the gradient of M in one product.

Every operation is a kernel that a GPU must be told to run, and a small student waits for that. So the gradients of z, s
and W_1 y are written side by side into one buffer, and M is also given in that order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class StepMatrices(NamedTuple):
    """What the unit's weights amount to within one step, of one dtype but for `shift`; r is the larger rank of both."""

    read: Tensor  # M, [4r, d_in], without a gradient; if there is no gate only its lower half [A_pos; A_neg]
    back: Tensor  # [A; P], the same rows in the order in which the backward pass takes them
    spread: Tensor  # S, [2, h, r]
    down: Tensor | None  # W_1, [h, d_out]; None if the branches see their own LoRA's output alone ("delta")
    up: Tensor  # W_2, [d_out, h]
    shift: Tensor | None  # [½, −½] in float32 or wider; None without a gate


class Base(NamedTuple):
    """W₀ [d_out, d_in] and b [d_out] of the base layer, y = W₀x + b."""

    weight: Tensor
    bias: Tensor | None


def mix(
    x: Tensor, y: Tensor, matrices: StepMatrices, base: Base | None, dropout: float = 0.0
) -> tuple[Tensor, Tensor | None]:
    """Mixes both branches into the base output (eq. 5), see `IntegrationUnit.forward`.

    Takes x [n, d_in] and y [n, d_out] of one dtype. Returns the output [n, d_out], and α [n, 2] without a gradient,
    None if there is no gate.
    """
    if torch.is_grad_enabled():
        weight, bias = base or (None, None)
        mixed: tuple[Tensor, Tensor | None] = _Mix.apply(x, y, *matrices, weight, bias, dropout)  # type: ignore[no-untyped-call]
        return mixed
    return _forward(x, y, matrices, dropout)[:2]


class _Kept(NamedTuple):
    read: Tensor
    shares: Tensor | None  # the softmax [n, 2]
    alpha: Tensor | None
    shared: Tensor | None
    mask: Tensor | None


def _forward(x: Tensor, y: Tensor, matrices: StepMatrices, dropout: float) -> tuple[Tensor, Tensor | None, _Kept]:
    read, mask = x @ matrices.read.mT, None  # [n, 4r], or [n, 2r] without a gate
    if dropout > 0:
        dropped, mask = torch.native_dropout(x, dropout, True)  # [n, d_in]
        rank = matrices.spread.shape[-1]
        read[:, -2 * rank : -rank] = dropped @ matrices.back[:rank].mT  # [n, r], with A_pos
    shared = None if matrices.down is None else y @ matrices.down.mT  # [n, h]
    shares = alpha = None
    if matrices.shift is not None:
        scores, z = _parts(read.to(matrices.shift.dtype), matrices).unbind(1)  # [n, 2, r] each
        shares = (scores * z).sum(-1).softmax(-1)  # [n, 2]
        alpha = shares + matrices.shift  # [n, 2]
    hidden = F.gelu(_hidden(read, shared, matrices))  # [2, n, h]
    out = torch.addmm(y, _blend(hidden, alpha), matrices.up.mT)  # [n, d_out]
    return out, alpha, _Kept(read, shares, alpha, shared, mask)


def _parts(read: Tensor, matrices: StepMatrices) -> Tensor:
    """What M read, s and z of both branches [n, 2, 2, r]; without a gate z alone [n, 1, 2, r]."""
    return read.view(len(read), -1, 2, matrices.spread.shape[-1])


def _hidden(read: Tensor, shared: Tensor | None, matrices: StepMatrices) -> Tensor:
    """The bottleneck u before GELU [2, n, h]: positive, negative."""
    z, spread = _parts(read, matrices)[:, -1].transpose(0, 1), matrices.spread.mT  # [2, n, r], [2, r, h]
    return torch.bmm(z, spread) if shared is None else torch.baddbmm(shared, z, spread)


def _blend(hidden: Tensor, alpha: Tensor | None) -> Tensor:
    """α_pos GELU(u_pos) + α_neg GELU(u_neg) [n, h]; both weights are 1 without a gate."""
    positive, negative = hidden.unbind()  # [n, h] each
    if alpha is None:
        return positive + negative
    return torch.lerp(positive, negative, alpha[:, 1:].to(hidden.dtype))  # α_pos = 1 − α_neg


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        read: Tensor,
        back: Tensor,
        spread: Tensor,
        down: Tensor | None,
        up: Tensor,
        shift: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        dropout: float,
    ) -> tuple[Tensor, Tensor | None]:
        out, alpha, kept = _forward(x, y, StepMatrices(read, back, spread, down, up, shift), dropout)
        needs_y = down is not None and weight is None
        ctx.save_for_backward(x, y if needs_y else None, back, spread, down, up, weight, bias, *kept)
        ctx.dropout = dropout
        ctx.materialize_grads = False  # as `set_materialize_grads`, which torch.compile does not know
        if alpha is not None:
            ctx.mark_non_differentiable(alpha)
        return out, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, back, spread, down, up, weight, bias, *rest = ctx.saved_tensors
        matrices, kept = StepMatrices(back, back, spread, down, up, None), _Kept(*rest)
        d_up, d_spread, d_read, d_shared = _backward_inner(upstream, matrices, kept)
        # One product for the gradients of [A; P] [4r, d_in] and ∂uᵀx [h, d_in].
        sums, rows, d_down = d_read.mT @ x, len(back), None  # [4r + h, d_in]
        d_back, d_read = sums[:rows], d_read[:, :rows]
        if d_shared is not None:
            d_down = d_shared.mT @ y if weight is None else _through_base(sums[rows:], d_shared, weight, bias)
        d_x = d_read @ back if ctx.needs_input_grad[0] else None  # [n, d_in]
        if kept.mask is not None:  # corrects both gradients, made as if without dropout, in A_pos's rows
            rank, scale = spread.shape[-1], 1 / (1 - ctx.dropout)
            d_z = d_read[:, :rank]  # [n, r]
            d_back[:rank] = d_z.mT @ torch.ops.aten.native_dropout_backward(x, kept.mask, scale)
            if d_x is not None:
                d_dropped = d_z @ back[:rank]  # [n, d_in]
                d_x = d_x - d_dropped + torch.ops.aten.native_dropout_backward(d_dropped, kept.mask, scale)
        d_y = upstream if d_shared is None or not ctx.needs_input_grad[1] else torch.addmm(upstream, d_shared, down)
        frozen = weight is not None and weight.dtype == upstream.dtype and not any(ctx.needs_input_grad[8:10])
        if frozen and d_x is not None:  # the base needs ∂y for nothing but what it hands on to x, which is added here
            return d_x.addmm_(d_y, weight), None, None, d_back, d_spread, d_down, d_up, None, None, None, None
        return d_x, d_y, None, d_back, d_spread, d_down, d_up, None, None, None, None


def _backward_inner(
    upstream: Tensor, matrices: StepMatrices, kept: _Kept
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of W_2, of S, of [z, s, W_1 y] side by side, and of W_1 y [n, h] alone: a part of the former."""
    before = _hidden(kept.read, kept.shared, matrices)  # [2, n, h]
    hidden = F.gelu(before)  # [2, n, h]
    d_up = upstream.mT @ _blend(hidden, kept.alpha)  # [d_out, h]
    d_blend = upstream @ matrices.up  # [n, h]
    if kept.alpha is None:
        d_hidden = d_blend.expand_as(hidden)  # [2, n, h]
    else:
        d_hidden = d_blend * kept.alpha.to(hidden.dtype).mT.unsqueeze(-1)  # [2, n, h]
    d_before = torch.ops.aten.gelu_backward(d_hidden, before)  # [2, n, h]
    parts = _parts(kept.read, matrices)
    d_spread = torch.bmm(d_before.mT, parts[:, -1].transpose(0, 1))  # [2, h, r]
    places: tuple[Tensor, Tensor] | tuple[None, None] = None, None
    buffer = None
    if kept.shares is not None and kept.shared is not None and not torch.compiler.is_compiling():
        # Both parts are written into their places; torch.compile knows no such `out=`, but fuses a `cat`.
        buffer = upstream.new_empty(len(upstream), kept.read.shape[1] + kept.shared.shape[1])  # [n, 4r + h]
        places = _parts(buffer[:, : kept.read.shape[1]], matrices), buffer[:, kept.read.shape[1] :]
    if kept.shares is None:
        d_parts = torch.bmm(d_before, matrices.spread).transpose(0, 1).unsqueeze(1)  # [n, 1, 2, r]
    else:
        d_shares = (d_blend * hidden).sum(-1, dtype=kept.shares.dtype).mT  # [n, 2]
        d_logits = torch.ops.aten._softmax_backward_data(d_shares, kept.shares, -1, kept.shares.dtype)  # [n, 2]
        scale = d_logits.to(parts.dtype)[:, None, :, None]
        d_parts = torch.mul(parts, scale, out=places[0])  # [n, 2, 2, r], of z: s, of s: z
        d_parts[:, 0].transpose(0, 1).baddbmm_(d_before, matrices.spread)
    d_read, d_shared = d_parts.flatten(1), None
    if kept.shared is not None:
        d_shared = torch.add(d_before[0], d_before[1], out=places[1])  # [n, h]
        d_read = torch.cat([d_read, d_shared], 1) if buffer is None else buffer
    return d_up, d_spread, d_read, d_shared


def _through_base(sums: Tensor, d_shared: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """∂uᵀy [h, d_out] from ∂uᵀx [h, d_in]."""
    direct = sums @ weight.to(sums.dtype).mT  # [h, d_out]
    return direct if bias is None else torch.addr(direct, d_shared.sum(0), bias.to(sums.dtype))

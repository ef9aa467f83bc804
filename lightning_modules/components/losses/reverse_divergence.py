"""KL(student ‖ teacher) over the whole vocabulary at N positions, chunk by chunk: never logits [N, V] of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_modules.components.losses.model_head import ModelHead
from lightning_modules.components.losses.output_head import Head, OutputHead, Products, terms_of


def reverse_divergence(head: Head, hidden: Tensor, teacher: Tensor) -> Tensor:
    """Σ_v p_v (log p_v − log q_v) ≥ 0 in nats, p the student's and q the teacher's: [N], with gradient to `hidden`.

    Takes the last hidden states [N, d] of both; no gradient is sent into the teacher's.
    """
    if isinstance(head, OutputHead):
        divergence: Tensor = _Divergence.apply(hidden, teacher, head)  # type: ignore[no-untyped-call]
        return divergence
    assert isinstance(head, ModelHead)

    def of_logits(student: Tensor, other: Tensor) -> Tensor:
        log_p = head.logits(student).log_softmax(-1)  # [n, V]
        with torch.no_grad():
            log_q = head.logits(other.to(student.dtype)).log_softmax(-1)  # [n, V]
        return (log_p.exp() * (log_p - log_q)).sum(-1)  # [n]

    return head.chunked(of_logits, hidden, teacher.detach())


class _Divergence(torch.autograd.Function):
    """Of an `OutputHead`; the gradient Σ_v p_v (log p_v − log q_v − KL) W_v is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, teacher: Tensor, head: OutputHead) -> Tensor:
        products = Products(head.weight, hidden)
        gradient = torch.empty(hidden.shape, dtype=products.wide, device=hidden.device)  # [N, d]
        divergence = gradient.new_empty(len(hidden))  # [N]
        buffers = [products.buffer(head.chunks(len(hidden))) for _ in range(2)]
        for rows in head.chunks(len(hidden)):
            log_p = products.logits(hidden[rows], head.scale, buffers[0])  # [n, V]
            log_q = products.logits(teacher[rows], head.scale, buffers[1])  # [n, V]
            divergence[rows], largest, terms = head.fused(_slopes)(log_p, log_q, products.dtype)
            gradient[rows] = products.mean(terms).mul_(head.scale * largest)
        ctx.save_for_backward(gradient)
        ctx.dtype = hidden.dtype
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (outer[:, None] * gradient).to(ctx.dtype), None, None  # [N, d]


def _slopes(p: Tensor, q: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """KL(P ‖ Q) [n] of logits [n, V], and its slopes p_v (log p_v − log q_v − KL); overwrites both logits.

    Of the slopes: the largest of each row [n, 1], and the `terms_of` their quotients by it.
    """
    difference = q.sub_(q.logsumexp(-1, keepdim=True)).neg_()  # [n, V]
    difference.add_(p.sub_(p.logsumexp(-1, keepdim=True)))
    slopes = difference.mul_(p.exp_())  # [n, V]
    divergence = slopes.sum(-1, keepdim=True)  # [n, 1]
    slopes.addcmul_(p, divergence, value=-1)
    largest = slopes.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(slopes.dtype).tiny)  # [n, 1]
    return divergence.squeeze(-1), largest, terms_of(slopes.div_(largest), dtype)

"""From hidden states to log-probabilities without ever holding logits [N, V] of all targets.

Student and teachers share one frozen output head W [V, d]. What the losses need of the softmax over V is then, per
token, its log-partition and its mean embedding:

    log_z = logsumexp_v(W_v·h / T)            e = E_softmax(W h / T)[W] = Σ_v p_v W_v            ∂ log_z / ∂h = e / T

    log P(y)  = W_y·h − log_z
    KL(P ‖ Q) = (h_P − h_Q)·e_P − log_z_P + log_z_Q
    KD        = −Σ_v p_v log q_v = log_z_q − h_q·e_p / T          (d numbers of the teacher per token, not V)

`OutputHead` computes them chunk by chunk over tokens, and the gradient [N, d] in the same pass. What it does with the
logits of a chunk beside the products is functions of their own, which `OutputHead.compile` fuses. `ModelHead`
(`model_head.py`) is the slower form for models whose logits are no plain product (a bias, soft-capping).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dust2gold.core.errors import InputError

CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 256 * 2**20}
"""Size of a float32 buffer of logits [chunk, V]; one exists at a time, three while teachers are compared. A GPU reads
all of W for each chunk: 512 rows at V = 128k make the product compute-bound."""


class TopK(NamedTuple):
    """The k likeliest tokens of a distribution per target; the rest of it is unknown."""

    tokens: Tensor  # [N, k] int64
    probabilities: Tensor  # [N, k] float32, not renormalised


class TeacherTargets(NamedTuple):
    """What a student needs of its teachers, per token and without gradient.

    The summary is M_NAT's mean embedding e (`OutputHead`), its hidden state (`ModelHead`) or its likeliest tokens.
    """

    summary: Tensor | TopK  # [N, d] float32
    divergence: Tensor | None  # [N], KL(P_neg ‖ P_NAT) ≥ 0 in nats at temperature 1; None without M_neg


class Head(ABC):
    """The softmax over the vocabulary at N target positions, from their hidden states [N, d]."""

    @abstractmethod
    def logprobs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Log P(token), natural log: [N], float32 or wider, with gradient to `hidden`."""

    @abstractmethod
    def teacher_targets(
        self, nat: Tensor, negative: Tensor | None, temperature: float = 1.0, top_k: int | None = None
    ) -> TeacherTargets:
        """What a student needs of M_NAT at `temperature`, and M_neg's divergence from it.

        Takes both teachers' hidden states [N, d]; `negative` None gives no divergence, `top_k` keeps only the k
        likeliest tokens of M_NAT.
        """

    @abstractmethod
    def distillation_terms(
        self, hidden: Tensor, tokens: Tensor, summary: Tensor | TopK, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """The student's side: log P(token) [N] at temperature 1, and −Σ_v p_v log q_v [N] at `temperature`.

        p is the teacher with this `summary`, q the student. Both with gradient to `hidden` [N, d]; no factor T².
        """

    def compile(self, backend: str = "inductor") -> None:
        """Fuses what is done with a chunk's logits by torch.compile; an InputError where they are no plain product."""
        problem = "can be fused only where the student's logits are a plain product"
        raise InputError(problem, field="model.fused_head", remedy="leave it out for this student")


class OutputHead(Head):
    """logits = scale · W h, W frozen.

    Args:
        weight: W [V, d], in any floating dtype; referred to, never copied.
        scale: A constant factor of the logits (Cohere, Granite); W below stands for scale · W.
    """

    def __init__(self, weight: Tensor, scale: float = 1.0) -> None:
        self.weight = weight
        self.scale = scale
        self.fused: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function

    def compile(self, backend: str = "inductor") -> None:
        """Has `fused` give compiled functions; a backend of torch.compile."""
        self.fused = cache(partial(torch.compile, backend=backend))

    def chunks(self, rows: int) -> Iterator[slice]:
        """Slices of `rows` tokens whose logits are held at a time."""
        return chunks(rows, len(self.weight), self.weight.device)

    def partition(self, hidden: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """log_z [N], with gradient, and the mean embedding e [N, d], a constant; float32 or wider."""
        log_z, mean = _Partition.apply(hidden, self, temperature)  # type: ignore[no-untyped-call]
        return log_z, mean

    def log_z(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """The log-partition [N] alone, at half the cost where no gradient is needed."""
        if torch.is_grad_enabled() and hidden.requires_grad:
            return self.partition(hidden, temperature)[0]
        return self.softmax(hidden, temperature, mean=False)[0]

    def logprobs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """W_y·h − log_z, [N]."""
        hidden = _rounded(hidden, _product_dtype(self.weight, hidden))
        return self._token_logits(hidden, tokens) - self.log_z(hidden)

    @torch.no_grad()
    def teacher_targets(
        self, nat: Tensor, negative: Tensor | None, temperature: float = 1.0, top_k: int | None = None
    ) -> TeacherTargets:
        """The teachers' logits are compared by chunks, so KL needs no mean embedding of M_neg."""
        products = Products(self.weight, nat)
        summary = torch.empty(nat.shape, dtype=products.wide, device=nat.device)  # [N, d]
        divergence = None if negative is None else summary.new_empty(len(nat))  # [N]
        top = [] if top_k is None else [summary.new_empty(0, top_k).topk(top_k)]
        buffers = [products.buffer(self.chunks(len(nat))) for _ in range(1 if negative is None else 3)]
        for rows in self.chunks(len(nat)):
            logits = products.logits(nat[rows], self.scale, buffers[0])  # [n, V]
            if negative is not None and divergence is not None:
                other = products.logits(negative[rows], self.scale, buffers[1])  # [n, V]
                divergence[rows] = self.fused(divergence_of)(other, logits, buffers[2][: len(other)])
            if temperature != 1:
                logits.div_(temperature)
            if top_k is None:
                _, total, terms = self.fused(exponential_terms)(logits, products.dtype)  # [n, 1]
                summary[rows] = products.mean(terms).mul_(self.scale / total)
            else:
                _, total = self.fused(_exponentials)(logits)  # [n, 1]
                top.append(logits.div_(total).topk(top_k))  # [n, k]
        if top_k is None:
            return TeacherTargets(summary, divergence)
        return TeacherTargets(TopK(torch.cat([t.indices for t in top]), torch.cat([t.values for t in top])), divergence)

    def distillation_terms(
        self, hidden: Tensor, tokens: Tensor, summary: Tensor | TopK, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """One partition serves both at T = 1."""
        hidden = _rounded(hidden, _product_dtype(self.weight, hidden))  # [N, d]
        if isinstance(summary, TopK):
            soft_z, mean = self.partition(hidden, temperature)  # [N], [N, d]
            summary = self._with_tail(summary, hidden, soft_z, mean, temperature)
        else:
            soft_z = self.log_z(hidden, temperature)  # [N]
        log_z = soft_z if temperature == 1 else self.log_z(hidden)
        expected = (hidden * summary.to(hidden.dtype)).sum(-1) / temperature  # [N], h_q·e_p / T
        return self._token_logits(hidden, tokens) - log_z, soft_z - expected

    @torch.no_grad()
    def _with_tail(self, top: TopK, hidden: Tensor, log_z: Tensor, mean: Tensor, temperature: float) -> Tensor:
        """The mean embedding [N, d] of a teacher known by its likeliest tokens K, the rest shaped like the student.

            p'_v = p_v for v ∈ K,  otherwise (1 − p(K)) / (1 − q(K)) · q_v

        Where the student leaves next to nothing outside K, that little is counted as 1e-3: a quotient of roundings
        would follow otherwise.
        """
        e = torch.empty_like(mean)  # [N, d]
        for rows in chunks(len(hidden), top.tokens.shape[1] * hidden.shape[1], hidden.device):
            embeddings = self._embeddings(top.tokens[rows], hidden)  # [n, k, d]
            with torch.autocast(hidden.device.type, enabled=False):  # which would take the sums in half precision
                q = (torch.einsum("nkd,nd->nk", embeddings, hidden[rows]) / temperature - log_z[rows, None]).exp()
                p = top.probabilities[rows].to(q.dtype)  # [n, k], as q
                share = (1 - p.sum(-1, keepdim=True)).clamp_min(0) / (1 - q.sum(-1, keepdim=True)).clamp_min(1e-3)
                e[rows] = share * mean[rows] + torch.einsum("nkd,nk->nd", embeddings, p - share * q)
        return e

    @torch.no_grad()
    def softmax(self, hidden: Tensor, temperature: float, mean: bool = True) -> tuple[Tensor, Tensor | None]:
        """`partition` without autograd: log_z [N] and, if asked for, e [N, d]."""
        products = Products(self.weight, hidden)
        log_z = torch.empty(len(hidden), dtype=products.wide, device=hidden.device)  # [N]
        e = torch.empty(hidden.shape, dtype=products.wide, device=hidden.device) if mean else None
        buffer = products.buffer(self.chunks(len(hidden)))
        for rows in self.chunks(len(hidden)):
            logits = products.logits(hidden[rows], self.scale / temperature, buffer)  # [n, V]
            if e is None:
                log_z[rows], _ = self.fused(_exponentials)(logits)
            else:
                log_z[rows], total, terms = self.fused(exponential_terms)(logits, products.dtype)
                e[rows] = products.mean(terms).mul_(self.scale / total)
        return log_z, e

    def _token_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return (hidden * self._embeddings(tokens, hidden)).sum(-1)  # [N]

    def _embeddings(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Rows of scale · W, [..., d] in float32 or wider, rounded as for the partition: else log P(y) may exceed 0."""
        return _rounded(self.weight[tokens], _product_dtype(self.weight, hidden)) * self.scale


class _Partition(torch.autograd.Function):
    """`OutputHead.partition`; the gradient is computed in the forward pass, which has the softmax."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: OutputHead, temperature: float) -> tuple[Tensor, Tensor | None]:
        log_z, mean = head.softmax(hidden, temperature)
        ctx.save_for_backward(mean)
        ctx.temperature, ctx.dtype = temperature, hidden.dtype
        ctx.mark_non_differentiable(mean)
        return log_z, mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (mean,) = ctx.saved_tensors
        return (gradient[:, None] * mean / ctx.temperature).to(ctx.dtype), None, None  # [N, d]


class Products:
    """Products with W [V, d], their results in float32 or wider.

    On a GPU half-precision weights (and autocast) are multiplied as such and summed in float32; a CPU is slow at that
    and multiplies in float32.
    """

    def __init__(self, weight: Tensor, hidden: Tensor) -> None:
        self.dtype = _product_dtype(weight, hidden)
        self.wide = wide(self.dtype)
        self.weight = weight.detach().to(self.dtype)

    def buffer(self, rows: Iterator[slice]) -> Tensor:
        """A buffer [chunk, V] for all chunks: on a CPU new memory costs a fifth of the product itself."""
        largest = next(rows, slice(0, 0))
        return torch.empty(largest.stop, len(self.weight), dtype=self.wide, device=self.weight.device)

    def logits(self, hidden: Tensor, scale: float, buffer: Tensor) -> Tensor:
        """Scale · W h [n, V], in the first n rows of `buffer`."""
        hidden = hidden.detach()
        if self.dtype != self.wide:
            logits = self._product(hidden.to(self.dtype), self.weight.mT, buffer[: len(hidden)])
            return logits if scale == 1 else logits.mul_(scale)
        return self._product(hidden.to(self.dtype) * scale, self.weight.mT, buffer[: len(hidden)])

    def mean(self, terms: Sequence[Tensor]) -> Tensor:
        """Σ_v p_v W_v: [n, d], of the `terms_of` p [n, V]."""
        if len(terms) == 1:
            return self._product(terms[0], self.weight)
        high, low = terms
        return (self._product(high, self.weight) + self._product(low, self.weight)).mul_(2.0**-15)

    def _product(self, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        with torch.autocast(left.device.type, enabled=False):
            if self.dtype == self.wide:
                return torch.mm(left, right, out=out)
            return torch.mm(left, right, out_dtype=self.wide, out=out)


def chunks(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices of `rows` such that float32 numbers [slice, width] take at most `CHUNK_BYTES`; at least one row each."""
    step = max(1, CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"]) // (4 * width))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Turns `logits` [n, V] into exp(logits − top), in place; returns log_z [n] and the row sums [n, 1]."""
    top = logits.amax(-1, keepdim=True)  # [n, 1]
    total = logits.sub_(top).exp_().sum(-1, keepdim=True)  # [n, 1]
    return (top + total.log()).squeeze(-1), total


def exponential_terms(logits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """log_z [n], the row sums [n, 1] and the `terms_of` exp(logits − top) [n, V]; overwrites `logits`."""
    log_z, total = _exponentials(logits)
    return log_z, total, terms_of(logits, dtype)


def terms_of(factor: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """A factor [n, V] in [−1, 1] as what products in `dtype` take for it; overwrites it.

    A half-precision p would round 1 − 2⁻¹⁰ to 1, and the gradient W_y − e of a learnt token to 0: 2¹⁵ p is made the sum
    of two half-precision terms. 2¹⁵ keeps small ones from underflowing in float16.
    """
    if factor.dtype == dtype:
        return (factor,)
    scaled = factor.mul_(2.0**15)  # [n, V]
    high = scaled.to(dtype)  # [n, V]
    return high, scaled.sub_(high).to(dtype)


def divergence_of(p_logits: Tensor, q_logits: Tensor, buffer: Tensor | None = None) -> Tensor:
    """KL(P ‖ Q) ≥ 0 of logits [n, V] at temperature 1: [n]. Overwrites `p_logits`, and `buffer` of the same shape."""
    difference = torch.sub(p_logits, q_logits, out=buffer)  # [n, V]
    log_z, total = _exponentials(p_logits)  # [n], [n, 1]
    expected = _dots(difference, p_logits) / total.squeeze(-1)  # [n]
    torch.sub(q_logits, q_logits.amax(-1, keepdim=True), out=difference)  # [n, V]
    log_z_q = q_logits.amax(-1) + difference.exp_().sum(-1).log()  # [n]
    return (expected - log_z + log_z_q).clamp_min(0)  # rounding can leave −1e-8


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """Σ_v of the products of two [n, V]: [n]. May overwrite `one`: `vecdot` is n products of 1 × 1 on a GPU."""
    if one.is_cpu:
        with torch.autocast("cpu", enabled=False):  # which would take the sum in half precision
            dots: Tensor = torch.linalg.vecdot(one, other)
            return dots
    return one.mul_(other).sum(-1)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Float32, or float64 where that is what comes in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _product_dtype(weight: Tensor, hidden: Tensor) -> torch.dtype:
    if torch.float64 in (weight.dtype, hidden.dtype):
        return torch.float64
    if weight.device.type != "cuda":
        return torch.float32
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else weight.dtype


def _rounded(factor: Tensor, dtype: torch.dtype) -> Tensor:
    """Hidden states, or rows of W, rounded as `Products` in `dtype` does, in float32 or wider; differentiable.

    So the gradients W_y and −e are summed in float32 or wider.
    """
    return factor.to(dtype).to(wide(dtype))

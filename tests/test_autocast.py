"""Every function that promises float32 or wider keeps its promise under bf16 autocast: against float64.

Not `ModelHead`: its products are the model's own, taken as the model takes them; only what follows them is wide.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_modules.components.losses.output_head import OutputHead, TopK
from lightning_modules.components.ranking.ranker import masked_mean

N, D, V = 40, 48, 300


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(dtype: torch.dtype) -> tuple[OutputHead, Tensor, Tensor, Tensor]:
    """An output head and the hidden states of a student, NAT and NEG, values of float32: only sums can differ."""
    weight, student, nat, negative = (
        drawn(rows, D, seed=seed).float().to(dtype) for seed, rows in enumerate([V, N, N, N])
    )
    return OutputHead(weight * 0.25), student, nat, negative


TOKENS = torch.arange(N) * 7 % V


def summary(dtype: torch.dtype) -> Tensor:
    output, _, nat, negative = head(dtype)
    found = output.teacher_targets(nat, negative).summary
    assert not isinstance(found, TopK)
    return found


def divergence(dtype: torch.dtype) -> Tensor:
    output, _, nat, negative = head(dtype)
    found = output.teacher_targets(nat, negative).divergence
    assert found is not None
    return found


def gradient(dtype: torch.dtype) -> Tensor:
    output, student, nat, negative = head(dtype)
    student.requires_grad_()
    logprobs, soft = output.distillation_terms(student, TOKENS, output.teacher_targets(nat, negative).summary)
    return torch.autograd.grad((soft - logprobs).sum(), student)[0]


PROMISES: dict[str, Callable[[torch.dtype], Tensor]] = {
    "masked_mean": lambda dtype: masked_mean(drawn(4, 10, D).to(dtype), (torch.arange(10) < 7).expand(4, 10)),
    "logprobs": lambda dtype: head(dtype)[0].logprobs(head(dtype)[1], TOKENS),
    "log_z": lambda dtype: head(dtype)[0].partition(head(dtype)[1])[0],
    "mean embedding": lambda dtype: head(dtype)[0].partition(head(dtype)[1])[1],
    "summary": summary,
    "divergence": divergence,
    "gradient": gradient,
}


@pytest.mark.parametrize("name", PROMISES)
def test_sums_are_taken_in_float32_or_wider(name: str) -> None:
    exact = PROMISES[name](torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        found = PROMISES[name](torch.float32)
    assert found.dtype == torch.float32
    assert (found.double() - exact).norm() <= 1e-5 * exact.norm()  # bf16 would be off by 1e-3 and more

"""The paper in float64, slowly and word for word: what the fast forms are held against. Imports none of the losses."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.components.integration.unit import IntegrationUnit


def assert_exact(actual: Any, expected: Any, what: str = "value") -> None:
    """Tensors, or collections of them, equal to 1e-12, relative or absolute: float64 algebra in another order."""
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12, msg=lambda text: f"{what}: {text}")


def integration(
    unit: IntegrationUnit, x: Tensor, y: Tensor, branches: Sequence[tuple[Tensor, Tensor, float]]
) -> Tensor:
    """Stage 1's output, token by token, from x [..., d_in], y [..., d_out]; a branch is (A x, B, s), positive first."""
    w_1, w_2 = unit.down.weight, unit.up.weight
    outputs = []
    for t in range(x.flatten(0, -2).shape[0]):
        x_t, y_t = x.flatten(0, -2)[t], y.flatten(0, -2)[t]
        hs, values = [], []
        for z, b, scale in branches:
            lora = scale * (b @ z.flatten(0, -2)[t])
            h = lora if unit.delta else y_t + lora
            hs.append(h)
            u = w_1 @ h
            values.append(w_2 @ (u * 0.5 * (1 + torch.erf(u / 2**0.5))))
        alpha = attention(unit, x_t, hs) if unit.gate is not None else torch.ones(2, dtype=x.dtype)
        outputs.append(y_t + alpha[0] * values[0] + alpha[1] * values[1])
    return torch.stack(outputs).reshape(y.shape)


def attention(unit: IntegrationUnit, x: Tensor, hs: Sequence[Tensor]) -> Tensor:
    """Eq. 4 for one token: [α_pos, α_neg] from x [d_in] and h_pos, h_neg [d_out]."""
    assert unit.gate is not None
    q = unit.gate.query.weight @ x
    logits = torch.stack([q @ (unit.gate.key.weight @ h) for h in hs])
    if unit.scale_gate:
        logits = logits / math.sqrt(unit.key_dim)
    return logits.softmax(0) + torch.tensor([0.5, -0.5], dtype=x.dtype)


def log_softmax(row: Sequence[float]) -> list[float]:
    """Natural logs of the probabilities of one row of logits."""
    top = max(row)
    norm = top + math.log(math.fsum(math.exp(v - top) for v in row))
    return [v - norm for v in row]


def targets_of(labels: list[list[int]]) -> list[list[tuple[int, int]]]:
    """Of each sample, (position that predicts, token): labels stand unshifted, −100 is no target."""
    return [[(t - 1, row[t]) for t in range(1, len(row)) if row[t] != -100] for row in labels]


def cross_entropy(logits: list[list[list[float]]], labels: list[list[int]]) -> float:
    """−log P(target), mean over all targets of the batch."""
    losses = [-log_softmax(logits[b][t])[token] for b, sample in enumerate(targets_of(labels)) for t, token in sample]
    return math.fsum(losses) / len(losses) if losses else 0.0


def calibration(
    negative: list[list[list[float]]], nat: list[list[list[float]]], labels: list[list[int]]
) -> list[float]:
    """β = tanh(mean over the sample's targets of KL(P_neg ‖ P_NAT))."""
    betas = []
    for b, sample in enumerate(targets_of(labels)):
        divergences = [0.0]
        for t, _ in sample:
            log_p, log_q = log_softmax(negative[b][t]), log_softmax(nat[b][t])
            divergences.append(math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)))
        betas.append(math.tanh(math.fsum(divergences) / max(1, len(sample))))
    return betas


def distillation(
    teacher: list[list[list[float]]], student: list[list[list[float]]], labels: list[list[int]], temperature: float
) -> list[float]:
    """KD = −mean_t Σ_v P_teacher(v) log P_student(v), at temperature T, times T²; one number per sample."""
    losses = []
    for b, sample in enumerate(targets_of(labels)):
        terms = [0.0]
        for t, _ in sample:
            log_p = log_softmax([v / temperature for v in teacher[b][t]])
            log_q = log_softmax([v / temperature for v in student[b][t]])
            terms.append(-math.fsum(math.exp(p) * q for p, q in zip(log_p, log_q, strict=True)))
        losses.append(temperature**2 * math.fsum(terms) / max(1, len(sample)))
    return losses


def negative_calibrated(
    cross_entropy: float, distillation: Sequence[float], beta: Sequence[float], mix: float
) -> float:
    """L = (1 − a)·CE + a·(0.5 + β)·KD, the second term's mean over the samples."""
    weighted = [(0.5 + b) * kd for b, kd in zip(beta, distillation, strict=True)]
    return (1 - mix) * cross_entropy + mix * math.fsum(weighted) / len(weighted)

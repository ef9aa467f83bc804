from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.components import losses
from lightning_modules.components.losses import IGNORE, at_targets, find_targets
from tests.lightning_modules import paper

VOCABULARY = 7


def random_logits(shape: tuple[int, int], seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, VOCABULARY, generator=generator, dtype=torch.float64) * scale


def random_labels(shape: tuple[int, int], seed: int, share: float = 0.6) -> Tensor:
    """Targets in random places, so that a shift or a mask that is off by one is seen."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(VOCABULARY, shape, generator=generator)
    return labels.masked_fill(torch.rand(shape, generator=generator) > share, IGNORE)


@pytest.fixture
def case() -> tuple[list[Tensor], Tensor]:
    """Three models' logits [4, 6, V] and labels, the last sample without any target."""
    labels = random_labels((4, 6), 10)
    labels[3] = IGNORE
    return [random_logits((4, 6), seed) for seed in range(3)], labels


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(2, 6)),
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    mix=st.floats(0, 1),
    temperature=st.floats(0.3, 4),
)
def test_all_losses_equal_the_paper(
    shape: tuple[int, int], seed: int, share: float, mix: float, temperature: float
) -> None:
    labels = random_labels(shape, seed, share)
    student, nat, negative = (random_logits(shape, seed + k) for k in range(3))
    targets = find_targets(labels)
    rows = [at_targets(logits, targets) for logits in (student, nat, negative)]
    result = losses.negative_calibrated(rows[0], rows[1], rows[2], targets, mix, temperature)
    listed = labels.tolist()
    ce = paper.cross_entropy(student.tolist(), listed)
    kd = paper.distillation(nat.tolist(), student.tolist(), listed, temperature)
    beta = paper.calibration(negative.tolist(), nat.tolist(), listed)

    def same(actual: Tensor, expected: Any) -> None:
        paper.assert_exact(actual, torch.tensor(expected, dtype=torch.float64))

    same(result.cross_entropy, ce)
    same(losses.distillation(rows[1], rows[0], targets, temperature), kd)
    same(result.distillation, math.fsum(kd) / len(kd))
    same(result.beta, beta)
    same(result.loss, paper.negative_calibrated(ce, kd, beta, mix))


def test_targets_are_shifted_by_one() -> None:
    labels = torch.tensor([[5, 4, IGNORE, 3], [IGNORE, IGNORE, 2, IGNORE]])  # the 5 is predicted by nothing
    targets = find_targets(labels)
    assert targets.tokens.tolist() == [4, 3, 2]
    assert targets.sample.tolist() == [0, 0, 1]
    assert targets.where.tolist() == [[True, False, True], [False, True, False]]
    logits = torch.arange(2 * 4).reshape(2, 4, 1).expand(2, 4, VOCABULARY).double()
    assert at_targets(logits, targets)[:, 0].tolist() == [0, 2, 5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reduced_in_float32(dtype: torch.dtype, case: tuple[list[Tensor], Tensor]) -> None:
    (logits, *_), labels = case
    targets = find_targets(labels)
    half = at_targets(logits.to(dtype), targets)
    assert half.dtype == torch.float32
    expected = losses.cross_entropy(at_targets(logits.to(dtype).double(), targets), targets)
    torch.testing.assert_close(losses.cross_entropy(half, targets).double(), expected, rtol=1e-6, atol=1e-6)


def all_parts(models: list[Tensor], labels: Tensor) -> tuple[Tensor, ...]:
    targets = find_targets(labels)
    student, nat, negative = (at_targets(m, targets) for m in models)
    return losses.negative_calibrated(student, nat, negative, targets)


def test_masking_equals_dropping() -> None:
    labels = random_labels((1, 8), 3, share=1.0)
    models = [random_logits((1, 8), seed) for seed in range(3)]
    masked = labels.clone()
    masked[0, 1:4] = IGNORE  # the prompt
    dropped = all_parts([m[:, 3:] for m in models], labels[:, 3:])
    for one, other in zip(all_parts(models, masked), dropped, strict=True):
        paper.assert_exact(one, other)


@pytest.mark.parametrize("junk", [0.0, 1e6, math.nan, math.inf])
def test_padding_never_matters(case: tuple[list[Tensor], Tensor], junk: float) -> None:
    models, labels = case
    models = [m.clone().requires_grad_() for m in models]
    padding = torch.full((4, 3, VOCABULARY), junk, dtype=torch.float64)
    padded = [torch.cat([m, padding], 1) for m in models]
    expected = all_parts(models, labels)
    actual = all_parts(padded, torch.cat([labels, torch.full((4, 3), IGNORE)], 1))
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)
    gradients = [torch.autograd.grad(parts[0], models[0], retain_graph=True)[0] for parts in (actual, expected)]
    assert torch.equal(*gradients)


def test_a_sample_counts_by_its_own_targets(case: tuple[list[Tensor], Tensor]) -> None:
    models, labels = case
    batch = all_parts(models, labels)
    targets = find_targets(labels)
    kd = losses.distillation(at_targets(models[1], targets), at_targets(models[0], targets), targets)
    for row in range(4):
        alone = all_parts([m[row : row + 1] for m in models], labels[row : row + 1])
        paper.assert_exact(kd[row], alone[2])
        paper.assert_exact(batch[3][row], alone[3][0])
    assert kd[3] == 0
    assert batch[3][3] == 0


def test_kl_has_its_direction() -> None:
    p, q = (torch.tensor([row], dtype=torch.float64).log() for row in ([0.9, 0.1], [0.5, 0.5]))
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    backward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert losses.kl_divergence(p, q).item() == pytest.approx(forward, abs=1e-12)
    assert losses.kl_divergence(q, p).item() == pytest.approx(backward, abs=1e-12)
    targets = find_targets(torch.tensor([[0, 1]]))
    assert losses.calibration(p, q, targets).item() == pytest.approx(math.tanh(forward), abs=1e-12)


def test_beta_is_zero_where_the_models_agree_and_stays_below_one(case: tuple[list[Tensor], Tensor]) -> None:
    (one, other, _), labels = case
    targets = find_targets(labels)
    rows, others = at_targets(one, targets), at_targets(other, targets)
    assert losses.calibration(rows, rows + 5.0, targets).abs().max() < 1e-12  # a shift changes no probability
    assert losses.calibration(rows.float(), rows.float(), targets).min() >= 0
    beta = losses.calibration(rows, others, targets)
    assert ((beta[:3] > 0) & (beta[:3] < 1)).all()
    assert not losses.negative_calibrated(rows, rows.requires_grad_(), others, targets).beta.requires_grad


def test_high_temperature_keeps_the_scale_of_gradients(case: tuple[list[Tensor], Tensor]) -> None:
    """Why T²: the gradient tends to (z_student − z_teacher) / V, centred, not to 0 (Hinton et al. 2015, 2.1)."""
    (student, teacher, _), labels = case
    targets = find_targets(labels)
    rows, fixed = at_targets(student, targets).requires_grad_(), at_targets(teacher, targets)
    kd = losses.distillation(fixed, rows, targets, temperature=1e4)
    (gradient,) = torch.autograd.grad((kd * torch.bincount(targets.sample, minlength=4)).sum(), rows)
    difference = (rows - rows.mean(-1, keepdim=True)) - (fixed - fixed.mean(-1, keepdim=True))
    torch.testing.assert_close(gradient, (difference / VOCABULARY).detach(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradient_of_distillation_is_the_difference_of_probabilities(
    case: tuple[list[Tensor], Tensor], temperature: float
) -> None:
    (student, teacher, _), labels = case
    targets = find_targets(labels)
    rows, fixed = at_targets(student, targets).requires_grad_(), at_targets(teacher, targets).requires_grad_()
    kd = losses.distillation(fixed, rows, targets, temperature)
    (gradient,) = torch.autograd.grad(kd.sum(), rows, retain_graph=True)
    counts = torch.bincount(targets.sample)[targets.sample][:, None]
    expected = temperature * ((rows / temperature).softmax(-1) - (fixed / temperature).softmax(-1)) / counts
    paper.assert_exact(gradient, expected.detach())
    assert not any(g is not None for g in torch.autograd.grad(kd.sum(), fixed, allow_unused=True))


def test_limits_of_the_calibrated_loss(case: tuple[list[Tensor], Tensor]) -> None:
    models, labels = case
    targets = find_targets(labels)
    student, nat, negative = (at_targets(m, targets) for m in models)
    plain = losses.negative_calibrated(student, nat, negative, targets, mix=0.0)
    assert plain.loss == losses.cross_entropy(student, targets)
    half = torch.full((4,), 0.5, dtype=torch.float64)
    refinement = losses.weighted_distillation(student, nat, targets, half, mix=1.0)
    paper.assert_exact(refinement.loss, losses.distillation(nat, student, targets).mean())
    agreeing = losses.negative_calibrated(student, nat, nat, targets, mix=1.0)
    paper.assert_exact(agreeing.loss, 0.5 * refinement.loss)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_extreme_logits_give_finite_losses_and_gradients(size: float) -> None:
    labels = torch.tensor([[0, 1, 2]])
    student, nat, negative = (torch.zeros(1, 3, VOCABULARY) for _ in range(3))
    student[..., 0], nat[..., 1], negative[..., 2] = size, size, size
    student.requires_grad_()
    parts = all_parts([student, nat, negative], labels)
    assert all(part.isfinite().all() for part in parts)
    assert 0.999 < parts[3] <= 1  # β < 1 holds but for rounding
    parts[0].backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_no_target_gives_zero_with_zero_gradient() -> None:
    models = [random_logits((2, 4), seed).requires_grad_() for seed in range(3)]
    parts = all_parts(models, torch.full((2, 4), IGNORE))
    assert parts[0] == 0
    parts[0].backward()
    assert models[0].grad is not None
    assert models[0].grad.abs().max() == 0


def test_micro_batches(case: tuple[list[Tensor], Tensor]) -> None:
    """How accumulated micro-batches add up: KD and β by samples, CE by targets.

    The mean over equal micro-batches is the batch's KD. For CE it is not, unless each holds as many targets: each
    micro-batch's mean must be weighted by its share of the targets.
    """
    models, labels = case
    batch = all_parts(models, labels)
    halves = [all_parts([m[rows] for m in models], labels[rows]) for rows in (slice(0, 2), slice(2, 4))]
    counts = [find_targets(labels[rows]).tokens.numel() for rows in (slice(0, 2), slice(2, 4))]
    assert counts[0] != counts[1]
    paper.assert_exact((halves[0][2] + halves[1][2]) / 2, batch[2])
    paper.assert_exact(torch.cat([half[3] for half in halves]), batch[3])
    weighted = (counts[0] * halves[0][1] + counts[1] * halves[1][1]) / sum(counts)
    paper.assert_exact(weighted, batch[1])
    assert abs((halves[0][1] + halves[1][1]) / 2 - batch[1]) > 1e-3


def test_ranking_loss_by_hand() -> None:
    positive, negative = torch.tensor([[0.5, 0.9], [0.5, 1.0]], dtype=torch.float64)
    expected = ((0.5**3 + 0.5**7) + (0.1**3 + 1.0)) / 2
    assert losses.ranking_loss(positive, negative).item() == pytest.approx(expected, abs=1e-12)
    perfect = losses.ranking_loss(torch.ones(3), torch.zeros(3))
    assert perfect == 0


def test_ranking_cross_entropy_by_hand() -> None:
    positive, negative = torch.tensor([[2.0, -1.0], [0.0, 3.0]], dtype=torch.float64)

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    terms = [-math.log(sigmoid(2)), -math.log(sigmoid(-1)), -math.log(1 - 0.5), -math.log(1 - sigmoid(3))]
    actual = losses.ranking_cross_entropy(positive, negative)
    assert actual.item() == pytest.approx(math.fsum(terms) / 4, abs=1e-12)
    extreme = torch.tensor([-1e4], requires_grad=True)
    losses.ranking_cross_entropy(extreme, -extreme).backward()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()

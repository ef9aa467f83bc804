"""NCE's loss, with cross-entropy and the output head below it, against the paper in float64 and at its limits."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.components.losses.distillation import calibration, negative_calibrated
from lightning_modules.components.losses.output_head import CHUNK_BYTES, OutputHead
from lightning_modules.components.losses.targets import IGNORE, at_targets, find_targets, sample_means
from tests.lightning_modules import paper
from tests.lightning_modules.components.losses.cases import gradient_of, normal

VOCABULARY = 7
HEAD = OutputHead(torch.eye(VOCABULARY, dtype=torch.float64))
"""With W = 1 hidden states are logits, and what `paper` makes of logits is the reference."""


@pytest.fixture(autouse=True, scope="module")
def _three_rows_a_chunk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CHUNK_BYTES, "cpu", 3 * 4 * VOCABULARY)
        yield


def random_logits(shape: tuple[int, int], seed: int) -> Tensor:
    return normal(*shape, VOCABULARY, seed=seed, scale=2.0)


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


def all_parts(
    models: list[Tensor], labels: Tensor, mix: float = 0.5, temperature: float = 1.0, **batch: Any
) -> dict[str, Tensor]:
    """NCE's loss, its parts and β from the logits [B, T, V] of student, NAT and NEG."""
    targets = find_targets({"labels": labels, **batch})
    student, nat, negative = (at_targets(m, targets) for m in models)
    taught = HEAD.teacher_targets(nat, negative, temperature)
    assert taught.divergence is not None
    beta = calibration(taught.divergence, targets)
    logprobs, soft = HEAD.distillation_terms(student, targets.tokens, taught.summary, temperature)
    kd = temperature**2 * soft
    result = negative_calibrated(logprobs, kd, beta[targets.sample], targets, mix)
    return {**result._asdict(), "beta": beta, "kd": sample_means(kd, targets)}


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
    models = [random_logits(shape, seed + k) for k in range(3)]
    student, nat, negative = (model.tolist() for model in models)
    ce = paper.cross_entropy(student, labels.tolist())
    kd = paper.distillation(nat, student, labels.tolist(), temperature)
    beta = paper.calibration(negative, nat, labels.tolist())
    parts = {"cross_entropy": ce, "distillation": math.fsum(kd) / len(kd), "beta": beta, "kd": kd}
    expected = {"loss": paper.negative_calibrated(ce, kd, beta, mix), **parts}
    exact = {name: torch.tensor(value, dtype=torch.float64) for name, value in expected.items()}
    paper.assert_exact(all_parts(models, labels, mix, temperature), exact)


def test_micro_batches_with_the_counts_of_the_step_add_up_to_it(case: tuple[list[Tensor], Tensor]) -> None:
    """The mean over micro-batches (as Lightning and DDP take it) is the whole batch's loss, and so its gradient."""
    models, labels = case
    student = models[0].requires_grad_()
    whole = all_parts(models, labels)
    (expected,) = torch.autograd.grad(whole["loss"], student)
    tokens = int((labels[:, 1:] != IGNORE).sum())
    step = {"all": (tokens / 2, 4 / 2), "positive": (0, 0), "negative": (0, 0)}
    halves = [all_parts([m[rows] for m in models], labels[rows], step=step) for rows in (slice(0, 1), slice(1, 4))]
    for name in ("loss", "cross_entropy", "distillation"):
        paper.assert_exact((halves[0][name] + halves[1][name]) / 2, whole[name], name)
    (gradient,) = torch.autograd.grad((halves[0]["loss"] + halves[1]["loss"]) / 2, student)
    paper.assert_exact(gradient, expected, "gradient")


@pytest.mark.parametrize("junk", [0.0, 1e6, math.nan, math.inf])
def test_padding_never_matters(case: tuple[list[Tensor], Tensor], junk: float) -> None:
    models, labels = case
    models = [m.clone().requires_grad_() for m in models]
    padding = torch.full((4, 3, VOCABULARY), junk, dtype=torch.float64)
    padded = [torch.cat([m, padding], 1) for m in models]
    expected = all_parts(models, labels)
    actual = all_parts(padded, torch.cat([labels, torch.full((4, 3), IGNORE)], 1))
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
    gradients = [torch.autograd.grad(p["loss"], models[0], retain_graph=True)[0] for p in (actual, expected)]
    assert torch.equal(*gradients)


def test_beta_is_zero_where_the_models_agree_and_stays_below_one(case: tuple[list[Tensor], Tensor]) -> None:
    (student, one, other), labels = case
    assert all_parts([student, one, one + 5.0], labels)["beta"].abs().max() < 1e-12  # a shift changes no probability
    assert all_parts([m.float() for m in (student, one, one)], labels)["beta"].min() >= 0
    beta = all_parts([m.requires_grad_() for m in (student, one, other)], labels)["beta"]
    assert ((beta[:3] > 0) & (beta[:3] < 1)).all()
    assert not beta.requires_grad


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradient_of_distillation_is_the_difference_of_probabilities(
    case: tuple[list[Tensor], Tensor], temperature: float
) -> None:
    (student, teacher, _), labels = case
    parts = all_parts([student.requires_grad_(), teacher.requires_grad_(), teacher], labels, temperature=temperature)
    (gradient,) = torch.autograd.grad(parts["kd"].sum(), student, retain_graph=True)
    targets = find_targets({"labels": labels})
    counts = torch.bincount(targets.sample)[targets.sample][:, None]
    rows, fixed = (at_targets(m, targets).detach() / temperature for m in (student, teacher))
    paper.assert_exact(at_targets(gradient, targets), temperature * (rows.softmax(-1) - fixed.softmax(-1)) / counts)
    assert not any(g is not None for g in torch.autograd.grad(parts["kd"].sum(), teacher, allow_unused=True))


def test_limits_of_the_calibrated_loss(case: tuple[list[Tensor], Tensor]) -> None:
    models, labels = case
    plain = all_parts(models, labels, mix=0.0)
    assert plain["loss"] == plain["cross_entropy"]
    targets = find_targets({"labels": labels})
    logprobs, kd = torch.zeros(len(targets.tokens)), torch.ones(len(targets.tokens))
    refinement = negative_calibrated(logprobs, kd, torch.full_like(kd, 0.5), targets, mix=1.0)
    assert refinement.loss == refinement.distillation == 0.75  # one sample of four is without targets


def test_a_beta_of_each_token_weighs_that_token() -> None:
    targets = find_targets({"labels": torch.tensor([[0, 1, 2, 3]])})
    kd, beta = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 0.5, 0.9])
    loss = negative_calibrated(torch.zeros(3), kd, beta, targets, mix=1.0).loss
    assert loss.item() == pytest.approx((0.5 * 1 + 1.0 * 2 + 1.4 * 4) / 3)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_extreme_logits_give_finite_losses_and_gradients(size: float, temperature: float) -> None:
    student, nat, negative = (torch.zeros(1, 3, VOCABULARY) for _ in range(3))
    student[..., 0], nat[..., 1], negative[..., 2] = size, size, size
    student.requires_grad_()
    parts = all_parts([student, nat, negative], torch.tensor([[0, 1, 2]]), temperature=temperature)
    assert all(part.isfinite().all() for part in parts.values())
    assert 0.999 < parts["beta"] <= 1  # β < 1 holds but for rounding
    assert gradient_of(parts["loss"], student).abs().max() > 0


def test_no_target_gives_zero_with_zero_gradient() -> None:
    models = [random_logits((2, 4), seed).requires_grad_() for seed in range(3)]
    loss = all_parts(models, torch.full((2, 4), IGNORE))["loss"]
    assert loss == 0
    assert gradient_of(loss, models[0]).abs().max() == 0

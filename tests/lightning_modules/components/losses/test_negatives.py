"""NT, UL, REDI, DPO and CL's InfoNCE against their formulas written out in plain Python, and at their limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.losses.contrast import info_nce, pooled
from lightning_modules.components.losses.negatives import (
    REDI,
    NegativeTraining,
    Objective,
    Unlikelihood,
    log1mexp,
    negative_training,
    positive_cross_entropy,
    reinforcement_distillation,
    unlikelihood,
)
from lightning_modules.components.losses.preference import direct_preference, pairs_of
from lightning_modules.components.losses.supervised import IGNORE, Targets, cross_entropy, find_targets
from tests.lightning_modules import paper

Loss = Callable[[Tensor, Targets], Tensor]
VERDICTS = [True, False, False, True, False]

LOSSES: dict[str, Loss] = {
    "nt": NegativeTraining(weight=0.3),
    "ul-sequence": Unlikelihood(weight=0.3),
    "ul-token": Unlikelihood(weight=0.3, level="token"),
    "redi": REDI(weight=0.3),
}


def make_batch(lengths: list[int], verdicts: list[bool]) -> dict[str, Any]:
    """Rows with so many targets each, after one token of prompt, padded."""
    labels = torch.full((len(lengths), max(lengths) + 1), IGNORE)
    for row, length in enumerate(lengths):
        labels[row, 1 : length + 1] = 5
    return {"labels": labels, "positive": torch.tensor(verdicts)}


def random_logprobs(count: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -torch.rand(count, generator=generator, dtype=torch.float64) * scale


def by_sample(logprobs: Tensor, lengths: list[int]) -> list[list[float]]:
    return [part.tolist() for part in logprobs.split(lengths)]


def average(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def reference(name: str, rows: list[list[float]], verdicts: list[bool], weight: float) -> float:
    """The formulas of docs/method.md, word for word."""
    right = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict]
    wrong = [row for row, verdict in zip(rows, verdicts, strict=True) if not verdict]
    likelihood = average([p for row in right for p in row])
    if name == "nt":
        return -likelihood + weight * average([p for row in wrong for p in row])
    if name == "ul-token":
        return -likelihood - weight * average([math.log(1 - math.exp(p)) for row in wrong for p in row])
    if name == "ul-sequence":
        return -likelihood - weight * average([math.log(1 - math.exp(average(row))) for row in wrong])
    assert name == "redi"
    return -average([average(row) for row in right]) + weight * average([average(row) for row in wrong])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    weight=st.floats(0, 2),
)
def test_losses_equal_their_formulas(rows: list[tuple[int, bool]], seed: int, weight: float) -> None:
    lengths, verdicts = [n for n, _ in rows], [v for _, v in rows]
    targets = find_targets(make_batch(lengths, verdicts))
    logprobs = random_logprobs(sum(lengths), seed, 4.0)
    actual = {
        "nt": negative_training(logprobs, targets, weight),
        "ul-sequence": unlikelihood(logprobs, targets, weight),
        "ul-token": unlikelihood(logprobs, targets, weight, "token"),
        "redi": reinforcement_distillation(logprobs, targets, weight),
    }
    for name, value in actual.items():
        expected = reference(name, by_sample(logprobs, lengths), verdicts, weight)
        paper.assert_exact(value, torch.tensor(expected, dtype=torch.float64), name)


@pytest.mark.parametrize("name", ["nt", "ul-sequence", "ul-token"])
def test_without_weight_they_are_mle_on_the_right_rationales(name: str) -> None:
    lengths, zero = (
        [3, 2, 4, 1, 2],
        {"nt": NegativeTraining(0.0), "ul-sequence": Unlikelihood(0.0), "ul-token": Unlikelihood(0.0, "token")},
    )
    logprobs = random_logprobs(sum(lengths))
    kept = torch.cat([part for part, verdict in zip(logprobs.split(lengths), VERDICTS, strict=True) if verdict])
    alone = find_targets(make_batch([3, 1], [True, True]))
    mixed = find_targets(make_batch(lengths, VERDICTS))
    paper.assert_exact(zero[name](logprobs, mixed), cross_entropy(kept, alone))
    paper.assert_exact(positive_cross_entropy(logprobs, mixed), cross_entropy(kept, alone))


def test_redi_without_weight_on_samples_of_one_length_is_mle() -> None:
    targets = find_targets(make_batch([3, 3], [True, True]))
    logprobs = random_logprobs(6)
    paper.assert_exact(reinforcement_distillation(logprobs, targets, 0.0), cross_entropy(logprobs, targets))


def test_levels_of_unlikelihood_agree_on_single_tokens() -> None:
    targets = find_targets(make_batch([1, 1, 1], [True, False, False]))
    logprobs = random_logprobs(3)
    paper.assert_exact(unlikelihood(logprobs, targets), unlikelihood(logprobs, targets, level="token"))


@pytest.mark.parametrize("name", LOSSES)
def test_both_verdicts_are_pushed_their_way(name: str) -> None:
    lengths = [3, 2, 4, 1, 2]
    targets = find_targets(make_batch(lengths, VERDICTS))
    logprobs = random_logprobs(sum(lengths)).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](logprobs, targets), logprobs)
    right = torch.tensor(VERDICTS)[targets.sample]
    assert (gradient[right] < 0).all()
    assert (gradient[~right] > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_masking_equals_dropping(name: str) -> None:
    lengths = [3, 2, 4, 1, 2]
    batch, logprobs = make_batch(lengths, VERDICTS), random_logprobs(sum(lengths))
    masked = batch["labels"].clone()
    masked[2, 2:] = IGNORE  # the third sample keeps one target of four
    kept = torch.cat([logprobs[:6], logprobs[9:]])
    one = LOSSES[name](kept, find_targets({**batch, "labels": masked}))
    other = LOSSES[name](kept, find_targets(make_batch([3, 2, 1, 1, 2], VERDICTS)))
    paper.assert_exact(one, other)


@pytest.mark.parametrize("name", ["nt", "ul-sequence", "ul-token", "redi"])
@pytest.mark.parametrize("missing", [True, False])
def test_a_batch_of_one_verdict(name: str, missing: bool) -> None:
    targets = find_targets(make_batch([2, 3], [missing, missing]))
    logprobs = random_logprobs(5).requires_grad_()
    loss = LOSSES[name](logprobs, targets)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert loss.item() == pytest.approx(
        reference(name, by_sample(logprobs.detach(), [2, 3]), [missing] * 2, 0.3), abs=1e-12
    )


@pytest.mark.parametrize("name", LOSSES)
def test_accumulated_micro_batches_are_one_batch(name: str) -> None:
    """With the step's counts halved, the mean over two micro-batches is the loss of the whole, however uneven."""
    lengths = [3, 2, 4, 1, 2]
    logprobs = random_logprobs(sum(lengths))
    whole = find_targets(make_batch(lengths, VERDICTS))
    counts = {"all": (6.0, 2.5), "positive": (2.0, 1.0), "negative": (4.0, 1.5)}  # (12, 5), (4, 2), (8, 3) over 2
    parts = [(lengths[:1], VERDICTS[:1], logprobs[:3]), (lengths[1:], VERDICTS[1:], logprobs[3:])]
    losses = [LOSSES[name](p, find_targets({**make_batch(n, v), "step": counts})) for n, v, p in parts]
    paper.assert_exact((losses[0] + losses[1]) / 2, LOSSES[name](logprobs, whole))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("extreme", ["certain", "above", "impossible"])
def test_gradients_are_finite_at_the_extremes(dtype: torch.dtype, name: str, extreme: str) -> None:
    """log P → 0 (float rounding puts it above, too) and log P so low that P underflows."""
    value = {"certain": 0.0, "above": 1e-6, "impossible": -1e4}[extreme]
    targets = find_targets(make_batch([2, 2], [True, False]))
    logprobs = torch.full((4,), value, dtype=dtype, requires_grad=True)
    loss = LOSSES[name](logprobs, targets)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_unlikelihood_of_a_student_that_is_certain_of_a_wrong_token_reaches_the_logits_finitely() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0], [0.0, 3.0, 0.0]], requires_grad=True)
    targets = find_targets(
        {"labels": torch.tensor([[IGNORE, 0], [IGNORE, 1]]), "positive": torch.tensor([False, True])}
    )
    logprobs = logits.log_softmax(-1).gather(1, targets.tokens[:, None])[:, 0]
    for level in ("sequence", "token"):
        loss = unlikelihood(logprobs, targets, 1.0, level)
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert loss.isfinite()
        assert gradient.isfinite().all()


@settings(max_examples=200, deadline=None)
@given(x=st.floats(-700, -1e-12))
def test_log1mexp_is_exact_at_both_ends(x: float) -> None:
    expected = math.log(-math.expm1(x)) if x > -0.5 else math.log1p(-math.exp(x))
    value = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    result = log1mexp(value)
    assert result.item() == pytest.approx(expected, rel=1e-13, abs=1e-300)
    (gradient,) = torch.autograd.grad(result, value)
    assert gradient.item() == pytest.approx(math.exp(x) / math.expm1(x), rel=1e-12, abs=1e-300)


def test_log1mexp_at_the_border() -> None:
    x = torch.tensor([0.0, 1e-5, -math.inf], requires_grad=True)
    result = log1mexp(x)
    assert result.tolist() == [pytest.approx(math.log(2.0**-23)), pytest.approx(math.log(2.0**-23)), 0.0]
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


def test_a_sample_without_targets_is_no_certain_one() -> None:
    batch = make_batch([2, 2, 1], [True, False, False])
    batch["labels"][2] = IGNORE
    logprobs = random_logprobs(4)
    expected = reference("ul-sequence", by_sample(logprobs, [2, 2]), [True, False], 0.05) - reference(
        "ul-sequence", by_sample(logprobs, [2, 2]), [True, False], 0.0
    )
    actual = unlikelihood(logprobs, find_targets(batch)) - unlikelihood(logprobs, find_targets(batch), 0.0)
    paper.assert_exact(actual, torch.tensor(expected / 2, dtype=torch.float64))


@pytest.mark.parametrize("objective", [NegativeTraining, Unlikelihood, REDI])
def test_a_negative_weight_is_refused(objective: type[Objective]) -> None:
    with pytest.raises(InputError, match="must not be negative"):
        objective(weight=-0.1)  # type: ignore[call-arg]


def test_verdicts_are_needed() -> None:
    targets = find_targets({"labels": make_batch([2], [True])["labels"]})
    with pytest.raises(ValueError, match="positive"):
        negative_training(random_logprobs(2), targets)


# DPO.


PAIRED = [True, False, False, True]
GROUPS = torch.tensor([7, 2, 7, 2])
LENGTHS = [2, 3, 1, 4]


def dpo_reference(policy: list[list[float]], frozen: list[list[float]], beta: float) -> float:
    """Samples 0 and 2 are question 7's, 3 and 1 question 2's."""
    ratio = [math.fsum(p) - math.fsum(r) for p, r in zip(policy, frozen, strict=True)]
    margins = [beta * (ratio[right] - ratio[wrong]) for right, wrong in ((0, 2), (3, 1))]
    return average([math.log1p(math.exp(-margin)) for margin in margins])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), beta=st.floats(0.01, 3))
def test_dpo_equals_its_formula(seed: int, beta: float) -> None:
    targets = find_targets(make_batch(LENGTHS, PAIRED))
    policy, frozen = random_logprobs(10, seed, 5.0), random_logprobs(10, seed + 1, 5.0)
    result = direct_preference(policy, frozen, targets, GROUPS, beta)
    expected = dpo_reference(by_sample(policy, LENGTHS), by_sample(frozen, LENGTHS), beta)
    paper.assert_exact(result.loss, torch.tensor(expected, dtype=torch.float64))


def test_dpo_of_the_reference_itself_is_log_2_and_widens_the_margin() -> None:
    targets = find_targets(make_batch(LENGTHS, PAIRED))
    policy = random_logprobs(10).requires_grad_()
    frozen = policy.detach().clone().requires_grad_()
    result = direct_preference(policy, frozen, targets, GROUPS)
    assert result.loss.item() == pytest.approx(math.log(2), abs=1e-12)
    assert result.margins.tolist() == [0, 0]
    gradient, none = torch.autograd.grad(result.loss, [policy, frozen], allow_unused=True)
    assert none is None
    right = torch.tensor(PAIRED)[targets.sample]
    assert (gradient[right] == -0.1 / 2 / 2).all()  # −β σ(0) over two pairs
    assert (gradient[~right] == 0.1 / 2 / 2).all()


@pytest.mark.parametrize("factor", [-1e5, 1e5])
def test_dpo_is_finite_at_wide_margins(factor: float) -> None:
    targets = find_targets(make_batch([1, 1], [True, False]))
    policy = torch.tensor([-1.0, 1.0]).mul(factor).requires_grad_()
    loss = direct_preference(policy, torch.zeros(2), targets, torch.zeros(2, dtype=torch.int64)).loss
    (gradient,) = torch.autograd.grad(loss, policy)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_dpo_masks_and_accumulates() -> None:
    policy, frozen = random_logprobs(10, 1), random_logprobs(10, 2)
    whole = direct_preference(policy, frozen, find_targets(make_batch(LENGTHS, PAIRED)), GROUPS).loss
    halves = []
    for rows in ([0, 2], [1, 3]):
        where = torch.isin(torch.arange(4).repeat_interleave(torch.tensor(LENGTHS)), torch.tensor(rows))
        batch = make_batch([LENGTHS[row] for row in rows], [PAIRED[row] for row in rows])
        batch["step"] = {"all": (5.0, 2.0), "positive": (3.0, 1.0), "negative": (2.0, 1.0)}
        halves.append(direct_preference(policy[where], frozen[where], find_targets(batch), GROUPS[rows]).loss)
    paper.assert_exact((halves[0] + halves[1]) / 2, whole)


def test_pairs_are_matched_within_questions_in_order() -> None:
    groups = torch.tensor([3, 1, 3, 1, 3, 3])
    right, wrong = pairs_of(groups, torch.tensor([True, False, False, True, True, False]))
    assert right.tolist() == [3, 0, 4]
    assert wrong.tolist() == [1, 2, 5]
    for verdicts in ([True] * 6, [True, False, False, True, False, False], [True, True, False, True, False, False]):
        with pytest.raises(ValueError, match="as many right as wrong"):
            pairs_of(groups, torch.tensor(verdicts))


# CL.


def cosine(a: list[float], b: list[float]) -> float:
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
    temperature=st.floats(0.05, 2),
)
def test_info_nce_equals_its_formula(rows: list[tuple[int, bool]], seed: int, temperature: float) -> None:
    groups, verdicts = [g for g, _ in rows], [v for _, v in rows]
    generator = torch.Generator().manual_seed(seed)
    questions, rationales = torch.randn(2, len(rows), 5, generator=generator, dtype=torch.float64)
    scores = [cosine(q, r) / temperature for q, r in zip(questions.tolist(), rationales.tolist(), strict=True)]
    terms = []
    for group, verdict, score in zip(groups, verdicts, scores, strict=True):
        if verdict:
            others = [s for g, v, s in zip(groups, verdicts, scores, strict=True) if g == group and not v]
            terms.append(-math.log(math.exp(score) / (math.exp(score) + math.fsum(math.exp(s) for s in others))))
    targets = find_targets(make_batch([1] * len(rows), verdicts))
    actual = info_nce(questions, rationales, targets, torch.tensor(groups), temperature)
    paper.assert_exact(actual, torch.tensor(average(terms), dtype=torch.float64))


def test_info_nce_pulls_right_and_pushes_wrong_rationales() -> None:
    targets = find_targets(make_batch([1, 1, 1], [True, False, True]))
    question = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    rationales = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], requires_grad=True)
    groups = torch.tensor([0, 0, 1])  # the third has no wrong neighbour: neither a loss nor a gradient
    loss = info_nce(question, rationales, targets, groups, temperature=1.0)
    assert loss.item() == pytest.approx(math.log(2) / 2)  # equal scores, over two right samples
    (gradient,) = torch.autograd.grad(loss, rationales)
    assert gradient[0, 0] < 0 < gradient[1, 0]
    assert (gradient[2] == 0).all()


def test_info_nce_is_finite_for_a_state_of_zeros() -> None:
    targets = find_targets(make_batch([1, 1], [True, False]))
    states = torch.zeros(2, 3, requires_grad=True)
    loss = info_nce(states, states, targets, torch.zeros(2, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(loss, states)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pooling_is_the_mean_over_the_marked_positions(dtype: torch.dtype) -> None:
    hidden = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    where = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    result = pooled(hidden, where)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(result[0], hidden[0, :2].to(result.dtype).mean(0))
    torch.testing.assert_close(result[1], hidden[1, 1:].to(result.dtype).mean(0))
    assert (result[2] == 0).all()

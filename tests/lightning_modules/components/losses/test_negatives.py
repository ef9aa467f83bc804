"""NT, UL and REDI against their formulas written out in plain Python, and at their limits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.losses.negatives import REDI, NegativeTraining, Objective, Unlikelihood, log1mexp
from lightning_modules.components.losses.supervised import cross_entropy
from lightning_modules.components.losses.targets import IGNORE, Targets, find_targets
from tests.lightning_modules import paper
from tests.lightning_modules.components.losses.cases import average, by_sample, make_batch, random_logprobs

Loss = Callable[[Tensor, Targets], Tensor]


VERDICTS = [True, False, False, True, False]


LOSSES: dict[str, Loss] = {
    "nt": NegativeTraining(weight=0.3),
    "ul-sequence": Unlikelihood(weight=0.3),
    "ul-token": Unlikelihood(weight=0.3, level="token"),
    "redi": REDI(weight=0.3),
}


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
        "nt": NegativeTraining(weight)(logprobs, targets),
        "ul-sequence": Unlikelihood(weight)(logprobs, targets),
        "ul-token": Unlikelihood(weight, "token")(logprobs, targets),
        "redi": REDI(weight)(logprobs, targets),
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


def test_redi_without_weight_on_samples_of_one_length_is_mle() -> None:
    targets = find_targets(make_batch([3, 3], [True, True]))
    logprobs = random_logprobs(6)
    paper.assert_exact(REDI(0.0)(logprobs, targets), cross_entropy(logprobs, targets))


def test_levels_of_unlikelihood_agree_on_single_tokens() -> None:
    targets = find_targets(make_batch([1, 1, 1], [True, False, False]))
    logprobs = random_logprobs(3)
    paper.assert_exact(Unlikelihood()(logprobs, targets), Unlikelihood(level="token")(logprobs, targets))


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
    for objective in (Unlikelihood(1.0), Unlikelihood(1.0, "token")):
        loss = objective(logprobs, targets)
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
    actual = Unlikelihood()(logprobs, find_targets(batch)) - Unlikelihood(0.0)(logprobs, find_targets(batch))
    paper.assert_exact(actual, torch.tensor(expected / 2, dtype=torch.float64))


@pytest.mark.parametrize("objective", [NegativeTraining, Unlikelihood, REDI])
def test_a_negative_weight_is_refused(objective: type[Objective]) -> None:
    with pytest.raises(InputError, match="must not be negative"):
        objective(weight=-0.1)  # type: ignore[call-arg]


def test_verdicts_are_needed() -> None:
    targets = find_targets({"labels": make_batch([2], [True])["labels"]})
    with pytest.raises(ValueError, match="positive"):
        NegativeTraining()(random_logprobs(2), targets)

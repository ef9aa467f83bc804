import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.components.losses.gain import gain_weighted
from lightning_modules.components.losses.targets import find_targets
from tests.lightning_modules import paper
from tests.lightning_modules.components.losses.cases import average, by_sample, make_batch, random_logprobs

LENGTHS, VERDICTS = [2, 3, 1, 4], [True, False, False, True]


def weight(gain: float, alpha: float, beta: float) -> float:
    return min(5.0, max(0.5, alpha * (1 - 1 / (1 + math.exp(-beta * gain)))))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), alpha=st.floats(0.1, 12), beta=st.floats(0, 20))
def test_glow_equals_its_formula(seed: int, alpha: float, beta: float) -> None:
    logprobs = random_logprobs(10, seed, 3.0).requires_grad_()
    before = random_logprobs(4, seed + 1, 3.0).abs()
    before[2] = math.nan  # a sample that was never seen
    targets = find_targets(make_batch(LENGTHS, VERDICTS))
    result = gain_weighted(logprobs, before, targets, alpha, beta)
    losses = [-average(values) for values in by_sample(logprobs, LENGTHS)]
    weights = [weight(b - loss, alpha, beta) for b, loss in zip(before.tolist(), losses, strict=True)]
    weights[2] = 1.0
    expected = [torch.tensor(values, dtype=torch.float64) for values in (losses, weights)]
    paper.assert_exact([result.losses, result.weights], expected)
    paper.assert_exact(result.loss, (expected[0] * expected[1]).mean())
    (gradient,) = torch.autograd.grad(result.loss, logprobs)
    slopes = -expected[1] / 4 / torch.tensor(LENGTHS)  # the weight is a constant
    paper.assert_exact(gradient, slopes[targets.sample])


def test_what_falls_less_counts_more() -> None:
    targets = find_targets(make_batch([1, 1, 1], [True, False, True]))
    logprobs = torch.tensor([-1.0, -1.0, -1.0])
    weights = gain_weighted(logprobs, torch.tensor([0.9, 1.0, 1.1]), targets, alpha=2.0, beta=10.0).weights
    assert weights.tolist() == pytest.approx([1.4621, 1.0, 0.5379], abs=1e-4)


def test_accumulated_micro_batches_are_one_batch() -> None:
    logprobs, before = random_logprobs(10), torch.ones(4, dtype=torch.float64)
    whole = gain_weighted(logprobs, before, find_targets(make_batch(LENGTHS, VERDICTS))).loss
    halves = []
    for rows, part in ((slice(0, 2), logprobs[:5]), (slice(2, 4), logprobs[5:])):
        batch = make_batch(LENGTHS[rows], VERDICTS[rows])
        batch["step"] = {"all": (5.0, 2.0), "positive": (3.0, 1.0), "negative": (2.0, 1.0)}
        halves.append(gain_weighted(part, before[rows], find_targets(batch)).loss)
    paper.assert_exact((halves[0] + halves[1]) / 2, whole)

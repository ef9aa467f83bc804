import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.components.losses.preference import direct_preference, pairs_of
from lightning_modules.components.losses.targets import find_targets
from tests.lightning_modules import paper
from tests.lightning_modules.components.losses.cases import average, by_sample, gradient_of, make_batch, random_logprobs

LENGTHS, VERDICTS = [2, 3, 1, 4], [True, False, False, True]
GROUPS = torch.tensor([7, 2, 7, 2])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), beta=st.floats(0.01, 3))
def test_dpo_equals_its_formula(seed: int, beta: float) -> None:
    policy, frozen = random_logprobs(10, seed, 5.0), random_logprobs(10, seed + 1, 5.0)
    result = direct_preference(policy, frozen, find_targets(make_batch(LENGTHS, VERDICTS)), GROUPS, beta)
    ratio = [
        math.fsum(p) - math.fsum(r) for p, r in zip(by_sample(policy, LENGTHS), by_sample(frozen, LENGTHS), strict=True)
    ]
    margins = [beta * (ratio[0] - ratio[2]), beta * (ratio[3] - ratio[1])]
    expected = average([math.log1p(math.exp(-margin)) for margin in margins])
    paper.assert_exact(result.loss, torch.tensor(expected, dtype=torch.float64))


def test_dpo_of_the_reference_itself_is_log_2_and_widens_the_margin() -> None:
    targets = find_targets(make_batch(LENGTHS, VERDICTS))
    policy = random_logprobs(10).requires_grad_()
    frozen = policy.detach().clone().requires_grad_()
    result = direct_preference(policy, frozen, targets, GROUPS)
    assert result.loss.item() == pytest.approx(math.log(2), abs=1e-12)
    assert result.margins.tolist() == [0, 0]
    gradient, none = torch.autograd.grad(result.loss, [policy, frozen], allow_unused=True)
    assert none is None
    right = torch.tensor(VERDICTS)[targets.sample]
    assert (gradient[right] == -0.1 / 2 / 2).all()  # −β σ(0) over two pairs
    assert (gradient[~right] == 0.1 / 2 / 2).all()


@pytest.mark.parametrize("factor", [-1e5, 1e5])
def test_dpo_is_finite_at_wide_margins(factor: float) -> None:
    targets = find_targets(make_batch([1, 1], [True, False]))
    policy = torch.tensor([-1.0, 1.0]).mul(factor).requires_grad_()
    gradient_of(direct_preference(policy, torch.zeros(2), targets, torch.zeros(2).long()).loss, policy)


def test_accumulated_micro_batches_are_one_batch() -> None:
    policy, frozen = random_logprobs(10, 1), random_logprobs(10, 2)
    whole = direct_preference(policy, frozen, find_targets(make_batch(LENGTHS, VERDICTS)), GROUPS).loss
    halves = []
    for rows in ([0, 2], [1, 3]):
        where = torch.isin(torch.arange(4).repeat_interleave(torch.tensor(LENGTHS)), torch.tensor(rows))
        batch = make_batch([LENGTHS[row] for row in rows], [VERDICTS[row] for row in rows])
        batch["step"] = {"all": (5.0, 2.0), "positive": (3.0, 1.0), "negative": (2.0, 1.0)}
        halves.append(direct_preference(policy[where], frozen[where], find_targets(batch), GROUPS[rows]).loss)
    paper.assert_exact((halves[0] + halves[1]) / 2, whole)


def test_pairs_are_matched_within_questions_in_order() -> None:
    groups = torch.tensor([3, 1, 3, 1, 3, 3])
    right, wrong = pairs_of(groups, torch.tensor([True, False, False, True, True, False]))
    assert (right.tolist(), wrong.tolist()) == ([3, 0, 4], [1, 2, 5])
    for verdicts in ([True] * 6, [True, False, False, True, False, False], [True, True, False, True, False, False]):
        with pytest.raises(ValueError, match="as many right as wrong"):
            pairs_of(groups, torch.tensor(verdicts))

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dust2gold.core.errors import InputError
from lightning_modules.components.losses.preference import (
    direct_preference,
    kahneman_tversky,
    mismatched,
    pairs_of,
    reference_point,
)
from lightning_modules.components.losses.targets import IGNORE, find_targets
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


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), beta=st.floats(0.01, 3), point=st.floats(0, 5))
def test_kto_equals_its_formula(seed: int, beta: float, point: float) -> None:
    policy, frozen = (
        random_logprobs(10, seed, 5.0).requires_grad_(),
        random_logprobs(10, seed + 1, 5.0).requires_grad_(),
    )
    targets, z = find_targets(make_batch(LENGTHS, VERDICTS)), torch.tensor(point, requires_grad=True)
    weights = (1.3, 0.7)
    loss = kahneman_tversky(policy, frozen, z, targets, beta, weights)
    losses, slopes = [], []
    for right, p, r in zip(VERDICTS, by_sample(policy, LENGTHS), by_sample(frozen, LENGTHS), strict=True):
        reward = math.fsum(p) - math.fsum(r)
        value = 1 / (1 + math.exp(-beta * (reward - z.item() if right else z.item() - reward)))  # v, eq. 8
        losses.append(weights[not right] * (1 - value))
        slopes.append(weights[not right] * beta * value * (1 - value) * (-1 if right else 1) / 4)
    paper.assert_exact(loss, torch.tensor(average(losses), dtype=torch.float64))
    gradient, *none = torch.autograd.grad(loss, [policy, frozen, z], allow_unused=True)
    assert none == [None, None]
    paper.assert_exact(gradient, torch.tensor(slopes, dtype=torch.float64)[targets.sample])


@pytest.mark.parametrize(("shift", "expected"), [(0.5, 0.5 * 10 / 4), (-0.5, 0.0)])
def test_the_reference_point_is_a_mean_cut_at_0(shift: float, expected: float) -> None:
    frozen, targets = random_logprobs(10), find_targets(make_batch(LENGTHS, VERDICTS))
    assert reference_point(frozen + shift, frozen, targets).item() == pytest.approx(expected)
    alone = find_targets(make_batch([10], [True]))
    assert reference_point(frozen + shift, frozen, alone) == 0, "a row alone has no other rationale"


def test_each_prompt_gets_the_next_rows_rationale() -> None:
    rows, starts = [[1, 2, 3, 11, 12], [4, 21], [5, 6, 31, 32, 33]], [3, 1, 2]
    ids, labels = torch.zeros(3, 5, dtype=torch.int64), torch.full((3, 5), IGNORE)
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        labels[number, start : len(row)] = ids[number, start : len(row)]
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}
    found = mismatched(batch)
    shown = [row[mask == 1].tolist() for row, mask in zip(found["input_ids"], found["attention_mask"], strict=True)]
    assert shown == [[1, 2, 3, 21], [4, 31, 32, 33], [5, 6, 11, 12]]
    assert find_targets(found).tokens.tolist() == [21, 31, 32, 33, 11, 12]
    wide = {**batch, "input_ids": ids[:, :4], "attention_mask": (ids > 0).long()[:, :4], "labels": labels[:, :4]}
    assert mismatched(wide)["input_ids"].shape == (3, 4), "cut at the batch's width"


@pytest.mark.parametrize(("change", "field"), [({"segments": None}, "packing"), ({"labels": None}, "loss_on_prompt")])
def test_a_rationale_without_a_place_of_its_own_is_refused(change: dict[str, None], field: str) -> None:
    ids = torch.arange(8).view(2, 4)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.where(ids % 4 > 1, IGNORE)}
    with pytest.raises(InputError) as caught:
        mismatched({**batch, **dict.fromkeys(change, ids)})
    assert caught.value.field == f"data.{field}"

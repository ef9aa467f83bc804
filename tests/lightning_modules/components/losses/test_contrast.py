import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.components.losses.contrast import info_nce, pooled
from lightning_modules.components.losses.targets import find_targets
from tests.lightning_modules import paper
from tests.lightning_modules.components.losses.cases import average, gradient_of, make_batch, normal


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
    questions, rationales = normal(2, len(rows), 5, seed=seed)
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
    gradient = gradient_of(info_nce(question, rationales, targets, groups, temperature=1.0), rationales)
    assert gradient[0, 0] < 0 < gradient[1, 0]
    assert (gradient[2] == 0).all()


def test_info_nce_is_finite_for_a_state_of_zeros() -> None:
    targets = find_targets(make_batch([1, 1], [True, False]))
    states = torch.zeros(2, 3, requires_grad=True)
    gradient_of(info_nce(states, states, targets, torch.zeros(2, dtype=torch.int64)), states)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pooling_is_the_mean_over_the_marked_positions(dtype: torch.dtype) -> None:
    hidden = normal(3, 4, 2).to(dtype)
    where = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    wide = hidden.to(torch.float64 if dtype == torch.float64 else torch.float32)
    expected = torch.stack([wide[0, :2].mean(0), wide[1, 1:].mean(0), torch.zeros_like(wide[0, 0])])
    torch.testing.assert_close(pooled(hidden, where), expected)

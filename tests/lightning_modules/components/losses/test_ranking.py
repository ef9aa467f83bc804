import math

import pytest
import torch

from lightning_modules.components.losses.ranking import RANKING_LOSSES, binary_cross_entropy, pairwise


def test_losses_by_hand() -> None:
    positive, negative = [0.3, -2.0, 5.0], [-0.7, 1.5, 4.0]
    sigma = [[1 / (1 + math.exp(-x)) for x in side] for side in (positive, negative)]
    pairs = list(zip(*sigma, strict=True))
    expected = {
        "pairwise": sum((1 - p) ** 3 + n**3 for p, n in pairs) / 3,
        "binary_cross_entropy": sum(-math.log(p) - math.log(1 - n) for p, n in pairs) / 6,
    }
    right, wrong = (torch.tensor(side, dtype=torch.float64) for side in (positive, negative))
    for name, loss in RANKING_LOSSES.items():
        assert loss(right, wrong).item() == pytest.approx(expected[name], abs=1e-13)
        assert loss(right, wrong, 1.5).item() == pytest.approx(2 * expected[name], abs=1e-13)  # half a step's pairs


def test_the_exponents_are_options() -> None:
    right, wrong = torch.tensor([0.0], dtype=torch.float64), torch.tensor([math.log(3)], dtype=torch.float64)
    assert pairwise(right, wrong).item() == pytest.approx(0.5**3 + 0.75**3, abs=1e-15)
    assert pairwise(right, wrong, exponents=(3, 7)).item() == pytest.approx(0.5**3 + 0.75**7, abs=1e-15)


def test_losses_at_their_limits() -> None:
    certain = torch.full((3,), 1e4)
    assert pairwise(certain, -certain) == 0
    extreme = torch.tensor([-1e4], requires_grad=True)
    binary_cross_entropy(extreme, -extreme).backward()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_modules.components.integration import IntegrationUnit
from tests.lightning_modules import paper


def random_case(
    lead: tuple[int, ...], d_in: int, d_out: int, ranks: tuple[int, int], delta: bool, seed: int
) -> tuple[IntegrationUnit, dict[str, Tensor]]:
    """A float64 unit without zeros in it, and leaves: x, y, A_i and B_i of both branches."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    unit = IntegrationUnit(d_in, d_out, key_dim=5, bottleneck=6, delta=delta).double()
    for parameter in unit.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    leaves = {"x": leaf(*lead, d_in), "y": leaf(*lead, d_out)}
    for side, rank in zip(("positive", "negative"), ranks, strict=True):
        leaves |= {f"A {side}": leaf(rank, d_in), f"B {side}": leaf(d_out, rank)}
    return unit, leaves


def branches_of(leaves: dict[str, Tensor]) -> list[tuple[Tensor, Tensor, float]]:
    scales = {"positive": 2.0, "negative": 0.5}
    return [(leaves["x"] @ leaves[f"A {side}"].mT, leaves[f"B {side}"], s) for side, s in scales.items()]


def run_unit(unit: IntegrationUnit, leaves: dict[str, Tensor]) -> Tensor:
    positive, negative = ((z, b * s) for z, b, s in branches_of(leaves))
    out: Tensor = unit(leaves["x"], leaves["y"], positive, negative)
    return out


@settings(max_examples=25, deadline=None)
@given(
    lead=st.sampled_from([(3,), (2, 3), (1, 1), (2, 1, 2)]),
    d_in=st.integers(1, 7),
    d_out=st.integers(1, 7),
    ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    delta=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_forward_and_all_gradients_equal_the_paper(
    lead: tuple[int, ...], d_in: int, d_out: int, ranks: tuple[int, int], delta: bool, seed: int
) -> None:
    unit, leaves = random_case(lead, d_in, d_out, ranks, delta, seed)
    inputs = {**leaves, **dict(unit.named_parameters())}
    expected = paper.integration(unit, leaves["x"], leaves["y"], branches_of(leaves))
    actual = run_unit(unit, leaves)
    paper.assert_exact(actual, expected)
    upstream = torch.randn(actual.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, list(inputs.values()), upstream)
    got = torch.autograd.grad(actual, list(inputs.values()), upstream)
    for name, a, b in zip(inputs, got, wanted, strict=True):
        paper.assert_exact(a, b, f"gradient of {name}")


def test_gradcheck() -> None:
    unit, leaves = random_case((2,), 3, 2, (2, 1), False, 0)
    assert torch.autograd.gradcheck(lambda *values: run_unit(unit, dict(zip(leaves, values, strict=True))), [
        *leaves.values()
    ])  # fmt: skip


def test_a_fresh_unit_returns_the_base_output() -> None:
    _, leaves = random_case((4, 3), 5, 7, (2, 3), False, 1)
    unit = IntegrationUnit(5, 7).double()
    assert torch.equal(run_unit(unit, leaves), leaves["y"])
    first = torch.autograd.grad(run_unit(unit, leaves).sum(), unit.up.weight)[0]
    assert first.abs().max() > 0, "W_2 must leave zero with the first step"


def test_gate_is_the_shifted_softmax_and_stays_in_range() -> None:
    unit, leaves = random_case((50,), 4, 6, (3, 2), False, 2)
    (z, b, s), (z_negative, b_negative, s_negative) = branches_of(leaves)
    seen: list[Tensor] = []
    unit.gate.register_forward_hook(lambda module, args, output: seen.append(output))
    for sharpness in (1.0, 1e4):  # 1e4 saturates the softmax
        unit(leaves["x"], leaves["y"], (z, b * s * sharpness), (z_negative, b_negative * s_negative * sharpness))
        query = leaves["x"] @ unit.gate.query.weight.mT
        keys = [
            (leaves["y"] + sharpness * scale * rank @ up.mT) @ unit.gate.key.weight.mT
            for rank, up, scale in branches_of(leaves)
        ]
        alpha = torch.stack([(query * key).sum(-1) for key in keys], -1).softmax(-1)
        alpha = alpha + torch.tensor([0.5, -0.5], dtype=torch.float64)
        torch.testing.assert_close(seen[-1], alpha[:, 1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(1 - seen[-1], alpha[:, 0], rtol=1e-9, atol=1e-9)
        assert -0.5 <= seen[-1].min() <= seen[-1].max() <= 0.5
    assert seen[-1].min() == -0.5
    assert seen[-1].max() == 0.5


def test_equal_branches_leave_the_gate_closed() -> None:
    unit, leaves = random_case((6,), 4, 4, (2, 2), False, 3)
    z, b, s = branches_of(leaves)[0]
    assert unit.gate(leaves["x"], (z, b * s), (z, b * s)).abs().max() == 0


@pytest.mark.slow
def test_unit_compiles_to_one_graph() -> None:
    unit, leaves = random_case((2, 3), 5, 4, (2, 3), False, 4)
    z, b, s = branches_of(leaves)[0]
    compiled = torch.compile(unit, fullgraph=True)
    expected = unit(leaves["x"], leaves["y"], (z, b * s), (z, b))
    paper.assert_exact(compiled(leaves["x"], leaves["y"], (z, b * s), (z, b)), expected)

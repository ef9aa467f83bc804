from functools import partial
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.harness import saved_activations
from lightning_modules.components.integration.kernel import Base
from lightning_modules.components.integration.unit import Half, IntegrationUnit, Mixed
from tests.lightning_modules import paper

SCALES = {"positive": 2.0, "negative": 0.5}
Pair = tuple[int, int]


def random_case(
    lead: tuple[int, ...] = (2, 3), widths: Pair = (5, 4), ranks: Pair = (2, 3), seed: int = 0, **unit_options: Any
) -> tuple[IntegrationUnit, dict[str, Tensor]]:
    """A float64 unit without zeros in it, and leaves: x, W₀, b, A_i and B_i of both branches."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    d_in, d_out = widths
    unit = IntegrationUnit(d_in, d_out, **{"key_dim": 5, "bottleneck": 6, **unit_options}).double()
    for parameter in unit.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    leaves = {"x": leaf(*lead, d_in), "W0": leaf(d_out, d_in), "b": leaf(d_out)}
    for side, rank in zip(SCALES, ranks, strict=True):
        leaves |= {f"A {side}": leaf(rank, d_in), f"B {side}": leaf(d_out, rank)}
    return unit, leaves


def base_output(leaves: dict[str, Tensor]) -> Tensor:
    return leaves["x"] @ leaves["W0"].mT + leaves["b"]


def run_paper(unit: IntegrationUnit, leaves: dict[str, Tensor]) -> Tensor:
    branches = [(leaves["x"] @ leaves[f"A {side}"].mT, leaves[f"B {side}"], s) for side, s in SCALES.items()]
    return paper.integration(unit, leaves["x"], base_output(leaves), branches)


def run_unit(unit: nn.Module, leaves: dict[str, Tensor], with_base: bool = False, **options: Any) -> Mixed:
    halves = [Half(leaves[f"A {side}"], leaves[f"B {side}"], s) for side, s in SCALES.items()]
    base = Base(leaves["W0"], leaves["b"]) if with_base else None
    mixed: Mixed = unit(leaves["x"], base_output(leaves), *halves, base=base, **options)
    return mixed


def gradients(out: Tensor, unit: nn.Module, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a fixed weighted sum of the output, with respect to every weight and leaf."""
    inputs = {**leaves, **dict(unit.named_parameters())}
    weights = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).to(out.dtype).view_as(out)
    found = torch.autograd.grad(out, list(inputs.values()), weights, allow_unused=True)
    return {name: g for name, g in zip(inputs, found, strict=True) if g is not None}


@settings(max_examples=40, deadline=None)
@given(
    lead=st.sampled_from([(3,), (2, 3), (1, 1), (2, 1, 2)]),
    widths=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    options=st.fixed_dictionaries({name: st.booleans() for name in ("delta", "attention", "scale_gate")}),
    with_base=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_forward_and_all_gradients_equal_the_paper(
    lead: tuple[int, ...], widths: Pair, ranks: Pair, options: dict[str, bool], with_base: bool, seed: int
) -> None:
    unit, leaves = random_case(lead, widths, ranks, seed, **options)
    expected, (actual, alpha) = run_paper(unit, leaves), run_unit(unit, leaves, with_base)
    assert (alpha is None) is not options["attention"]
    paper.assert_exact(actual, expected)
    paper.assert_exact(gradients(actual, unit, leaves), gradients(expected, unit, leaves))
    with torch.no_grad():
        paper.assert_exact(run_unit(unit, leaves).output, expected)


@pytest.mark.parametrize("options", [{}, {"delta": True}, {"attention": False}])
def test_dropout_is_that_of_the_positive_halfs_input(options: dict[str, Any]) -> None:
    unit, leaves = random_case((40,), **options)
    torch.manual_seed(1)
    actual = run_unit(unit, leaves, with_base=True, dropout=0.4).output
    torch.manual_seed(1)
    dropped, _ = torch.native_dropout(leaves["x"], 0.4, True)
    assert (dropped == 0).double().mean() == pytest.approx(0.4, abs=0.1)
    branches = [
        (source @ leaves[f"A {side}"].mT, leaves[f"B {side}"], scale)
        for (side, scale), source in zip(SCALES.items(), (dropped, leaves["x"]), strict=True)
    ]
    expected = paper.integration(unit, leaves["x"], base_output(leaves), branches)
    paper.assert_exact(actual, expected)
    paper.assert_exact(gradients(actual, unit, leaves), gradients(expected, unit, leaves))


def test_frozen_inputs_get_no_gradient_and_the_others_keep_theirs() -> None:
    unit, leaves = random_case()
    wanted = gradients(run_paper(unit, leaves), unit, leaves)
    for frozen in ("A negative", "B negative", "W0", "b", "x"):
        leaves[frozen] = leaves[frozen].detach()
    out = run_unit(unit, leaves, with_base=True).output
    out.backward(torch.linspace(-1, 2, 24, dtype=torch.float64).view(2, 3, 4))
    trained = {**dict(unit.named_parameters()), **{f"{m} positive": leaves[f"{m} positive"] for m in "AB"}}
    paper.assert_exact({name: p.grad for name, p in trained.items()}, {name: wanted[name] for name in trained})


def test_a_second_derivative_is_refused() -> None:
    unit, leaves = random_case()
    (gradient,) = torch.autograd.grad(run_unit(unit, leaves).output.square().sum(), leaves["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("scale_gate", [False, True])
def test_gate_is_the_shifted_softmax_and_stays_in_range(scale_gate: bool) -> None:
    unit, leaves = random_case((50,), (4, 6), scale_gate=scale_gate)
    for sharpness in (1.0, 1e4):  # 1e4 saturates the softmax
        sharp = {name: leaf * sharpness if name.startswith("B") else leaf for name, leaf in leaves.items()}
        mixed, y = run_unit(unit, sharp), base_output(leaves)
        assert mixed.alpha_negative is not None
        assert not mixed.alpha_negative.requires_grad
        for t, alpha in enumerate(mixed.alpha_negative):
            hs = [y[t] + s * sharp[f"B {side}"] @ sharp[f"A {side}"] @ leaves["x"][t] for side, s in SCALES.items()]
            wanted = paper.attention(unit, leaves["x"][t], hs)
            torch.testing.assert_close(torch.stack([1 - alpha, alpha]), wanted, rtol=1e-9, atol=1e-9)
        lowest, highest = mixed.alpha_negative.min(), mixed.alpha_negative.max()
        assert -0.5 <= lowest <= highest <= 0.5
    assert lowest == -0.5
    assert highest == 0.5


@pytest.mark.parametrize(("device_dtype", "autocast"), [(torch.bfloat16, True), (torch.float32, False)])
def test_lower_precision_is_close(device_dtype: torch.dtype, autocast: bool) -> None:
    unit, leaves = random_case((64,), (48, 32), (4, 4), bottleneck=16, key_dim=16)
    with torch.no_grad():
        for tensor in (*unit.parameters(), *leaves.values()):
            tensor.mul_(0.3)
    expected = run_paper(unit, leaves)
    wanted = gradients(expected, unit, leaves)
    single = {name: leaf.detach().float().requires_grad_() for name, leaf in leaves.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        actual = run_unit(unit.float(), single, with_base=True, dropout=0.0).output
    assert actual.dtype == device_dtype
    tolerance = 0.03 if autocast else 1e-5
    assert (actual - expected).norm() < tolerance * expected.norm()
    for name, gradient in gradients(actual, unit, single).items():
        assert gradient.dtype == torch.float32, name
        assert (gradient - wanted[name]).norm() < tolerance * wanted[name].norm(), name


def test_little_is_kept_for_the_backward_pass() -> None:
    n, d_in, d_out, bottleneck, rank = 512, 96, 64, 16, 4
    unit, leaves = random_case((n,), (d_in, d_out), (rank, rank), bottleneck=bottleneck, key_dim=8)
    y = base_output(leaves)
    halves = [Half(leaves[f"A {side}"], leaves[f"B {side}"], s) for side, s in SCALES.items()]
    forward = partial(unit, leaves["x"], y, *halves, base=Base(leaves["W0"], leaves["b"]))
    weights, small = [*unit.parameters(), *leaves.values()], 8 * 6 * (d_in + d_out) * 40  # the step's matrices
    assert 0 < saved_activations(forward, weights) - 8 * n * (bottleneck + 4 * rank + 1) < small
    dropped = saved_activations(partial(forward, dropout=0.1), weights)
    assert 0 < dropped - 8 * n * (bottleneck + 4 * rank + 1) - n * d_in < small


CHANGES = {
    "in place": lambda weight: weight.add_(0.1),
    "assigned": lambda weight: setattr(weight, "data", weight.data + 0.1),
    "an optimizer": lambda weight: step(weight, torch.optim.AdamW([weight], lr=0.1)),
    "an optimizer, foreach": lambda weight: step(weight, torch.optim.AdamW([weight], lr=0.1, foreach=True)),
    "an optimizer, fused": lambda weight: step(weight, torch.optim.AdamW([weight], lr=0.1, fused=True)),
    "SGD, fused": lambda weight: step(weight, torch.optim.SGD([weight], lr=0.1, fused=True)),
}


def step(weight: Tensor, optimizer: torch.optim.Optimizer) -> None:
    weight.grad = torch.ones_like(weight)
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_what_is_kept_between_calls_follows_every_weight(context: Any, change: Any) -> None:
    unit, leaves = random_case()
    weights = {**dict(unit.named_parameters()), **{k: v for k, v in leaves.items() if k[0] in "AB"}}
    for name, weight in weights.items():
        with context():
            before = run_unit(unit, leaves).output
            kept = unit._cached
            assert kept is not None
            assert torch.equal(run_unit(unit, leaves).output, before)
            assert unit._cached is kept
        with torch.no_grad():
            change(weight)
        with context():
            after = run_unit(unit, leaves).output
        assert not torch.equal(after, before), name
        paper.assert_exact(after, run_paper(unit, leaves).detach(), name)
        weight.grad = None
        with context():
            assert torch.equal(run_unit(unit, leaves).output, after), name


def test_nothing_is_kept_where_weights_may_change_unseen() -> None:
    unit, leaves = random_case()
    with torch.no_grad():
        run_unit(unit, leaves)
        half = run_unit(unit.float(), {k: v.float() for k, v in leaves.items()}).output
        assert half.dtype == torch.float32
        unit.double()
        run_unit(unit, leaves)
    run_unit(unit, leaves)
    assert unit._cached is None, "a step with gradients"
    with torch.no_grad():
        run_unit(unit, leaves)
    assert unit.train()._cached is None
    with torch.inference_mode():
        made_here, leaves_here = random_case()
        first = run_unit(made_here, leaves_here).output
        made_here.up.weight.mul_(2)
        assert not torch.equal(run_unit(made_here, leaves_here).output, first)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"delta": True, "attention": False}])
def test_unit_compiles_to_one_graph(options: dict[str, Any]) -> None:
    unit, leaves = random_case(**options)
    compiled = cast(nn.Module, torch.compile(unit, fullgraph=True))
    expected, actual = run_unit(unit, leaves, with_base=True), run_unit(compiled, leaves, with_base=True)
    paper.assert_exact(actual.output, expected.output)
    paper.assert_exact(gradients(actual.output, unit, leaves), gradients(expected.output, unit, leaves))
    with torch.no_grad():
        paper.assert_exact(run_unit(compiled, leaves).output, expected.output)

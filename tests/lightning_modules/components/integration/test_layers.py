from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE, UnitSettings, build_nat, load_nat
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.integration.unit import IntegrationUnit, IntegrationVariant
from tests.lightning_modules import paper


@pytest.fixture
def nat(new_stack: Callable[..., AdapterStack], nat_directory: Path) -> tuple[AdapterStack, nn.ModuleDict]:
    """A trained-looking NAT in float64: positive rank 3, negative rank 4, GQA's v_proj half as wide as q_proj."""
    stack = new_stack("float64")
    return stack, load_nat(stack, nat_directory, trainable=True).double()


@pytest.mark.parametrize("delta", [False, True])
def test_layers_of_a_model_equal_the_paper(
    nat: tuple[AdapterStack, nn.ModuleDict], make_batch: Callable[..., dict[str, Any]], delta: bool
) -> None:
    stack, units = nat
    stack.eval()
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    layers = stack.lora_layers(POSITIVE)
    for path, layer in layers.items():
        cast(nn.Module, layer).register_forward_hook(
            lambda m, args, out, path=path: seen.update({path: (args[0], out)})
        )
        cast(IntegrationUnit, units[path.replace(".", "/")]).delta = delta
    batch = make_batch()
    stack(batch["input_ids"], batch["attention_mask"])
    assert len(seen) == 4
    for path, (x, out) in seen.items():
        layer, unit = layers[path], cast(IntegrationUnit, units[path.replace(".", "/")])
        y: Tensor = layer.get_base_layer()(x)
        assert y.shape[-1] == (32 if "q_proj" in path else 16)
        paper.assert_exact(out, paper.integration(unit, x, y, branches_of(layer, x)))
        assert (out - y).abs().max() > 1e-2


def branches_of(layer: LoraLayer, x: Tensor) -> list[tuple[Tensor, Tensor, float]]:
    scales = {POSITIVE: 9 / 3, NEGATIVE: 8 / 4}  # lora_alpha / r of the fixtures
    return [(linear_a(layer, name)(x), linear_b(layer, name).weight, scale) for name, scale in scales.items()]


def first_layer(stack: AdapterStack) -> tuple[str, Any]:
    return next(iter(stack.lora_layers(POSITIVE).items()))


def linear_a(layer: LoraLayer, adapter: str) -> nn.Linear:
    return cast(nn.Linear, layer.lora_A[adapter])


def linear_b(layer: LoraLayer, adapter: str) -> nn.Linear:
    return cast(nn.Linear, layer.lora_B[adapter])


def test_dropout_acts_on_the_positive_branch_only(nat: tuple[AdapterStack, nn.ModuleDict]) -> None:
    stack, units = nat
    stack.train()
    path, layer = first_layer(stack)
    x = torch.randn(1, 5, 32, dtype=torch.float64)
    torch.manual_seed(2)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(2)
    dropped, _ = torch.native_dropout(x, 0.3, True)
    assert 0 < (dropped == 0).double().mean() < 0.6
    branches = [branches_of(layer, dropped)[0], branches_of(layer, x)[1]]
    y = layer.get_base_layer()(x)
    paper.assert_exact(first, paper.integration(cast(IntegrationUnit, units[path.replace(".", "/")]), x, y, branches))
    stack.eval()
    assert torch.equal(layer(x), layer(x))


def test_gradients_of_every_layer_equal_the_paper(nat: tuple[AdapterStack, nn.ModuleDict]) -> None:
    stack, units = nat
    stack.eval()
    for path, layer in stack.lora_layers(POSITIVE).items():
        unit = cast(IntegrationUnit, units[path.replace(".", "/")])
        x = torch.randn(2, 5, 32, dtype=torch.float64, requires_grad=True)
        inputs = [x, linear_a(layer, POSITIVE).weight, linear_b(layer, POSITIVE).weight, *unit.parameters()]
        expected = paper.integration(unit, x, layer.get_base_layer()(x), branches_of(layer, x))
        wanted, got = (torch.autograd.grad(out.square().sum(), inputs) for out in (expected, cast(nn.Module, layer)(x)))
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_negative_half_stays_as_it_was_and_passes_gradients(
    nat: tuple[AdapterStack, nn.ModuleDict], make_batch: Callable[..., dict[str, Any]]
) -> None:
    stack, units = nat
    everything = nn.ModuleList([stack, units])
    before = copy.deepcopy(everything.state_dict())
    trained = {n for n, p in everything.named_parameters() if p.requires_grad}
    assert trained == {n for n in before if f".{POSITIVE}." in n or n.startswith("1.")}
    optimizer = torch.optim.AdamW([p for p in everything.parameters() if p.requires_grad], lr=1e-2)
    batch = make_batch()
    for _ in range(3):
        optimizer.zero_grad()
        stack(batch["input_ids"], batch["attention_mask"]).square().mean().backward()
        assert all(p.grad is None for n, p in everything.named_parameters() if n not in trained)
        optimizer.step()
    for name, value in everything.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in trained), name


def test_gradient_reaches_the_input_through_the_negative_half(nat: tuple[AdapterStack, nn.ModuleDict]) -> None:
    stack, units = nat
    path, layer = first_layer(stack.eval())
    with torch.no_grad():
        linear_b(layer, POSITIVE).weight.zero_()
        layer.get_base_layer().weight.zero_()
    x = torch.randn(1, 3, 32, dtype=torch.float64, requires_grad=True)
    expected = paper.integration(
        cast(IntegrationUnit, units[path.replace(".", "/")]), x, layer.get_base_layer()(x), branches_of(layer, x)
    )
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (layer(x), expected)]
    assert gradients[0].abs().max() > 1e-3
    paper.assert_exact(gradients[0], gradients[1])


def test_autocast_is_close(nat_directory: Path, new_stack: Callable[..., AdapterStack], make_batch: Any) -> None:
    stack, batch = new_stack(), make_batch()
    load_nat(stack, nat_directory)
    stack.eval()
    expected = stack(batch["input_ids"], batch["attention_mask"])
    with torch.autocast("cpu", torch.bfloat16):
        actual = stack(batch["input_ids"], batch["attention_mask"])
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected).norm() < 0.05 * expected.norm()


def test_bfloat16_base_keeps_adapters_and_units_in_float32(
    nat_directory: Path, new_stack: Callable[..., AdapterStack], make_batch: Any
) -> None:
    full, half, batch = new_stack(), new_stack("bfloat16"), make_batch()
    logits = []
    for stack in (full, half):
        units = load_nat(stack, nat_directory, trainable=True)
        assert {p.dtype for m in (stack, units) for p in m.parameters() if p.requires_grad} == {torch.float32}
        logits.append(stack.eval()(batch["input_ids"], batch["attention_mask"]).float())
    assert (logits[0] - logits[1]).norm() < 0.05 * logits[0].norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_decoder_changes_nothing(nat_directory: Path, new_stack: Any, make_batch: Any) -> None:
    batch, gradients = make_batch(), []
    for compiled in (False, True):
        stack = new_stack("float64")
        units = load_nat(stack, nat_directory, trainable=True).double()
        stack.eval()  # dropout draws other numbers when compiled
        if compiled:
            stack.base.get_decoder().compile(fullgraph=True)
        hidden = stack.hidden(batch["input_ids"], batch["attention_mask"])
        hidden.backward(torch.linspace(-1, 2, hidden.numel(), dtype=torch.float64).view_as(hidden))
        gradients.append([p.grad for m in (stack, units) for p in m.parameters() if p.requires_grad])
    for plain, fused in zip(*gradients, strict=True):
        assert (fused - plain).norm() < 1e-5 * plain.norm()  # LLaMA's RMSNorm is float32 whatever the model is


def test_merging_is_refused_with_the_reason(nat: tuple[AdapterStack, nn.ModuleDict]) -> None:
    model: Any = nat[0].model
    before = copy.deepcopy(nat[0].state_dict())
    for merge in (model.merge_adapter, lambda: model.merge_adapter(safe_merge=True), model.merge_and_unload):
        with pytest.raises(ValueError, match=r"gate depends on the token.*NCE"):
            merge()
    assert all(torch.equal(value, before[name]) for name, value in nat[0].state_dict().items())


def test_decoding_with_a_cache_equals_the_full_forward(nat: tuple[AdapterStack, nn.ModuleDict]) -> None:
    model: Any = nat[0].eval().model
    prompt = torch.arange(5, 11)[None]
    output = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=-1,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
        use_cache=True,
    )
    full = nat[0](output.sequences, torch.ones_like(output.sequences))
    torch.testing.assert_close(torch.stack(output.logits, 1).double(), full[:, 5:-1], rtol=1e-5, atol=1e-5)


def test_the_variant_sits_on_every_layer_of_the_positive_adapter_alone(
    new_stack: Callable[..., AdapterStack],
    negative_directory: Path,
    unit_settings: UnitSettings,
    randomise: Any,
    logits_of: Any,
    make_batch: Any,
) -> None:
    stack, batch = new_stack(), make_batch()
    stack.load(NEGATIVE, negative_directory)
    before = logits_of(stack.eval(), batch)
    other = new_stack()
    units = build_nat(other, negative_directory, LoraSettings(), unit_settings)
    randomise(units.parameters())
    layers = other.lora_layers(POSITIVE)
    assert {path.replace(".", "/") for path in layers} == set(units)
    assert len(units) == 4
    assert all(isinstance(layer.lora_variant[POSITIVE], IntegrationVariant) for layer in layers.values())
    with other.using(NEGATIVE):
        assert torch.equal(logits_of(other, batch), before)

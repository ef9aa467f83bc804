import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE, UnitSettings, build_nat, load_nat
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from tests.lightning_modules import paper


@pytest.fixture
def nat(new_stack: Callable[..., AdapterStack], nat_directory: Path) -> tuple[AdapterStack, nn.ModuleDict]:
    """A trained-looking NAT in float64: positive rank 3, negative rank 4, GQA's v_proj half as wide as q_proj."""
    stack = new_stack("float64")
    return stack, load_nat(stack, nat_directory, trainable=True).double()


def branches_of(layer: Any, x: Tensor) -> list[tuple[Tensor, Tensor, float]]:
    scales = {POSITIVE: 9 / 3, NEGATIVE: 8 / 4}  # lora_alpha / r of the fixtures
    return [(layer.lora_A[name](x), layer.lora_B[name].weight, scale) for name, scale in scales.items()]


class Quantised(nn.Linear):
    """A layer whose weights the unit must not read: those of bitsandbytes are subclasses, too."""


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("delta", [False, True])
def test_layers_of_a_model_and_their_gradients_equal_the_paper(
    nat: tuple[AdapterStack, nn.ModuleDict], delta: bool, quantised: bool
) -> None:
    stack, units = nat
    layers: dict[str, Any] = {**stack.eval().lora_layers(POSITIVE)}
    assert {path.replace(".", "/") for path in layers} == set(units)
    assert len(layers) == 4
    for path, layer in layers.items():
        if quantised:
            layer.get_base_layer().__class__ = Quantised
        unit: Any = units[path.replace(".", "/")]
        unit.delta = delta
        seen: list[dict[str, Any]] = []
        unit.register_forward_pre_hook(lambda module, args, kwargs, seen=seen: seen.append(kwargs), with_kwargs=True)
        x = torch.randn(2, 5, 32, dtype=torch.float64, requires_grad=True)
        y, out = layer.get_base_layer()(x), layer(x)
        assert (seen[0]["base"] is None) is quantised
        assert y.shape[-1] == (32 if "q_proj" in path else 16)
        assert (out - y).abs().max() > 1e-2
        expected = paper.integration(unit, x, y, branches_of(layer, x))
        paper.assert_exact(out, expected)
        inputs = [x, layer.lora_A[POSITIVE].weight, layer.lora_B[POSITIVE].weight, *unit.parameters()]
        got, wanted = (
            torch.autograd.grad(value.square().sum(), inputs, retain_graph=True) for value in (out, expected)
        )
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_dropout_acts_on_the_positive_branch_only(nat: tuple[AdapterStack, nn.ModuleDict]) -> None:
    path, found = next(iter(nat[0].train().lora_layers(POSITIVE).items()))
    layer: Any = found
    x = torch.randn(1, 5, 32, dtype=torch.float64)
    torch.manual_seed(2)
    actual = layer(x)
    torch.manual_seed(2)
    dropped, _ = torch.native_dropout(x, 0.3, True)
    branches = [branches_of(layer, dropped)[0], branches_of(layer, x)[1]]
    unit: Any = nat[1][path.replace(".", "/")]
    paper.assert_exact(actual, paper.integration(unit, x, layer.get_base_layer()(x), branches))


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_is_close_and_keeps_what_trains_in_float32(
    nat_directory: Path, new_stack: Callable[..., AdapterStack], make_batch: Any, autocast: bool
) -> None:
    """As autocast's dtype, or as the base's."""
    batch, logits = make_batch(), []
    for half in (False, True):
        stack = new_stack("bfloat16" if half and not autocast else "float32")
        units = load_nat(stack, nat_directory, trainable=True)
        assert {p.dtype for m in (stack, units) for p in m.parameters() if p.requires_grad} == {torch.float32}
        with torch.autocast("cpu", torch.bfloat16, enabled=half and autocast):
            logits.append(stack.eval()(batch["input_ids"], batch["attention_mask"]))
    assert [each.dtype for each in logits] == [torch.float32, torch.bfloat16]
    assert (logits[1].float() - logits[0]).norm() < 0.05 * logits[0].norm()


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
    length = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0, "use_cache": True}
    result = {"output_logits": True, "return_dict_in_generate": True}
    output = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **length, **result)
    full = nat[0](output.sequences, torch.ones_like(output.sequences))
    torch.testing.assert_close(torch.stack(output.logits, 1).double(), full[:, 5:-1], rtol=1e-5, atol=1e-5)


def test_the_negative_adapter_stays_a_plain_lora(
    new_stack: Callable[..., AdapterStack], negative_directory: Path, randomise: Any, logits_of: Any, make_batch: Any
) -> None:
    stack, other, batch = new_stack(), new_stack(), make_batch()
    stack.load(NEGATIVE, negative_directory)
    randomise(build_nat(other, negative_directory, LoraSettings(), UnitSettings(4, 5)).parameters())
    with other.using(NEGATIVE):
        assert torch.equal(logits_of(other, batch), logits_of(stack.eval(), batch))

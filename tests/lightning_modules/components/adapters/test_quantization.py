"""A base in 8 or 4 bits: adapters train on it in float32, sample from it, and go on on the original weights.

bitsandbytes is not among what `make install` installs: `pip install -e '.[quantization]'` brings it, and with it the
tests that need it. The others say what happens without.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from dust2gold.core.errors import InputError
from lightning_modules.base import StudentModule
from lightning_modules.components.adapters.base_identity import BaseIdentity
from lightning_modules.components.adapters.manifest import ADAPTER_MANIFEST, read_manifest
from lightning_modules.components.adapters.nat import UnitSettings
from lightning_modules.components.adapters.quantization import quantization_config, quantization_of
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base
from lightning_modules.fully_sharded import shard_layers
from lightning_modules.nat import NATModel
from lightning_modules.nce import NCEModel
from lightning_modules.negative import NegativeModel
from tests.lightning_modules.steps import held_out_parts, train
from tests.students import write_tiny_student

LORA = LoraSettings(r=4, alpha=16, dropout=0.2)
UNITS = UnitSettings(6, 10)
BITS: list[Literal["8bit", "4bit"]] = ["8bit", "4bit"]
pytestmark = pytest.mark.filterwarnings("ignore")
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="no bitsandbytes: pip install -e '.[quantization]'"
)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Wide enough for one block of a 4-bit layer, 64 weights."""
    directory = tmp_path_factory.mktemp("student")
    write_tiny_student(directory, width=64)
    return str(directory)


def test_without_bitsandbytes_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.components.adapters.quantization.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"bitsandbytes is not installed\n.*dust2gold\[quantization\]"):
        quantization_config("4bit", torch.bfloat16)
    assert quantization_config("none", torch.bfloat16) is None


def test_unknown_quantization_is_named() -> None:
    with pytest.raises(InputError, match="unknown quantization '3bit'"):
        quantization_config("3bit", torch.bfloat16)  # type: ignore[arg-type]


def quantized(identity: BaseIdentity, student: str) -> BaseIdentity:
    """What a 4-bit load of the student is known by, without bitsandbytes."""
    base = load_base(student)
    linear = {f"{name}.weight" for name, module in base.get_decoder().named_modules() if isinstance(module, nn.Linear)}
    values = identity.values.clone()
    values[[name.removeprefix("model.") in linear for name, _ in base.named_parameters()]] = torch.nan
    return replace(identity, values=values, quantization="4bit")


def test_what_was_trained_on_4_bits_goes_on_the_original_weights_with_a_word(
    student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = AdapterStack(load_base(student), student)
    stack.add("student", LORA)
    stack.save("student", tmp_path)
    manifest = read_manifest(tmp_path)
    manifest["base"] = quantized(BaseIdentity.from_json(manifest["base"]), student).to_json()
    (tmp_path / ADAPTER_MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    again = AdapterStack(load_base(student), student)
    again.load("student", tmp_path)
    assert "trained with quantization 4bit, the base is loaded with none: " in capsys.readouterr().err
    merged = again.model.merge_and_unload()  # type: ignore[operator]  # as `export --merge` does
    assert quantization_of(merged) == "none"


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_linear_layers_are_quantised_and_nothing_else(student: str, bits: Literal["8bit", "4bit"]) -> None:
    bitsandbytes: Any = import_module("bitsandbytes")

    kind = {"8bit": bitsandbytes.nn.Linear8bitLt, "4bit": bitsandbytes.nn.Linear4bit}[bits]
    original, base = load_base(student), load_base(student, quantization=bits)
    assert quantization_of(base) == quantization_of(base.get_decoder()) == bits
    head = base.get_output_embeddings()
    linear = [m for m in base.modules() if isinstance(m, nn.Linear) and m is not head]
    assert len(linear) == 14
    assert {type(module) for module in linear} == {kind}
    assert type(head) is nn.Linear
    ids = torch.arange(3, 40).view(1, -1)
    with torch.no_grad():
        expected, found = original(ids).logits, base(ids).logits
    assert 1e-5 < (found - expected).abs().max() < 0.2 * expected.abs().max()
    few_bits, whole = BaseIdentity.of(base), BaseIdentity.of(original)
    assert few_bits.values.isnan().sum() == 14 * 4
    assert few_bits.is_same(whole)
    assert whole.is_same(few_bits)


@pytest.fixture
def make_stage(student: str, tmp_path: Path, randomise: Callable[..., None]) -> Callable[..., StudentModule]:
    """Builds a stage on adapters that were trained on the original weights."""
    negative, nat = tmp_path / "negative", tmp_path / "nat"
    for directory, module in (
        (negative, NegativeModel(student, lora=LORA)),
        (nat, NATModel(str(negative), UNITS, student=student, lora=LORA)),
    ):
        module.configure_model()
        randomise(p for p in module.parameters() if p.requires_grad)
        directory.mkdir()
        module.write_adapter(directory)
    stages: dict[str, tuple[type[StudentModule], dict[str, Any]]] = {
        "negative": (NegativeModel, {}),
        "nat": (NATModel, {"negative": str(negative), "units": UNITS}),
        "nce": (NCEModel, {"nat": str(nat)}),
    }

    def make(name: str, **more: Any) -> StudentModule:
        kind, own = stages[name]
        module = kind(student=student, lora=LORA, **own, **more)
        module.configure_model()
        return module

    return make


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["negative", "nat", "nce"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_stage_trains_on_it(
    make_stage: Callable[..., StudentModule], make_batch: Any, name: str, bits: str, checkpointing: bool
) -> None:
    torch.manual_seed(0)
    module = make_stage(name, quantization=bits, gradient_checkpointing=checkpointing)
    batch, trained = make_batch(), [p for p in module.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    frozen = {n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad}
    first = held_out_parts(module, batch)
    train(module, batch, 15)
    assert held_out_parts(module, batch)["loss"] < first["loss"] - 0.03
    assert all(torch.equal(p, frozen[n]) for n, p in module.named_parameters() if n in frozen)


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_nat_on_it_is_its_reference(
    make_stage: Callable[..., StudentModule], make_batch: Any, randomise: Callable[..., None], bits: str
) -> None:
    """The unit does not read quantised weights: with y as the layer gives it, its gradients are those of autograd."""
    module, batch = make_stage("nat", quantization=bits), make_batch()
    randomise(p for p in module.parameters() if p.requires_grad)
    module.eval()
    found = {}
    for name in ("exact", "plain"):
        module.zero_grad()
        if name == "plain":
            for unit in module.units.values():  # type: ignore[operator]
                unit.register_forward_hook(by_the_book, with_kwargs=True)
        module.training_step(batch, 0).backward()
        found[name] = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    assert len(found["exact"]) == len(found["plain"]) >= 16
    for name, gradient in found["exact"].items():
        torch.testing.assert_close(found["plain"][name], gradient, rtol=1e-4, atol=1e-6)


def by_the_book(unit: Any, args: Any, kwargs: Any, mixed: Any) -> Any:
    """The paper's unit by plain autograd, in the place of what the unit returned."""
    x, y, positive, negative = args
    assert kwargs["base"] is None
    branches = [y + half.scale * (x @ half.a.mT @ half.b.mT) for half in (positive, negative)]
    scores = torch.stack([(unit.gate.query(x) * unit.gate.key(h)).sum(-1) for h in branches], -1)
    alpha = scores.softmax(-1) + torch.tensor([0.5, -0.5])
    values = [unit.up(nn.functional.gelu(unit.down(h))) for h in branches]
    return mixed._replace(output=y + sum(alpha[..., k, None] * value for k, value in enumerate(values)))


@needs_bitsandbytes
def test_adapters_move_between_quantisations_with_a_word(
    student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = AdapterStack(load_base(student, quantization="4bit"), student)
    stack.add("student", LORA)
    stack.save("student", tmp_path)
    assert read_manifest(tmp_path)["base"]["quantization"] == "4bit"
    AdapterStack(load_base(student, quantization="4bit"), student).load("student", tmp_path)
    assert "quantization" not in capsys.readouterr().err
    AdapterStack(load_base(student), student).load("student", tmp_path)
    assert "trained with quantization 4bit, the base is loaded with none: " in capsys.readouterr().err
    with pytest.raises(InputError, match="trained on another base"):
        AdapterStack(load_base("embedded"), "embedded").load("student", tmp_path)


@needs_bitsandbytes
def test_it_is_not_sharded(student: str) -> None:
    base = load_base(student, quantization="8bit")
    with pytest.raises(InputError, match="a quantised base cannot be sharded"):
        shard_layers(base.get_decoder(), None)  # type: ignore[arg-type]

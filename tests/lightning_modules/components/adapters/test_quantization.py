"""A base in 8 or 4 bits: adapters train on it in float32, sample from it, and go on on the original weights."""

from collections.abc import Callable
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
from lightning_modules.components.adapters.manifest import read_manifest
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


def test_what_cannot_be_quantised_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown quantization '3bit'"):
        quantization_config("3bit", torch.bfloat16)  # type: ignore[arg-type]
    monkeypatch.setattr("lightning_modules.components.adapters.quantization.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"bitsandbytes is not installed\n.*dust2gold\[quantization\]"):
        quantization_config("4bit", torch.bfloat16)
    assert quantization_config("none", torch.bfloat16) is None


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
    assert BaseIdentity.of(base).values.isnan().sum() == 14 * 4


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
def test_adapters_move_between_quantisations_with_a_word_and_it_is_not_sharded(
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
    with pytest.raises(InputError, match="a quantised base cannot be sharded"):
        shard_layers(stack.base.get_decoder(), None)  # type: ignore[arg-type]

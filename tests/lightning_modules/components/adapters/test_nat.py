import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.manifest import ADAPTER_MANIFEST, read_manifest
from lightning_modules.components.adapters.nat import (
    NEGATIVE,
    POSITIVE,
    UNITS_FILE,
    UnitSettings,
    build_nat,
    load_nat,
    open_nat,
    save_nat,
)
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.integration.unit import IntegrationUnit
from tests.students import unsign

WEIGHTS = "adapter_model.safetensors"


def stock_logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits


def test_a_fresh_nat_is_the_base(
    new_stack: Any, negative_directory: Path, tiny_student: Path, make_batch: Any, logits_of: Any
) -> None:
    batch, stack = make_batch(), new_stack()
    build_nat(stack, negative_directory, LoraSettings(), UnitSettings())
    expected = stock_logits(AutoModelForCausalLM.from_pretrained(tiny_student).eval(), batch)
    assert torch.equal(logits_of(stack.eval(), batch), expected)
    assert torch.equal(logits_of(stack.train(), batch), expected), "dropout has nothing to act on yet"
    with stack.using(NEGATIVE):
        assert not torch.equal(logits_of(stack, batch), expected)


@pytest.mark.parametrize(
    "settings",
    [
        UnitSettings(4, 5, True),
        UnitSettings(7, 3, False),
        UnitSettings(4, 5, attention=False),
        UnitSettings(4, 5, scale_gate=False),
    ],
)
def test_a_trained_nat_comes_back_bit_for_bit(
    new_stack: Any,
    negative_directory: Path,
    randomise: Any,
    make_batch: Any,
    logits_of: Any,
    tmp_path: Path,
    settings: UnitSettings,
) -> None:
    batch, stack = make_batch(), new_stack()
    units = build_nat(stack, negative_directory, LoraSettings(r=3, alpha=5), settings)
    trained = [p for m in (stack, units) for p in m.parameters() if p.requires_grad]
    randomise(trained)
    stack(batch["input_ids"], batch["attention_mask"]).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained), "DDP refuses one without a gradient"
    expected = logits_of(stack.eval(), batch)
    save_nat(stack, units, tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {POSITIVE, NEGATIVE, UNITS_FILE, ADAPTER_MANIFEST}
    manifest = read_manifest(tmp_path)
    assert (manifest["kind"], UnitSettings(**manifest["units"])) == ("nat", settings)
    opened = open_nat(tmp_path, stack.student)
    assert torch.equal(stock_logits(opened.model, batch), expected)
    assert not any(p.requires_grad for p in opened.parameters())
    (tmp_path / "again").mkdir()
    save_nat(opened, cast(nn.ModuleDict, opened.units), tmp_path / "again")
    assert read_manifest(tmp_path / "again") == manifest
    for file in (UNITS_FILE, f"{POSITIVE}/{WEIGHTS}", f"{NEGATIVE}/{WEIGHTS}"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / file).read_bytes()


def test_a_nat_that_trains_on_trains_its_own_half_and_the_units(new_stack: Any, nat_directory: Path) -> None:
    stack = new_stack()
    units = load_nat(stack, nat_directory, trainable=True)
    with stack.using(NEGATIVE):
        pass
    assert all(p.requires_grad for p in units.parameters())
    assert {n.split(".")[-2] for n, p in stack.named_parameters() if p.requires_grad} == {POSITIVE}


@pytest.mark.parametrize("half", [POSITIVE, NEGATIVE])
def test_both_halves_are_stock_adapters(
    new_stack: Any, nat_directory: Path, negative_directory: Path, make_batch: Any, logits_of: Any, half: str
) -> None:
    batch, stack = make_batch(), new_stack()
    load_nat(stack, nat_directory)
    for layer in stack.lora_layers(POSITIVE).values():
        layer.lora_variant.clear()  # the positive half as plain LoRA
    stack.activate(half, trainable=False)
    base = AutoModelForCausalLM.from_pretrained(stack.student)
    stock = PeftModel.from_pretrained(base, nat_directory / half).eval()
    assert torch.equal(stock_logits(stock, batch), logits_of(stack.eval(), batch))
    if half == NEGATIVE:
        assert (nat_directory / half / WEIGHTS).read_bytes() == (negative_directory / WEIGHTS).read_bytes()


def edit_units(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    units = load_file(directory / UNITS_FILE)
    change(units)
    save_file(units, directory / UNITS_FILE)


def test_an_adapter_that_says_nothing_of_its_gates_scale_has_the_papers(new_stack: Any, nat_directory: Path) -> None:
    manifest = json.loads((nat_directory / ADAPTER_MANIFEST).read_text(encoding="utf-8"))
    assert manifest["units"].pop("scale_gate") is True
    directory = shutil.copytree(nat_directory, nat_directory.parent / "older")
    (directory / ADAPTER_MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    units = load_nat(new_stack(), directory)
    assert {cast(IntegrationUnit, unit).scale_gate for unit in units.values()} == {False}


def edit_manifest(directory: Path, **units: Any) -> None:
    file = directory / ADAPTER_MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), "units": units}))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda d: (d / UNITS_FILE).unlink(), "no NAT here"),
        (lambda d: (d / UNITS_FILE).write_bytes(b"damaged"), "damaged or foreign units"),
        (lambda d: (d / UNITS_FILE).write_bytes((d / UNITS_FILE).read_bytes()[:-8]), "damaged or foreign units"),
        (lambda d: edit_units(d, lambda u: u.pop(sorted(u)[0])), "damaged or foreign units"),
        (lambda d: edit_units(d, lambda u: u.update(extra=torch.zeros(1))), "damaged or foreign units"),
        (lambda d: edit_manifest(d, key_dim=7), "damaged or foreign units"),
        (lambda d: edit_manifest(d, width=7), "damaged or foreign units"),
        (lambda d: edit_manifest(d, key_dim="wide"), "damaged or foreign units"),
        (lambda d: shutil.rmtree(d / NEGATIVE), "no adapter here"),
        (lambda d: (d / POSITIVE / WEIGHTS).write_bytes(b""), "cannot load the adapter"),
    ],
)
def test_damaged_nat_is_refused(
    new_stack: Any, nat_directory: Path, tmp_path: Path, damage: Callable[[Path], None], problem: str
) -> None:
    shutil.copytree(nat_directory, tmp_path / "nat")
    unsign(tmp_path / "nat")
    damage(tmp_path / "nat")
    with pytest.raises(InputError, match=problem) as caught:
        load_nat(new_stack(), tmp_path / "nat")
    assert str(tmp_path / "nat") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("name", [UNITS_FILE, f"{POSITIVE}/{WEIGHTS}"])
def test_a_flipped_bit_is_found(new_stack: Any, nat_directory: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(nat_directory, tmp_path / "nat")
    content = bytearray((tmp_path / "nat" / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / "nat" / name).write_bytes(content)
    with pytest.raises(InputError, match="damaged: its SHA-256") as caught:
        load_nat(new_stack(), tmp_path / "nat")
    assert caught.value.file == str(tmp_path / "nat" / name)


def test_target_modules_are_among_those_of_the_negative_adapter(
    new_stack: Any, negative_directory: Path, tmp_path: Path
) -> None:
    more = LoraSettings(target_modules=["q_proj", "v_proj", "o_proj"])
    with pytest.raises(InputError, match=r"M_neg does not adapt layer .*o_proj"):
        build_nat(new_stack(), negative_directory, more, UnitSettings())
    stack = new_stack()
    units = build_nat(stack, negative_directory, LoraSettings(target_modules=["v_proj"]), UnitSettings(4, 4))
    assert len(units) == 2
    save_nat(stack, units, tmp_path)
    assert load_nat(new_stack(), tmp_path).keys() == units.keys()

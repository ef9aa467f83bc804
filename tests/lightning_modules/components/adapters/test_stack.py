import copy
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from dust2gold.core.errors import InputError
from dust2gold.core.files import sha256_of
from lightning_modules.components.adapters.base_identity import BaseIdentity
from lightning_modules.components.adapters.manifest import ADAPTER_MANIFEST, read_manifest
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base
from tests.students import unsign

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def stack(new_stack: Callable[..., AdapterStack], randomise: Callable[..., None]) -> AdapterStack:
    """Two adapters of other shapes, "one" and "two", with random weights; "two" is active and trainable."""
    made = new_stack()
    for seed, (name, rank) in enumerate([("one", 2), ("two", 3)]):
        made.add(name, LoraSettings(r=rank, alpha=2 * rank, dropout=0.2))
        randomise((p for p in made.parameters() if p.requires_grad), seed=seed)
    return made


@pytest.fixture
def copied(negative_directory: Path, tmp_path: Path) -> Path:
    """M_neg, to be damaged."""
    return Path(shutil.copytree(negative_directory, tmp_path / "adapter"))


def state_of(stack: AdapterStack) -> tuple[Any, ...]:
    gradients = {n: p.requires_grad for n, p in stack.named_parameters()}
    return stack.model.active_adapter, gradients, {n: m.training for n, m in stack.named_modules()}


def test_one_base_serves_all_adapters(tiny_student: Path) -> None:
    base = load_base(str(tiny_student))
    expected = {p.data_ptr() for p in base.parameters()}
    stack = AdapterStack(base, "tiny")
    for name, rank in (("one", 2), ("two", 3), ("three", 8)):
        stack.add(name, LoraSettings(r=rank))
    with stack.using("one"):
        assert {p.data_ptr() for n, p in stack.named_parameters() if "lora_" not in n} == expected
    adapters = sum(p.numel() for n, p in stack.named_parameters() if "lora_" in n)
    assert adapters == (2 + 3 + 8) * 2 * ((32 + 32) + (32 + 16))  # rank × layers × (q_proj + v_proj)
    assert stack.identity.key == BaseIdentity.of(load_base(str(tiny_student))).key


def test_only_the_active_adapter_trains(stack: AdapterStack) -> None:
    def trained() -> set[str]:
        return {n.split(".")[-2] for n, p in stack.named_parameters() if p.requires_grad}

    assert trained() == {"two"}
    stack.activate("one", trainable=True)
    assert trained() == {"one"}
    stack.activate("two", trainable=False)
    assert trained() == set()


@pytest.mark.parametrize("trainable", [True, False])
def test_using_restores_everything(stack: AdapterStack, trainable: bool) -> None:
    stack.activate("two", trainable)
    stack.train()
    next(iter(stack.lora_layers("one").values())).lora_dropout.eval()  # a mode of its own, not just the root's
    before = state_of(stack)
    with stack.using("one"):
        assert stack.model.active_adapter == "one"
        assert not any(p.requires_grad for p in stack.parameters())
        assert not any(m.training for m in stack.modules())
    assert state_of(stack) == before
    with pytest.raises(KeyError, match="inside"), stack.using("one"):
        raise KeyError("inside")
    assert state_of(stack) == before
    with pytest.raises(ValueError, match="nowhere"), stack.using("nowhere"):
        pass
    assert state_of(stack) == before


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_saved_adapter_is_a_stock_one(
    stack: AdapterStack, new_stack: Any, tiny_student: Path, make_batch: Any, logits_of: Any, tmp_path: Path, name: str
) -> None:
    batch = make_batch()
    stack.save(name, tmp_path, {"stage": "test"})
    assert {f.name for f in tmp_path.iterdir()} - {"README.md"} == {"adapter_config.json", WEIGHTS, ADAPTER_MANIFEST}
    stack.eval()
    with stack.using(name):
        expected = logits_of(stack, batch)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", UserWarning)  # PEFT only warns of missing weights
        stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_student), tmp_path).eval()
        assert torch.equal(stock(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits, expected)
    first, second = new_stack(), new_stack()
    first.load("any", tmp_path)
    second.add("other", LoraSettings())
    second.load("any", tmp_path, trainable=True)
    assert torch.equal(logits_of(first.eval(), batch), expected)
    assert torch.equal(logits_of(second.eval(), batch), expected)
    assert {n.split(".")[-2] for n, p in second.named_parameters() if p.requires_grad} == {"any"}
    assert read_manifest(tmp_path) == {
        "student": tiny_student.name,
        "base": stack.identity.to_json(),
        "kind": "lora",
        "sha256": {name: sha256_of(tmp_path / name) for name in (WEIGHTS, "adapter_config.json")},
        "stage": "test",
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["target_modules"]) == (tiny_student.name, ["q_proj", "v_proj"])


def test_a_foreign_base_is_refused(tiny_student: Path, copied: Path) -> None:
    base = load_base(str(tiny_student))
    base.model.layers[1].self_attn.q_proj.weight.mul_(1.01)
    other = AdapterStack(base, "foreign")
    with pytest.raises(InputError, match=r"another base.*foreign"):
        other.load("one", copied)
    (copied / ADAPTER_MANIFEST).unlink()
    other.load("one", copied)  # a stock adapter says nothing of its base: taken at the user's word


def edit(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def flip(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (CONFIG, lambda file: edit(file, lora_alpha=17)),
        (CONFIG, lambda file: edit(file, use_rslora=True)),
        (CONFIG, lambda file: edit(file, fan_in_fan_out=True)),
        *((WEIGHTS, lambda file, place=place: flip(file, place)) for place in (0, 0.5, 1)),
    ],
)
def test_what_is_not_as_it_was_written_is_refused(
    new_stack: Any, copied: Path, name: str, change: Callable[[Path], None]
) -> None:
    change(copied / name)
    with pytest.raises(InputError, match="damaged: its SHA-256") as caught:
        new_stack().load("one", copied)
    assert caught.value.file == str(copied / name)


def edit_weights(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(directory / WEIGHTS)
    change(weights)
    save_file(weights, directory / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda d: shutil.rmtree(d), "no adapter here"),
        (lambda d: (d / CONFIG).unlink(), "adapter_config.json is missing"),
        (lambda d: (d / CONFIG).write_text("{"), "cannot load the adapter"),
        (lambda d: (d / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
        (lambda d: (d / WEIGHTS).rename(d / "adapter_model.bin"), "adapter_model.bin: a pickle"),
        (lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-10]), "cannot load the adapter"),
        (lambda d: (d / WEIGHTS).write_bytes(b""), "cannot load the adapter"),
        (lambda d: (d / ADAPTER_MANIFEST).write_text("[]"), "damaged manifest"),
        (lambda d: (d / ADAPTER_MANIFEST).write_text("{"), "damaged manifest"),
        (lambda d: (d / ADAPTER_MANIFEST).write_text('{"base": {"values": "AAAA"}}'), "damaged manifest"),
        (lambda d: edit_weights(d, lambda w: w.pop(min(w))), "1 weights are missing, 0 foreign"),
        (lambda d: edit_weights(d, lambda w: w.update(foreign=torch.zeros(1))), "0 weights are missing, 1 foreign"),
        (
            lambda d: edit_weights(d, lambda w: w.update({k: torch.cat([v, v]) for k, v in w.items()})),
            "cannot load the adapter",
        ),
    ],
)
def test_damaged_adapters_are_refused(
    new_stack: Any, copied: Path, damage: Callable[[Path], None], problem: str
) -> None:
    unsign(copied)
    damage(copied)
    with pytest.raises(InputError, match=problem) as caught:
        new_stack().load("one", copied)
    assert str(copied) in str(caught.value)
    assert caught.value.remedy
    assert len(str(caught.value).splitlines()) == 2


def test_an_adapter_that_is_no_lora_is_refused(new_stack: Any, tiny_student: Path, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    get_peft_model(LlamaForCausalLM.from_pretrained(tiny_student), config).save_pretrained(str(tmp_path))
    with pytest.raises(InputError, match="LoRA"):
        new_stack().load("one", tmp_path)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target_modules": ["c_attn", "v_proj"]}, "lora.target_modules"),
        ({"target_modules": ["q_proj", "c_attn"]}, "lora.target_modules"),
        ({"target_modules": ["input_layernorm"]}, "lora.target_modules"),
        ({"r": 0}, "lora"),
    ],
)
def test_settings_that_do_not_fit_the_student_are_refused(new_stack: Any, changes: dict[str, Any], field: str) -> None:
    linear = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    missing = f"no layer '(c_attn|input_layernorm)' that LoRA could adapt\n  its linear layers are {linear}"
    problem = {"lora.target_modules": missing, "lora": "cannot put a LoRA on the student"}[field]
    with pytest.raises(InputError, match=problem) as caught:
        new_stack().add("one", LoraSettings(**changes))
    assert caught.value.field == field
    assert len(str(caught.value).splitlines()) == 2


def test_no_adapter_yet(new_stack: Any) -> None:
    with pytest.raises(RuntimeError, match="no adapter yet"):
        new_stack().activate("one", trainable=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "config.json").write_text("{"),
        lambda d: (d / "config.json").write_text('{"model_type": "none-such"}'),
        lambda d: (d / "model.safetensors").unlink(),
        lambda d: (d / "model.safetensors").write_bytes(b"damaged"),
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-100]),
    ],
)
def test_a_damaged_student_is_refused(tiny_student: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    shutil.copytree(tiny_student, tmp_path / "student")
    damage(tmp_path / "student")
    with pytest.raises(InputError, match="cannot load the student") as caught:
        load_base(str(tmp_path / "student"))
    assert len(str(caught.value).splitlines()) == 2


def test_unknown_dtype_and_unreachable_hub(tiny_student: Path) -> None:
    for dtype in ("bf16", "Tensor"):
        with pytest.raises(InputError, match="unknown dtype"):
            load_base(str(tiny_student), dtype)
    with pytest.raises(InputError, match="cannot load the student"):
        load_base("nobody/nothing")


def test_a_base_that_is_a_pickle_is_refused(tiny_student: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_student, tmp_path / "base")
    (tmp_path / "base/model.safetensors").unlink()
    toucher = type("Toucher", (), {"__reduce__": lambda self: (Path.touch, (tmp_path / "touched",))})()
    torch.save({"model.norm.weight": toucher}, tmp_path / "base/pytorch_model.bin")
    with pytest.raises(InputError, match="more than tensors"):
        load_base(str(tmp_path / "base"))
    assert not (tmp_path / "touched").exists()


def test_attention_stays_off_cudnn(new_stack: Any) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    new_stack()
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("name", ["negative", "nat"])
def test_peft_casts_no_input_under_autocast(make_stage: Any, make_batch: Any, randomise: Any, name: str) -> None:
    """Which changes nothing of a bfloat16 base's output and gradients; without autocast the cast is needed."""
    module, batch = make_stage(name, dtype="bfloat16", lora=LoraSettings(r=4, dropout=0.0)), make_batch()
    randomise((p for p in module.parameters() if p.requires_grad), scale=0.1)
    exact, stack, outer = copy.deepcopy(module).double(), module.adapters, torch.randn(4, 12, 32)
    layers = list(stack.lora_layers("positive" if name == "nat" else "student").values())

    def results(stage: Any, mixed: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            hidden = stage.hidden(batch)
        real = batch["attention_mask"].bool()
        (hidden * outer)[real].sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in stage.parameters() if p.requires_grad])
        stage.zero_grad()
        return [hidden[real].detach(), gradient]

    found = results(module, mixed=True)
    assert not any(layer.cast_input_dtype_enabled for layer in layers)
    plain = results(module, mixed=False)
    assert all(layer.cast_input_dtype_enabled for layer in layers)
    stack._casts = False  # so that they are left as they are
    cast = results(module, mixed=True)
    assert all(layer.cast_input_dtype_enabled for layer in layers)
    for one, other, own, reference in zip(found, cast, plain, results(exact, mixed=False), strict=True):
        assert torch.equal(one, other)
        for each in (one, own):
            assert (each.double() - reference).norm() <= 5e-2 * reference.norm()

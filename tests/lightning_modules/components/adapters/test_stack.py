from __future__ import annotations

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
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from dust2gold.core.errors import InputError
from dust2gold.core.files import sha256_of
from lightning_modules.components.adapters.base_identity import BaseIdentity
from lightning_modules.components.adapters.manifest import ADAPTER_MANIFEST, read_manifest
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base
from tests.students import unsign

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def stack(new_stack: Callable[..., AdapterStack], randomise: Callable[..., None]) -> AdapterStack:
    """Two adapters of other shapes, "one" and "two", with random weights; "two" is active and trainable."""
    made = new_stack()
    for seed, (name, rank) in enumerate([("one", 2), ("two", 3)]):
        made.add(name, LoraSettings(r=rank, alpha=2 * rank, dropout=0.2))
        randomise((p for p in made.parameters() if p.requires_grad), seed=seed)
    return made


@pytest.fixture
def foreign_student(tiny_student: Path, tmp_path: Path) -> Path:
    """The tiny student with one weight matrix changed by a hundredth."""
    model = LlamaForCausalLM.from_pretrained(tiny_student)
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight.mul_(1.01)
    model.save_pretrained(tmp_path / "foreign")
    return tmp_path / "foreign"


def base_weights(stack: AdapterStack) -> dict[str, nn.Parameter]:
    return {n: p for n, p in stack.named_parameters() if "lora_" not in n}


def state_of(stack: AdapterStack) -> tuple[Any, ...]:
    gradients = {n: p.requires_grad for n, p in stack.named_parameters()}
    return stack.model.active_adapter, gradients, {n: m.training for n, m in stack.named_modules()}


def test_one_base_serves_all_adapters(stack: AdapterStack, tiny_student: Path) -> None:
    alone = load_base(str(tiny_student))
    expected = {p.data_ptr() for p in base_weights(stack).values()}
    assert len(expected) == len(list(alone.parameters()))
    assert sum(p.numel() for p in base_weights(stack).values()) == sum(p.numel() for p in alone.parameters())
    stack.add("three", LoraSettings())
    with stack.using("one"):
        assert {p.data_ptr() for p in base_weights(stack).values()} == expected
    adapters = sum(p.numel() for n, p in stack.named_parameters() if "lora_" in n)
    assert adapters == (2 + 3 + 8) * 2 * ((32 + 32) + (32 + 16))  # rank × layers × (q_proj + v_proj)


def test_wrapping_keeps_the_model_it_is_given(tiny_student: Path) -> None:
    base = load_base(str(tiny_student))
    pointers = {p.data_ptr() for p in base.parameters()}
    stack = AdapterStack(base, "tiny")
    stack.add("one", LoraSettings())
    assert {p.data_ptr() for p in base_weights(stack).values()} == pointers


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


def test_using_gives_the_other_adapters_logits(stack: AdapterStack, make_batch: Any, logits_of: Any) -> None:
    batch = make_batch()
    stack.eval()
    two = logits_of(stack, batch)
    stack.activate("one", trainable=False)
    one = logits_of(stack, batch)
    assert (one - two).abs().max() > 1e-2
    stack.activate("two", trainable=True)
    stack.train()
    with stack.using("one"):
        assert torch.equal(logits_of(stack, batch), one)
    assert not torch.equal(logits_of(stack, batch), two), "dropout is back"
    assert torch.equal(logits_of(stack.eval(), batch), two)


def stock_logits(student: Path, directory: Path, batch: dict[str, Tensor]) -> Tensor:
    """What a user without our code gets."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT only warns of missing weights
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student), directory).eval()
    with torch.no_grad():
        logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits


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
    assert torch.equal(stock_logits(tiny_student, tmp_path, batch), expected)
    first, second = new_stack(), new_stack()
    first.load("any", tmp_path)
    second.add("other", LoraSettings())
    second.load("any", tmp_path, trainable=True)
    assert torch.equal(logits_of(first.eval(), batch), expected)
    assert torch.equal(logits_of(second.eval(), batch), expected)
    assert {n.split(".")[-2] for n, p in second.named_parameters() if p.requires_grad} == {"any"}
    facts = read_manifest(tmp_path)
    assert facts == {
        "student": str(tiny_student),
        "base": stack.identity.to_json(),
        "kind": "lora",
        "sha256": {name: sha256_of(tmp_path / name) for name in (WEIGHTS, "adapter_config.json")},
        "stage": "test",
    }
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_student)


def test_a_foreign_base_is_refused(stack: AdapterStack, foreign_student: Path, tmp_path: Path) -> None:
    stack.save("one", tmp_path / "adapter")
    other = AdapterStack(load_base(str(foreign_student)), str(foreign_student))
    with pytest.raises(InputError, match=r"another base.*foreign"):
        other.load("one", tmp_path / "adapter")
    (tmp_path / "adapter" / ADAPTER_MANIFEST).unlink()
    other.load("one", tmp_path / "adapter")  # a stock adapter says nothing of its base: taken at the user's word


def test_a_base_of_another_shape_is_refused_without_a_manifest(
    new_stack: Any, negative_directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(negative_directory, tmp_path / "adapter")
    (tmp_path / "adapter" / ADAPTER_MANIFEST).unlink()
    weights = load_file(tmp_path / "adapter" / WEIGHTS)
    save_file({k: torch.cat([v, v]) for k, v in weights.items()}, tmp_path / "adapter" / WEIGHTS)
    with pytest.raises(InputError, match="cannot load the adapter"):
        new_stack().load("one", tmp_path / "adapter")


def edit(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.mark.parametrize("setting", [{"lora_alpha": 17}, {"use_rslora": True}, {"fan_in_fan_out": True}], ids=str)
def test_a_changed_config_is_refused(
    new_stack: Any, negative_directory: Path, tmp_path: Path, setting: dict[str, Any]
) -> None:
    shutil.copytree(negative_directory, tmp_path / "adapter")
    new_stack().load("one", tmp_path / "adapter")
    edit(tmp_path / "adapter/adapter_config.json", **setting)
    with pytest.raises(InputError, match=r"adapter_config\.json: damaged: its SHA-256"):
        new_stack().load("one", tmp_path / "adapter")


def test_a_config_names_its_layers_in_order(stack: AdapterStack, tmp_path: Path) -> None:
    stack.save("two", tmp_path)
    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)


def drop_a_weight(directory: Path) -> None:
    weights = load_file(directory / WEIGHTS)
    weights.pop(sorted(weights)[0])
    save_file(weights, directory / WEIGHTS)


def add_a_weight(directory: Path) -> None:
    weights = load_file(directory / WEIGHTS)
    name = sorted(weights)[0]
    save_file({**weights, name.replace("layers.0", "layers.9"): weights[name].clone()}, directory / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda d: shutil.rmtree(d), "no adapter here"),
        (lambda d: (d / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (lambda d: (d / "adapter_config.json").write_text("{"), "cannot load the adapter"),
        (lambda d: (d / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
        (lambda d: (d / WEIGHTS).rename(d / "adapter_model.bin"), "adapter_model.bin: a pickle"),
        (lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-10]), "cannot load the adapter"),
        (lambda d: (d / WEIGHTS).write_bytes(b""), "cannot load the adapter"),
        (lambda d: (d / ADAPTER_MANIFEST).write_text("[]"), "damaged manifest"),
        (lambda d: (d / ADAPTER_MANIFEST).write_text("{"), "damaged manifest"),
        (lambda d: (d / ADAPTER_MANIFEST).write_text('{"base": {"values": "AAAA"}}'), "damaged manifest"),
        (drop_a_weight, "1 weights are missing, 0 foreign"),
        (add_a_weight, "0 weights are missing, 1 foreign"),
    ],
)
def test_damaged_adapters_are_refused(
    new_stack: Any, negative_directory: Path, tmp_path: Path, damage: Callable[[Path], None], problem: str
) -> None:
    shutil.copytree(negative_directory, tmp_path / "adapter")
    unsign(tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(InputError, match=problem) as caught:
        new_stack().load("one", tmp_path / "adapter")
    assert str(tmp_path / "adapter") in str(caught.value)
    assert caught.value.remedy
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_a_flipped_bit_is_found(new_stack: Any, negative_directory: Path, tmp_path: Path, place: float) -> None:
    shutil.copytree(negative_directory, tmp_path / "adapter")
    content = bytearray((tmp_path / "adapter" / WEIGHTS).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (tmp_path / "adapter" / WEIGHTS).write_bytes(content)
    with pytest.raises(InputError, match="damaged: its SHA-256") as caught:
        new_stack().load("one", tmp_path / "adapter")
    assert caught.value.file == str(tmp_path / "adapter" / WEIGHTS)


def test_an_adapter_that_is_no_lora_is_refused(new_stack: Any, tiny_student: Path, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    get_peft_model(LlamaForCausalLM.from_pretrained(tiny_student), config).save_pretrained(str(tmp_path))
    with pytest.raises(InputError, match="LoRA"):
        new_stack().load("one", tmp_path)


@pytest.mark.parametrize("here", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("trained", ["float32", "bfloat16", "float16"])
def test_an_adapter_goes_with_its_base_in_any_dtype(
    trained: str, here: str, small_weights: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, other = (str(directory) for directory in small_weights)
    stack = AdapterStack(load_base(student, trained), "student")
    stack.add("one", LoraSettings())
    stack.save("one", tmp_path)
    AdapterStack(load_base(student, here), student).load("one", tmp_path)
    assert "trained" not in capsys.readouterr().err
    with pytest.raises(InputError, match="another base"):
        AdapterStack(load_base(other, here), other).load("one", tmp_path)


@pytest.fixture(scope="module")
def small_weights(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two students of one shape; float16 loses some of their weights."""
    made = []
    for seed in (0, 1):
        model = LlamaForCausalLM.from_pretrained(tiny_student)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3, generator=generator).pow_(9)
        model.save_pretrained(made_in := tmp_path_factory.mktemp(f"student{seed}"))
        made.append(made_in)
    return made[0], made[1]


def test_identity_is_taken_before_adapters_and_survives_them(new_stack: Any, tiny_student: Path) -> None:
    stack = new_stack()
    stack.add("one", LoraSettings())
    assert stack.identity.key == BaseIdentity.of(load_base(str(tiny_student))).key


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["c_attn", "q_proj"]])
def test_a_student_without_the_target_layers(targets: list[str]) -> None:
    config = GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11, n_positions=16)
    stack = AdapterStack(GPT2LMHeadModel(config), "gpt2")
    with pytest.raises(InputError, match="no layer 'q_proj'") as caught:
        stack.add("one", LoraSettings(target_modules=targets))
    assert caught.value.field == "lora.target_modules"


@pytest.mark.parametrize("changes", [{"r": 0}, {"target_modules": ["input_layernorm"]}])
def test_settings_that_peft_refuses(new_stack: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot put a LoRA on the student") as caught:
        new_stack().add("one", LoraSettings(**changes))
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


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_base_that_is_a_pickle_is_refused(tiny_student: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_student, tmp_path / "base")
    (tmp_path / "base/model.safetensors").unlink()
    torch.save({"model.norm.weight": Payload(tmp_path / "touched")}, tmp_path / "base/pytorch_model.bin")
    with pytest.raises(InputError, match="more than tensors"):
        load_base(str(tmp_path / "base"))
    assert not (tmp_path / "touched").exists()

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Phi3Config

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.layer_names import choose_layers, name_layers
from lightning_modules.components.adapters.nat import UnitSettings, build_nat
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from tests.students import unsign

SLOW = "(.*)+(.*)+(.*)+(.*)+(.*)+(.*)+x!"
"""A stock adapter may name its layers by a regular expression, and a hostile one by one that takes years."""


def test_a_pattern_for_the_layers_is_replaced_by_those_there_are_weights_of(
    new_stack: Callable[[], AdapterStack], negative_directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(negative_directory, tmp_path, dirs_exist_ok=True)
    unsign(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config |= {"target_modules": SLOW, "exclude_modules": SLOW}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    stack, named = new_stack(), new_stack()
    stack.load("one", tmp_path)
    named.load("one", negative_directory)
    assert stack.lora_layers("one").keys() == named.lora_layers("one").keys()


@pytest.mark.parametrize(
    "setting",
    [
        {"exclude_modules": SLOW},
        {"layers_pattern": SLOW, "layers_to_transform": [0]},
        {"layers_pattern": [SLOW], "layers_to_transform": [0]},
        {"rank_pattern": {SLOW: 4}},
        {"alpha_pattern": {SLOW: 4}},
    ],
)
def test_any_other_pattern_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="holds the regular expression"):
        name_layers(LoraConfig(target_modules=["q_proj"], **setting), [])


@pytest.mark.parametrize(
    ("config", "asked", "chosen"),
    [
        (LlamaConfig, "auto", ["q_proj", "v_proj"]),
        (LlamaConfig, "all-linear", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
        (GPT2Config, "auto", ["c_attn"]),
        (GPT2Config, ["q_proj", "v_proj"], ["c_attn"]),  # the default, which it lacks
        (GPT2Config, "all-linear", ["c_attn", "c_fc", "c_proj"]),
        (Phi3Config, ["q_proj", "v_proj"], ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]),  # unknown to PEFT
    ],
)
def test_layers_by_a_word(config: Any, asked: Any, chosen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = config(vocab_size=16, pad_token_id=0, num_key_value_heads=2, **sizes)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(made)
    assert choose_layers(base, asked) == chosen
    said = f"no q_proj and v_proj: LoRA adapts {', '.join(chosen)}" if asked == ["q_proj", "v_proj"] else ""
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("asked", [["q_proj", "c_attn"], ["c_attn"], "everything"])
def test_layers_that_are_not_there(new_stack: Callable[[], AdapterStack], asked: Any) -> None:
    with pytest.raises(InputError, match=r"no layer '(c_attn|everything)' that LoRA could adapt"):
        choose_layers(new_stack().base, asked)


def test_nat_on_all_linear_layers_with_a_rank_scaled_by_its_root(
    new_stack: Callable[[], AdapterStack], tmp_path: Path
) -> None:
    lora = LoraSettings(target_modules="all-linear", use_rslora=True)
    stack, ids = new_stack(), torch.arange(12).view(2, 6)
    stack.add("negative", lora)
    scales = {layer.scaling["negative"] for layer in stack.lora_layers("negative").values()}
    assert scales == {lora.alpha / lora.r**0.5}
    stack.save("negative", tmp_path)
    nat = new_stack()
    plain = nat.hidden(ids, torch.ones_like(ids))
    units = build_nat(nat, tmp_path, lora, UnitSettings(4, 4))
    assert len(units) == len(stack.lora_layers("negative"))
    torch.testing.assert_close(nat.eval().hidden(ids, torch.ones_like(ids)), plain)
    for unit in units.values():
        torch.nn.init.normal_(unit.get_parameter("up.weight"))
    assert not torch.allclose(nat.hidden(ids, torch.ones_like(ids)), plain)

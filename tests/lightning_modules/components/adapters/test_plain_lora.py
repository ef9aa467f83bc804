from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.nat import UnitSettings, build_nat
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base

NewStack = Callable[[], AdapterStack]
IDS = torch.arange(5, 17).view(2, 6)
ONES = torch.ones_like(IDS)


@pytest.mark.parametrize(
    ("settings", "ranks"),
    [
        ({"rank_pattern": {"layers.1.self_attn.v_proj": 3}}, [2, 2, 2, 3]),
        ({"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"v_proj": 24}}, [2, 3, 2, 3]),
        ({"layers_to_transform": [1]}, [2, 2]),
        ({"exclude_modules": ["layers.0.self_attn.q_proj"]}, [2, 2, 2]),
        ({"init_lora_weights": "gaussian"}, [2, 2, 2, 2]),
        ({"init_lora_weights": False}, [2, 2, 2, 2]),
        ({"init_lora_weights": "orthogonal"}, [2, 2, 2, 2]),
    ],
)
def test_settings_that_nat_and_merging_carry(
    settings: dict[str, Any], ranks: list[int], new_stack: NewStack, tmp_path: Path
) -> None:
    lora = LoraSettings(r=2, dropout=0.0, peft_settings=settings)
    negative, nat = new_stack(), new_stack()
    plain = negative.eval()(IDS, ONES)
    negative.add("student", lora)
    layers = negative.lora_layers("student").values()
    assert [layer.r["student"] for layer in layers] == ranks
    assert {layer.scaling["student"] for layer in layers} <= {8, 16 / 3}
    for layer in layers:
        torch.nn.init.normal_(layer.lora_B["student"].weight, std=0.3)  # type: ignore[arg-type]
    expected = negative.eval()(IDS, ONES).detach()
    assert not torch.allclose(expected, plain, atol=0.01)
    negative.save("student", tmp_path)
    units = build_nat(nat, tmp_path, lora, UnitSettings(4, 4))
    torch.testing.assert_close(nat.eval()(IDS, ONES), plain)  # a fresh NAT is the base
    assert len(units) == len(ranks)
    with nat.using("negative"):
        torch.testing.assert_close(nat(IDS, ONES), expected)
    torch.testing.assert_close(negative.model.merge_and_unload()(IDS).logits, expected, rtol=1e-4, atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"use_dora": True}, "DoRA scales the whole layer"),
        ({"bias": "all"}, "would change the base"),
        ({"lora_bias": True}, "no bias beside B A x"),
        ({"modules_to_save": ["lm_head"]}, "would change the base"),
        ({"target_parameters": ["mlp.weight"]}, "no linear layer's"),
        ({"trainable_token_indices": [1]}, "would change the base"),
        ({"layer_replication": [(0, 2), (0, 2)]}, "would change the base"),
        ({"init_lora_weights": "pissa"}, "gaussian and orthogonal do not"),
        ({"init_lora_weights": "olora"}, "would change the base"),
        ({"alora_invocation_tokens": [1]}, "more than a sum"),
        ({"rank_pattern": {"(q|v)_proj": 3}}, "regular expression"),
        ({"nonsense": 1}, "nonsense"),
        ({"r": 3}, "'r'"),
    ],
)
def test_settings_that_they_do_not(settings: dict[str, Any], why: str, new_stack: NewStack, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        new_stack().add("one", LoraSettings(peft_settings=settings))
    if settings.keys() <= {"use_dora", "lora_bias", "bias", "modules_to_save"}:  # nor by way of a stock adapter
        stock = get_peft_model(new_stack().base, LoraConfig(target_modules=["q_proj", "v_proj"], **settings))
        stock.save_pretrained(str(tmp_path), save_embedding_layers=False)
        with pytest.raises(InputError, match=why):
            new_stack().load("one", tmp_path)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_tied_or_not_the_embeddings_and_the_head_stay_as_they_are(
    target: str, new_stack: NewStack, tmp_path: Path, tiny_student: Path
) -> None:
    with pytest.raises(InputError, match=f"no layer '{target}' that LoRA could adapt"):
        new_stack().add("one", LoraSettings(target_modules=["q_proj", target]))
    stock = get_peft_model(load_base(str(tiny_student)), LoraConfig(target_modules=["q_proj", target]))
    stock.save_pretrained(str(tmp_path), save_embedding_layers=False)
    with pytest.raises(InputError, match="the embeddings or the output head"):
        new_stack().load("one", tmp_path)

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.packing import check_packing, hidden_states, needs_mask
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings

GPT: dict[str, Any] = {"vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = {**GPT, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
SHAPE: dict[str, Any] = {**SMALL, "intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
WINDOW = {**SHAPE, "sliding_window": 8}
APART: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "qwen2": SHAPE,
    "qwen3": SHAPE,
    "mistral": WINDOW,
    "gemma2": WINDOW,
    "gemma3_text": WINDOW,
    "gpt2": {**GPT, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "mixtral": {**SHAPE, "num_local_experts": 4},
}
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {**GPT, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "qwen3_next": {**SHAPE, **EXPERTS, **DELTA, "shared_expert_intermediate_size": 32},
    "lfm2": {**SHAPE, "layer_types": ["conv", "full_attention"] * 2},
    "falcon_h1": {**SHAPE, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16},
}
MIXED: dict[str, dict[str, Any]] = {
    "opt": {**SMALL, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "bloom": {**GPT, "hidden_size": 64, "n_layer": 4, "n_head": 4},
    "falcon": {**SMALL, "alibi": True},
    **RECURRENT,
}


def model_of(name: str, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**APART, **MIXED}[name])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.15)
    return model.to(dtype)  # type: ignore[no-any-return]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral"])
def test_packed_rows_attend_within_their_samples(name: str, attention: str) -> None:
    model = model_of(name, torch.float64)
    model.set_attn_implementation(attention)
    # Eager attention takes its softmax in fp32 whatever the dtype, and a wider row is added up in another order.
    tolerance = 1e-6 if attention == "eager" else 1e-10
    texts = [torch.randint(1, 97, (n,), generator=torch.Generator().manual_seed(n)) for n in (5, 3, 1, 7, 4)]
    ids, positions, mask = (torch.zeros(3, 11, dtype=torch.int64) for _ in range(3))
    places = [(0, slice(0, 5)), (0, slice(5, 8)), (0, slice(8, 9)), (1, slice(0, 7)), (2, slice(0, 4))]
    for text, place in zip(texts, places, strict=True):
        ids[place], positions[place], mask[place] = text, torch.arange(len(text)), 1
    hidden = hidden_states(model, ids, mask, positions)
    for text, place in zip(texts, places, strict=True):
        alone = hidden_states(model, text[None], torch.ones_like(text)[None])[0]
        torch.testing.assert_close(hidden[place], alone, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", APART)
def test_who_keeps_samples_apart_passes(name: str, dtype: torch.dtype, eager: bool) -> None:
    model = model_of(name, dtype)
    if eager:
        model.set_attn_implementation("eager")
    check_packing(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        check_packing(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MIXED)
def test_who_mixes_them_is_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"does not keep packed samples apart.*\n.*tokens_per_batch") as caught:
        check_packing(model_of(name, dtype))
    assert caught.value.field == "data.packing"


def test_packed_rows_are_refused_before_anything_is_learnt_of_them() -> None:
    stack, ids = AdapterStack(model_of("opt", torch.float32), "opt"), torch.arange(1, 7)[None]
    assert stack.hidden(ids, torch.ones_like(ids)).shape == (1, 6, 64)
    with pytest.raises(InputError, match="packed samples"):
        stack.hidden(ids, torch.ones_like(ids), torch.tensor([[0, 1, 2, 0, 1, 2]]))


def test_the_check_is_made_once_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = AdapterStack(model_of("llama", torch.float32), "llama")
    stack.add("one", LoraSettings(dropout=0.5))
    stack.train()
    modes, state = {n: m.training for n, m in stack.named_modules()}, torch.get_rng_state()
    check_packing(stack.base)
    assert {n: m.training for n, m in stack.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), state)
    passes: list[int] = []
    stack.base.get_decoder().register_forward_hook(lambda *_: passes.append(1))
    ids = torch.arange(1, 7)[None]
    for _ in range(3):
        stack.hidden(ids, torch.ones_like(ids), torch.tensor([[0, 1, 2, 0, 1, 2]]))
    assert len(passes) == 2 + 3


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gpt2", "opt", "bloom", "mamba"])
def test_padding_on_the_right_needs_no_mask(name: str) -> None:
    model = model_of(name, torch.float32)
    assert not needs_mask(model)
    ids = torch.randint(3, 97, (3, 24))
    real = torch.arange(24) < torch.tensor([[24], [15], [7]])
    masked, plain = (hidden_states(model, ids, mask)[real] for mask in (real.long(), None))
    assert torch.equal(masked, plain)


def test_a_decoder_that_sees_what_follows_keeps_its_mask() -> None:
    config = AutoConfig.for_model("bert", is_decoder=False, **SMALL, intermediate_size=96)
    assert needs_mask(AutoModelForCausalLM.from_config(config).eval())


def test_a_stack_runs_padded_rows_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = AdapterStack(model_of("llama", torch.float32), "llama")
    masks: list[Any] = []

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        masks.append(kwargs.get("attention_mask"))

    stack.base.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    ids = torch.randint(3, 97, (2, 8))
    for _ in range(2):
        stack.hidden(ids, torch.ones_like(ids))
    assert [mask is None for mask in masks] == [False, True, True, True]  # two of the probe, then the two passes

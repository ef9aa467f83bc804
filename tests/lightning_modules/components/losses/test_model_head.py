from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GraniteConfig,
    LlamaConfig,
    PreTrainedModel,
)

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.losses.model_head import ModelHead, find_head
from lightning_modules.components.losses.output_head import CHUNK_BYTES, Head, OutputHead
from tests.lightning_modules.components.losses.cases import gradient_of, normal

V = 50
SHAPE: dict[str, Any] = {"vocab_size": V, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
GPT: dict[str, Any] = {"vocab_size": V, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32}
CONFIGS: dict[str, tuple[Any, type[Head]]] = {
    "llama": (LlamaConfig(**SHAPE), OutputHead),
    "gpt2": (GPT2Config(**GPT), OutputHead),
    "granite": (GraniteConfig(**SHAPE, logits_scaling=3.0), OutputHead),
    "cohere": (CohereConfig(**SHAPE, logit_scale=0.0625), OutputHead),
    "gemma2 without soft-capping": (Gemma2Config(**SHAPE, head_dim=4, final_logit_softcapping=None), OutputHead),
    "gemma2": (Gemma2Config(**SHAPE, head_dim=4, final_logit_softcapping=0.5), ModelHead),
    "gptj": (GPTJConfig(**GPT, rotary_dim=2), ModelHead),  # a head with a bias
}


def model_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name][0], dtype=torch.float64).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)  # biases too
    return model.requires_grad_(False)  # type: ignore[no-any-return]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_any_models_head_teaches_and_learns_as_its_logits_say(
    name: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 4 * 4 * V * 5)
    model = model_of(name)
    head = find_head(model)
    assert type(head) is CONFIGS[name][1]
    models, logits = [], []
    tokens, *texts = torch.randint(V, (4, 9), generator=torch.Generator().manual_seed(0))
    for row in texts:  # three "models": what one model thinks of three texts
        models.append(model.get_decoder()(input_ids=row[None], use_cache=False).last_hidden_state[0].requires_grad_())
        logits.append(model(input_ids=row[None], use_cache=False).logits[0])
    (student, nat, negative), (log_student, log_nat, log_negative) = models, (each.log_softmax(-1) for each in logits)
    taught = head.teacher_targets(nat, negative, temperature)
    assert isinstance(taught.summary, Tensor)
    assert taught.divergence is not None
    close(taught.divergence, (log_negative.exp() * (log_negative - log_nat)).sum(-1))
    assert not taught.summary.requires_grad
    assert not taught.divergence.requires_grad
    logprobs, soft = head.distillation_terms(student, tokens, taught.summary, temperature)
    close(logprobs, log_student[torch.arange(9), tokens])
    close(head.logprobs(student, tokens), logprobs)
    p = (logits[1] / temperature).softmax(-1)
    close(soft, -(p * (logits[0] / temperature).log_softmax(-1)).sum(-1))
    gradient = gradient_of((2 * logprobs + soft).sum(), student)
    for position, component in ((0, 1), (4, 5)):  # against differences: the dense graph ends at the decoder
        sums = []
        for step in (1e-6, -1e-6):
            moved = student.detach().clone()
            moved[position, component] += step
            a, b = head.distillation_terms(moved, tokens, taught.summary, temperature)
            sums.append((2 * a + b).sum())
        torch.testing.assert_close(gradient[position, component], (sums[0] - sums[1]) / 2e-6, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "change", "kind"),
    [
        ("gemma2", {"final_logit_softcapping": 30.0}, ModelHead),
        ("gemma2", {"final_logit_softcapping": None}, OutputHead),
        ("llama", {}, OutputHead),
        ("granite", {"logits_scaling": 3.0}, OutputHead),
        ("cohere", {}, OutputHead),
    ],
)
def test_the_dtype_does_not_choose_the_head(
    name: str, change: dict[str, Any], kind: type[Head], dtype: torch.dtype
) -> None:
    """Untrained logits are so small that a cap of 30 is lost in bfloat16's rounding."""
    torch.manual_seed(0)
    config = type(CONFIGS[name][0])(**{**CONFIGS[name][0].to_dict(), "hidden_size": 64, **change})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False).to(dtype)
    assert type(find_head(model)) is kind
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert type(find_head(model)) is kind


def test_the_check_leaves_no_trace(new_stack: Callable[..., AdapterStack]) -> None:
    stack = new_stack()
    stack.add("one", LoraSettings(dropout=0.5))
    stack.train()
    modes, state = {n: m.training for n, m in stack.named_modules()}, torch.get_rng_state()
    head = stack.head
    assert isinstance(head, OutputHead)
    assert stack.head is head
    assert {n: m.training for n, m in stack.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert head.weight.data_ptr() == stack.base.get_output_embeddings().weight.data_ptr()


def test_what_no_head_can_do_is_refused(new_stack: Callable[..., AdapterStack]) -> None:
    with pytest.raises(InputError, match="soft-capping"):
        find_head(model_of("gemma2")).teacher_targets(normal(2, 8), None, top_k=3)
    adapted: Any = get_peft_model(new_stack().base, LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(InputError, match=r"lora\.target_modules.*output head"):
        find_head(adapted.get_base_model())
    model = model_of("llama")
    forward = model.forward

    def strange(**kwargs: Any) -> Any:
        output = forward(**kwargs)
        output.logits = output.logits + kwargs["input_ids"][..., None]  # not from the hidden state alone
        return output

    model.forward = strange
    with pytest.raises(InputError, match="cannot make the logits"):
        find_head(model)

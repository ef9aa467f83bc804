from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
)

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.losses.model_head import ModelHead, find_head
from lightning_modules.components.losses.output_head import CHUNK_BYTES, Head, OutputHead, TopK, chunk_bytes_on, chunks
from lightning_modules.components.losses.targets import at_targets, find_targets

V, D, N = 50, 8, 23
SHAPE: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
GPT: dict[str, Any] = {"vocab_size": V, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32, "rotary_dim": 2}
CONFIGS: dict[str, tuple[Any, type[Head]]] = {
    "llama": (LlamaConfig(**SHAPE), OutputHead),
    "gpt2": (GPT2Config(**{k: v for k, v in GPT.items() if k != "rotary_dim"}), OutputHead),
    "granite": (GraniteConfig(**SHAPE, logits_scaling=3.0), OutputHead),
    "cohere": (CohereConfig(**SHAPE, logit_scale=0.0625), OutputHead),
    "gemma2 without soft-capping": (Gemma2Config(**SHAPE, head_dim=4, final_logit_softcapping=None), OutputHead),
    "gemma2": (Gemma2Config(**SHAPE, head_dim=4, final_logit_softcapping=0.5), ModelHead),
    "mistral": (MistralConfig(**SHAPE, sliding_window=3), OutputHead),
    "gptj": (GPTJConfig(**GPT), ModelHead),  # a head with a bias
}


def model_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name][0], dtype=torch.float64).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)  # biases too
    return model.requires_grad_(False)  # type: ignore[no-any-return]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@pytest.fixture(params=[1, 7, N, 1000], ids=lambda rows: f"{rows} rows a chunk")
def head(request: pytest.FixtureRequest) -> OutputHead:
    return OutputHead(normal(V, D, seed=1), scale=0.7, chunk_bytes=4 * V * request.param)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_the_partition_is_the_dense_one(head: OutputHead, temperature: float) -> None:
    hidden = normal(N, D).requires_grad_()
    logits = hidden @ head.weight.T * head.scale / temperature
    log_z, mean = head.partition(hidden, temperature)
    close(log_z, logits.logsumexp(-1))
    close(mean, logits.softmax(-1) @ head.weight * head.scale)
    assert not mean.requires_grad
    weights = normal(N, seed=2)
    expected = torch.autograd.grad((weights * logits.logsumexp(-1)).sum(), hidden)[0]
    close(torch.autograd.grad((weights * log_z).sum(), hidden)[0], expected)
    close(head.log_z(hidden.detach(), temperature), log_z.detach())


def test_logprobs_are_the_dense_ones(head: OutputHead) -> None:
    hidden, tokens = normal(N, D).requires_grad_(), torch.arange(N) * 2
    dense = (hidden @ head.weight.T * head.scale).log_softmax(-1)[torch.arange(N), tokens]
    logprobs = head.logprobs(hidden, tokens)
    close(logprobs, dense)
    weights = normal(N, seed=2)
    gradients = [torch.autograd.grad((weights * value).sum(), hidden)[0] for value in (logprobs, dense)]
    close(*gradients)
    with torch.no_grad():
        close(head.logprobs(hidden, tokens), dense)


def test_no_row_is_no_trouble(head: OutputHead) -> None:
    hidden = normal(0, D).requires_grad_()
    logprobs = head.logprobs(hidden, torch.zeros(0, dtype=torch.int64))
    logprobs.sum().backward()
    assert logprobs.shape == (0,)
    assert hidden.grad is not None
    taught = [head.teacher_targets(hidden, hidden, top_k=k) for k in (None, 3)]
    assert isinstance(taught[0].summary, Tensor)
    assert isinstance(taught[1].summary, TopK)
    assert taught[0].summary.shape == (0, D)
    assert [part.shape for part in taught[1].summary] == [(0, 3), (0, 3)]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_any_models_head_teaches_and_learns_as_its_logits_say(name: str, temperature: float) -> None:
    model = model_of(name)
    head = find_head(model)
    assert type(head) is CONFIGS[name][1]
    head.chunk_bytes = 4 * 4 * V * 5  # type: ignore[attr-defined]
    ids = torch.randint(V, (3, 9), generator=torch.Generator().manual_seed(0))
    models, logits = [], []
    for row in ids:  # three "models": what one model thinks of three texts
        models.append(model.get_decoder()(input_ids=row[None], use_cache=False).last_hidden_state[0].requires_grad_())
        logits.append(model(input_ids=row[None], use_cache=False).logits[0])
    (student, nat, negative), tokens = models, ids[0].flip(0)
    taught = head.teacher_targets(nat, negative, temperature)
    assert isinstance(taught.summary, Tensor)
    logprobs, soft = head.distillation_terms(student, tokens, taught.summary, temperature)
    log_student, log_nat, log_negative = (each.log_softmax(-1) for each in logits)
    close(logprobs, log_student[torch.arange(9), tokens])
    close(head.logprobs(student, tokens), logprobs)
    assert taught.divergence is not None
    close(taught.divergence, (log_negative.exp() * (log_negative - log_nat)).sum(-1))
    p = (logits[1] / temperature).softmax(-1)
    close(soft, -(p * (logits[0] / temperature).log_softmax(-1)).sum(-1))
    assert not taught.summary.requires_grad
    assert not taught.divergence.requires_grad
    gradient = torch.autograd.grad((2 * logprobs + soft).sum(), student)[0]
    for position, component in ((0, 1), (4, 5)):  # against differences: the dense graph ends at the decoder
        moved = [student.detach().clone() for _ in range(2)]
        moved[0][position, component] += 1e-6
        moved[1][position, component] -= 1e-6
        sums = [
            (2 * a + b).sum()
            for a, b in (head.distillation_terms(m, tokens, taught.summary, temperature) for m in moved)
        ]
        torch.testing.assert_close(gradient[position, component], (sums[0] - sums[1]) / 2e-6, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 9, V])
def test_top_k_is_completed_by_the_students_tail(head: OutputHead, k: int, temperature: float) -> None:
    student, nat, tokens = normal(N, D).requires_grad_(), normal(N, D, seed=3), torch.arange(N)
    logits, taught = (h @ head.weight.T * head.scale for h in (student, nat))
    p, log_q = (taught / temperature).softmax(-1), (logits / temperature).log_softmax(-1)
    completed = torch.zeros_like(p)
    for row in range(N):
        kept = set(p[row].argsort(descending=True)[:k].tolist())
        rest = [v for v in range(V) if v not in kept]
        shape = log_q[row].detach().exp()[rest]
        completed[row, list(kept)] = p[row, list(kept)]
        completed[row, rest] = p[row, rest].sum() * shape / shape.sum()
    likeliest = head.teacher_targets(nat, None, temperature, top_k=k)
    assert likeliest.divergence is None
    _, soft = head.distillation_terms(student, tokens, likeliest.summary, temperature)
    expected = -(completed * log_q).sum(-1)
    close(soft, expected)
    gradients = [torch.autograd.grad(value.sum(), student, retain_graph=True)[0] for value in (soft, expected)]
    close(*gradients)
    if k == V:
        close(soft, -(p * log_q).sum(-1))


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


def test_top_k_needs_a_plain_head() -> None:
    with pytest.raises(InputError, match="soft-capping"):
        find_head(model_of("gemma2")).teacher_targets(normal(2, 8), None, top_k=3)


def test_the_check_leaves_no_trace(new_stack: Callable[..., AdapterStack]) -> None:
    stack = new_stack()
    stack.add("one", LoraSettings(dropout=0.5))
    stack.train()
    modes, state = {n: m.training for n, m in stack.named_modules()}, torch.get_rng_state()
    assert isinstance(stack.head, OutputHead)
    assert stack.head is stack.head
    assert {n: m.training for n, m in stack.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert stack.head.weight.data_ptr() == stack.base.get_output_embeddings().weight.data_ptr()


def test_an_adapted_head_is_refused(new_stack: Callable[..., AdapterStack]) -> None:
    stack = new_stack()
    stack.add("one", LoraSettings(target_modules=["lm_head"]))
    with pytest.raises(InputError, match="output head") as caught:
        assert stack.head
    assert caught.value.field == "lora.target_modules"


def test_a_model_of_unknown_ways_is_refused() -> None:
    model = model_of("llama")
    forward = model.forward

    def strange(**kwargs: Any) -> Any:
        output = forward(**kwargs)
        output.logits = output.logits + kwargs["input_ids"][..., None]  # not from the hidden state alone
        return output

    model.forward = strange
    with pytest.raises(InputError, match="cannot make the logits"):
        find_head(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_reduced_in_float32(dtype: torch.dtype) -> None:
    weight, hidden, tokens = normal(V, D, seed=1).to(dtype), normal(N, D, scale=3).to(dtype), torch.arange(N)
    exact = hidden.double().requires_grad_()
    expected = (exact @ weight.double().T).log_softmax(-1)[torch.arange(N), tokens]
    half = hidden.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = OutputHead(weight).logprobs(half, tokens)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
    actual.sum().backward()
    expected.sum().backward()
    assert half.grad is not None
    assert exact.grad is not None
    tolerance = torch.finfo(dtype).eps
    torch.testing.assert_close(half.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tokens_logit_and_the_partition_see_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Under bf16-mixed a GPU multiplies a float32 head in bfloat16: here the factors are rounded by hand."""
    half_precision_products(monkeypatch, dtype)
    weight, hidden = normal(V, 64, seed=1).float() / 4, normal(N, 64).float()
    hidden[0] = 8 * weight[0]  # a learnt token: log P(y) near 0 from below
    logits = hidden.to(dtype).double() @ weight.to(dtype).double().T
    head = OutputHead(weight)
    logprobs = torch.stack([head.logprobs(hidden, torch.full((N,), token)) for token in range(V)], -1)
    torch.testing.assert_close(logprobs.double(), logits.log_softmax(-1), rtol=1e-5, atol=3e-5)
    nat = normal(N, 64, seed=3).float()
    p = (nat.to(dtype).double() @ weight.to(dtype).double().T).softmax(-1)
    taught = head.teacher_targets(nat, None, top_k=V)
    _, soft = head.distillation_terms(hidden, torch.arange(N), taught.summary)
    torch.testing.assert_close(soft.double(), -(p * logits.log_softmax(-1)).sum(-1), rtol=1e-5, atol=3e-4)


def half_precision_products(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """What a GPU does under autocast: factors rounded to `dtype`, products summed in float32."""

    def product(products: Any, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        assert left.dtype == right.dtype == dtype
        return torch.mm(left.float(), right.float(), out=out)

    monkeypatch.setattr("lightning_modules.components.losses.output_head._product_dtype", lambda weight, hidden: dtype)
    monkeypatch.setattr("lightning_modules.components.losses.output_head._Products._product", product)


def test_autocast_rounds_no_sums() -> None:
    weight, student, nat, negative = (normal(n, 64, seed=n).float() for n in (V, N, N + 1, N + 2))
    head, tokens = OutputHead(weight, scale=0.3), torch.arange(N)
    nat, negative = nat[:N], student + (negative[:N] - student) / 8
    found = []
    for mixed in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            taught = head.teacher_targets(nat, negative)
            likeliest = head.teacher_targets(nat, negative, top_k=5).summary
            found.append([taught.divergence, head.distillation_terms(student, tokens, likeliest)[1]])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_a_gpu_takes_larger_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chunk_bytes_on(torch.device("cpu")) == CHUNK_BYTES
    assert chunk_bytes_on(torch.device("cuda", 1)) == 8 * CHUNK_BYTES
    asked: list[int] = []

    def watched(rows: int, vocabulary: int, size: int) -> Iterator[slice]:
        asked.append(size)
        return chunks(rows, vocabulary, size)

    monkeypatch.setattr("lightning_modules.components.losses.output_head.chunk_bytes_on", lambda device: 7 * 4 * V)
    monkeypatch.setattr("lightning_modules.components.losses.output_head.chunks", watched)
    hidden, tokens = normal(N, D), torch.arange(N)
    head, given = OutputHead(normal(V, D, seed=1)), OutputHead(normal(V, D, seed=1), chunk_bytes=5 * 4 * V)
    close(head.logprobs(hidden, tokens), given.logprobs(hidden, tokens))
    assert set(asked) == {7 * 4 * V, 5 * 4 * V}


def test_chunks_cover_all_rows_within_their_size() -> None:
    assert list(chunks(7, 10, 4 * 10 * 3)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(chunks(2, 10, 1)) == [slice(0, 1), slice(1, 2)]
    assert list(chunks(0, 10)) == []


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral"])
def test_packed_rows_attend_within_their_samples(name: str, attention: str) -> None:
    model = model_of(name)
    model.set_attn_implementation(attention)
    # Eager attention takes its softmax in fp32 whatever the dtype, and a wider row is added up in another order.
    tolerance = 1e-6 if attention == "eager" else 1e-10
    lengths = [5, 3, 1, 7, 4]
    texts = [torch.randint(1, V, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    stack = AdapterStack(model, name)
    alone = [stack.hidden(text[None], torch.ones_like(text)[None])[0] for text in texts]
    rows, width = [[0, 1, 2], [3], [4]], 11
    ids, positions, mask = (torch.zeros(3, width, dtype=torch.int64) for _ in range(3))
    for row, samples in enumerate(rows):
        filled = sum(lengths[k] for k in samples)
        ids[row, :filled] = torch.cat([texts[k] for k in samples])
        positions[row, :filled] = torch.cat([torch.arange(lengths[k]) for k in samples])
        mask[row, :filled] = 1
    hidden = stack.hidden(ids, mask, positions)
    for row, samples in enumerate(rows):
        start = 0
        for k in samples:
            torch.testing.assert_close(
                hidden[row, start : start + lengths[k]], alone[k], rtol=tolerance, atol=tolerance
            )
            start += lengths[k]


def test_flash_attention_gets_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads packed rows off a single row's position ids; any attention must give the same from that row."""
    model = model_of("llama")
    stack, ids = AdapterStack(model, "llama"), torch.arange(1, 13).view(2, 6)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 2, 0]])
    expected = stack.hidden(ids, torch.ones_like(ids), positions)
    seen: list[torch.Size] = []
    decoder = model.get_decoder()
    forward = decoder.forward

    def watched(**kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].shape)
        monkeypatch.setattr(model.config, "_attn_implementation_internal", "sdpa")
        return forward(**kwargs)

    monkeypatch.setattr(decoder, "forward", watched)
    monkeypatch.setattr(model.config, "_attn_implementation_internal", "flash_attention_2")
    torch.testing.assert_close(stack.hidden(ids, torch.ones_like(ids), positions), expected, rtol=1e-5, atol=1e-6)
    assert seen == [(1, 12)]


def test_a_stages_logprobs_are_those_of_its_logits(
    new_stack: Callable[..., AdapterStack], randomise: Any, make_batch: Any, logits_of: Any, tiny_student: Path
) -> None:
    from lightning_modules.negative import NegativeModel

    module = NegativeModel(student=str(tiny_student), lora=LoraSettings(dropout=0.0))
    module.configure_model()
    randomise(p for p in module.parameters() if p.requires_grad)
    batch = make_batch()
    targets = find_targets(batch)
    logits = at_targets(logits_of(module.adapters, batch), targets)
    expected = logits.double().log_softmax(-1).gather(-1, targets.tokens[:, None])[:, 0]
    actual = module.target_logprobs(batch, targets)
    assert actual.requires_grad
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)

"""The decoder against one row at a time without a cache; and what it asks of a GPU, on a CPU that poses as one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE, UnitSettings, attach_units
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.sampling import decoder, graphs
from lightning_modules.components.sampling.cache import width_for
from lightning_modules.components.sampling.rng import draw_tokens, sample_seed, uniform_block
from lightning_modules.components.sampling.sampler import Sample, sample_each
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.components.sampling.slots import Slots
from tests.lightning_modules.components.sampling.recorder import record

VOCABULARY, PAD, ENDS = 40, 0, [2, 5]
LENGTHS = (3, 70, 5, 12, 40, 7, 11, 2, 6)  # one begins in a wider cache than the others


def student(kind: str, kv_heads: int = 2) -> Any:
    """A tiny model, alone or with adapters of random weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
    }
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": kv_heads, "max_position_embeddings": 256}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.3)).eval()
    if kind == "base":
        return model
    stack = AdapterStack(model, "random")
    for name in (NEGATIVE, POSITIVE) if kind == "nat" else ("student",):
        stack.add(name, LoraSettings(r=4))
    if kind == "nat":
        stack.units = attach_units(stack, UnitSettings(8, 8))
    for name, weight in stack.named_parameters():
        if "lora_" in name or "units." in name:
            nn.init.normal_(weight, std=0.2)
    return stack.eval().model


def prompts(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask, [f"question/{row}" for row in range(len(lengths))]


def run(
    model: Any, settings: SamplingSettings, rows: Iterable[int] = range(len(LENGTHS))
) -> dict[tuple[str, int], Sample]:
    """The samples of some of the questions, by name and number."""
    ids, mask, names = prompts()
    at, names = list(rows), [names[row] for row in rows]
    each = sample_each(model, ids[at], mask[at], names, ENDS, PAD, settings)
    return {(names[one.question_index], one.k): one for samples in each for one in samples}


@torch.no_grad()
def plain(model: Any, prompt: list[int], seed: int, settings: SamplingSettings) -> list[int]:
    """The whole text anew for each token."""
    text = list(prompt)
    for number in uniform_block([seed], settings.max_new_tokens)[0]:
        logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[:, -1]  # [1, V]
        greedy = settings.temperature == 0
        chosen = (
            logits.argmax(-1) if greedy else draw_tokens(logits, number[None], settings.temperature, settings.top_p)
        )
        text.append(int(chosen))
        if text[-1] in ENDS:
            break
    return text[len(prompt) :]


@pytest.fixture
def as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pose_as_gpu(monkeypatch)


def pose_as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (decoder, graphs):
        monkeypatch.setattr(module, "captures", lambda device: True)
    monkeypatch.setattr(graphs, "capture", record)


@pytest.mark.parametrize(("kind", "kv_heads", "temperature"), [("nat", 2, 1.0), ("lora", 4, 1.0), ("lora", 1, 0.0)])
def test_the_same_samples_as_one_by_one(
    kind: str, kv_heads: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixed lengths, refilled slots, several widths, few rows at the end; captured steps too."""
    model, (ids, mask, names) = student(kind, kv_heads), prompts()
    settings = SamplingSettings(2, temperature, 0.9, max_new_tokens=30, seed=4, rows=6)
    expected = {
        (name, k): plain(model, ids[row, mask[row].bool()].tolist(), sample_seed(4, name, k), settings)
        for row, name in enumerate(names)
        for k in range(settings.samples)
    }
    lengths = [len(tokens) for tokens in expected.values()]
    assert min(lengths) < 10 < 25 < max(lengths)
    for pose in (lambda _: None, pose_as_gpu):
        pose(monkeypatch)
        for key, one in run(model, settings).items():
            tokens = expected[key]
            assert (one.token_ids, one.tokens) == (tokens[: len(tokens) - one.finished], len(tokens))
            assert one.finished == (tokens[-1] in ENDS)


def test_what_the_host_asks(as_on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(name: str, ask: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            asked.append(name)
            return ask(*args, **kwargs)

        return call

    for name in ("item", "tolist", "nonzero", "cpu", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(Tensor, name, counted(name, getattr(Tensor, name)))
    model, found = student("nat"), {}
    for tokens in (9, 49):
        asked.clear()
        settings = SamplingSettings(2, max_new_tokens=tokens, rows=18)
        each = list(sample_each(model, *prompts(), -1, PAD, settings))
        assert {one.tokens for samples in each for one in samples} == {tokens}
        found[tokens] = len(asked)
    assert found[49] - found[9] == 40 / decoder.READ_EVERY


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_exact_samples_are_the_same_in_every_batch(dtype: torch.dtype) -> None:
    """To the last bit of their log-probability."""
    model = student("base").to(dtype)
    settings = SamplingSettings(3, 1.0, max_new_tokens=30, seed=4, rows=6, exact=True)
    together = run(model, settings)
    for rows in ([4], range(8, -1, -1), range(0, 9, 3)):
        for key, one in run(model, settings, rows).items():
            assert replace(one, question_index=0) == replace(together[key], question_index=0)
    loose = run(model, replace(settings, exact=False))
    same = [loose[key].logprob == one.logprob for key, one in together.items()]
    assert not all(same)


def test_exact_logits_are_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, append = set(), Slots.append

    def watched(self: Slots, logits: Tensor, *rest: Tensor) -> None:
        seen.add(logits.dtype)
        append(self, logits, *rest)

    monkeypatch.setattr(Slots, "append", watched)
    model = student("base").bfloat16()
    run(model, SamplingSettings(max_new_tokens=3))
    with torch.autocast("cpu", torch.bfloat16):
        run(student("lora"), SamplingSettings(max_new_tokens=3))
    assert seen == {torch.bfloat16}
    seen.clear()
    run(model, SamplingSettings(max_new_tokens=3, exact=True))
    with torch.autocast("cpu", torch.bfloat16):
        run(student("lora"), SamplingSettings(max_new_tokens=3, exact=True))
    assert seen == {torch.float32}


def test_rows_fit_the_memory(as_on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = student("base"), list[int]()
    forward = model.forward

    def counted(**given: Any) -> Any:
        rows.append(len(given["input_ids"]))
        return forward(**given)

    monkeypatch.setattr(model, "forward", counted)
    row = 128 * 2 * 2 * (2 * 8) * 4 + decoder.BYTES_A_LOGIT * VOCABULARY  # positions, layers, keys and values, float32
    monkeypatch.setattr(decoder, "free_memory", lambda device: int(7.5 * row / decoder.CACHE_SHARE))
    run(model, SamplingSettings(2, max_new_tokens=20))
    assert max(rows) == 6  # of seven that fit: three questions
    rows.clear()
    run(model, SamplingSettings(2, max_new_tokens=20, rows=4))
    assert max(rows) == 4
    monkeypatch.setattr(decoder, "free_memory", lambda device: 1 << 40)
    rows.clear()
    run(model, SamplingSettings(2, max_new_tokens=20))
    assert max(rows) == 18


@pytest.mark.parametrize(
    ("positions", "width"), [(1, 64), (64, 64), (65, 128), (512, 512), (513, 640), (1025, 1280), (2048, 2048)]
)
def test_few_widths(positions: int, width: int) -> None:
    assert width_for(positions) == width
    assert positions < 513 or width <= 1.25 * positions

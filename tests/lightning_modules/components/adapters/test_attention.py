"""Packed rows by every attention. No GPU: `varlen_attn` has a stand-in, FlexAttention runs uncompiled."""

from collections.abc import Callable, Iterator
from inspect import signature
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface

from datamodules.components.batching.collate import packed, padded
from datamodules.components.table import Example
from dust2gold.core.errors import InputError
from lightning_modules.components.adapters import attention as own
from lightning_modules.components.adapters.attention import VARLEN
from lightning_modules.components.adapters.packing import prepare_packing
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.sampling.sampler import sample_each
from lightning_modules.components.sampling.settings import SamplingSettings
from tests.lightning_modules.components.adapters.test_packing import APART, SHAPE, model_of

varlen = pytest.importorskip("torch.nn.attention.varlen")
pytestmark = pytest.mark.filterwarnings("ignore:.*(gradient_checkpointing|_compile flag).*")

attention: Any = own  # whose imports are replaced
LENGTHS = (12, 3, 9, 1, 14)  # some longer than the windows of 8
PARTS = {"varlen": "varlen_attn", "flex": "flex_attention_forward", "sdpa": "sdpa_attention_forward"}


def stand_in(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """What torch's does, sample by sample, after checking what its kernel takes for granted."""
    assert query.dtype == key.dtype == value.dtype
    assert query.dim() == key.dim() == value.dim() == 3
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert query.shape[1] % key.shape[1] == 0
    assert enable_gqa
    assert cu_seq_q is cu_seq_k
    assert (cu_seq_q.dtype, cu_seq_q.is_contiguous()) == (torch.int32, True)
    bounds = cu_seq_q.tolist()
    assert [0, len(query)] == [bounds[0], bounds[-1]] == [0, len(key)] == [0, len(value)]
    lengths = [b - a for a, b in pairwise(bounds)]
    assert 0 < min(lengths) <= max(lengths) == max_q == max_k
    before, after = window_size
    assert after == 0
    outputs = []
    for a, b in pairwise(bounds):
        q, k, v = (each[a:b].transpose(0, 1)[None] for each in (query, key, value))  # [1, H, n, d]
        place = torch.arange(b - a)
        seen = place[None] <= place[:, None]
        if before >= 0:
            seen &= place[None] >= place[:, None] - before
        out = functional.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=enable_gqa)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both attentions on the CPU, in any dtype."""
    monkeypatch.setattr(attention, "_machine_lacks", lambda *_: None)
    monkeypatch.setattr(attention, "varlen_attn", stand_in)
    monkeypatch.setattr(attention, "_DTYPES", (torch.float64, torch.float32, torch.bfloat16))
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)  # which refuses gradients on a CPU
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    """What attention was called, by its name in the options, and how many elements its mask had: −1 for blocks."""
    calls: list[tuple[str, int | None]] = []

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            mask = args[4] if name != "varlen" else None
            calls.append((name, -1 if isinstance(mask, BlockMask) else None if mask is None else mask.numel()))
            return function(*args, **kwargs)

        return watched

    for name, part in PARTS.items():
        monkeypatch.setattr(attention, part, watch(name, getattr(attention, part)))
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", attention.sdpa_attention_forward)
    return calls


def batches(seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same samples in two rows of at most 26 tokens, and padded."""
    generator = torch.Generator().manual_seed(seed)
    samples = [Example(str(n), "", True, torch.randint(3, 97, (n,), generator=generator).tolist(), 0) for n in LENGTHS]
    return packed(samples, 0, 26), padded(samples, 0)


def states(stack: AdapterStack, batch: dict[str, Any]) -> Tensor:
    """Hidden states of all samples' tokens, sample by sample [N, d]."""
    rest = batch.get("position_ids"), batch.get("sample_bounds")
    hidden = stack.hidden(batch["input_ids"], batch["attention_mask"], *rest)
    return hidden[batch["attention_mask"].bool()]


def lora_stack(family: str, dtype: torch.dtype = torch.float64, **options: Any) -> AdapterStack:
    stack = AdapterStack(model_of(family, dtype), family, **options)
    stack.add("student", LoraSettings(r=2, dropout=0.0))
    for number, parameter in enumerate(p for p in stack.parameters() if p.requires_grad):
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).to(dtype)
    return stack.train()


def states_and_gradient(stack: AdapterStack, batch: dict[str, Any]) -> list[Tensor]:
    found = states(stack, batch)
    loss = (found * torch.linspace(-1, 1, found.shape[-1], dtype=found.dtype)).square().sum()
    return [found.detach(), *torch.autograd.grad(loss, [p for p in stack.parameters() if p.requires_grad])]


def test_the_stand_in_has_the_form_of_torchs_own() -> None:
    def form(function: Any) -> list[tuple[str, Any, Any]]:
        return [(each.name, each.kind, each.default) for each in signature(function).parameters.values()]

    theirs = [(name, kind, default) for name, kind, default in form(varlen.varlen_attn)]
    assert form(stand_in) == theirs


@pytest.mark.parametrize(("dtype", "checkpointing"), [(torch.float64, False), (torch.float32, True)])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma3_text"])
@pytest.mark.usefixtures("anywhere")
def test_all_attentions_are_equal(
    family: str, dtype: torch.dtype, checkpointing: bool, received: list[tuple[str, int | None]]
) -> None:
    """Hidden states and gradients of padded rows and of packed ones; windows of 8 are kept, where a family has them."""
    rows, alone = batches()
    expected = states_and_gradient(lora_stack(family, dtype), alone)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4
    for name in ("sdpa", "varlen", "flex"):
        stack = lora_stack(family, dtype, attention=name, gradient_checkpointing=checkpointing)
        states(stack, rows)  # the first time, samples are checked to stay apart
        received.clear()
        found = states_and_gradient(stack, rows)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        masks = {"sdpa": 2 * 25**2, "varlen": None, "flex": -1}
        assert received == [(name, masks[name])] * (4 + 4 * checkpointing)  # layers, and again if they are recomputed


@pytest.mark.parametrize("name", ["nat", "nce"])
@pytest.mark.usefixtures("anywhere")
def test_a_stage_and_its_teachers_train_alike(
    name: str, make_stage: Any, randomise: Callable[..., None], received: list[tuple[str, int | None]]
) -> None:
    rows, _ = batches()
    found = []
    for way in ("sdpa", "varlen"):
        stage = make_stage(name, attention=way, gradient_checkpointing=True, lora=LoraSettings(r=4, dropout=0.0))
        randomise(p for p in stage.parameters() if p.requires_grad)
        loss = stage.training_step(rows, 0)
        received.clear()
        loss.backward()  # layers are recomputed
        assert received == [(way, 2 * 25**2 if way == "sdpa" else None)] * 2
        found.append([loss.detach(), *(p.grad for p in stage.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("anywhere")
def test_padded_rows_and_the_cache_keep_sdpa(received: list[tuple[str, int | None]]) -> None:
    rows, alone = batches()
    prompts, settings = alone["input_ids"][:3, :3], SamplingSettings(samples=2, max_new_tokens=5, seed=1)

    def passes(stack: AdapterStack) -> tuple[Tensor, list[list[int]]]:
        mask = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1]])
        stack.eval()
        drawn = sample_each(stack.model, prompts * mask, mask, ["a", "b", "c"], [2], 0, settings)
        return states(stack, alone), [one.token_ids for question in drawn for one in question]

    expected = passes(lora_stack("mistral"))
    for name in ("varlen", "flex"):
        stack = lora_stack("mistral", attention=name)
        states(stack, rows)
        received.clear()
        found = passes(stack)
        assert torch.equal(found[0], expected[0])
        assert found[1] == expected[1]
        assert {each for each, _ in received} == {"sdpa"}


@pytest.mark.usefixtures("anywhere")
def test_under_autocast_all_is_in_one_dtype(received: list[tuple[str, int | None]]) -> None:
    rows, _ = batches()
    with torch.autocast("cpu", torch.bfloat16):
        expected = states(lora_stack("llama", torch.float32, attention="sdpa"), rows)
        for name in ("varlen", "flex"):
            found = states(lora_stack("llama", torch.float32, attention=name), rows)
            assert float((found - expected).norm().detach() / expected.norm().detach()) < 0.03
    assert {name for name, _ in received} == set(PARTS)


@pytest.mark.usefixtures("anywhere")
def test_variable_lengths_need_no_word_from_the_device() -> None:
    waits: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                waits.append(str(func))
            return func(*args, **(kwargs or {}))

    rows, _ = batches()
    stack = lora_stack("llama", attention="varlen")
    expected, inner = states(stack, rows), attention.varlen_attn

    def quiet(*args: Any, **kwargs: Any) -> Tensor:  # the stand-in waits, and torch's does not
        before = len(waits)
        out: Tensor = inner(*args, **kwargs)
        del waits[before:]
        return out

    attention.varlen_attn = quiet  # undone with the fixture's own change
    with Count():  # type: ignore[no-untyped-call]
        hidden = stack.hidden(rows["input_ids"], rows["attention_mask"], rows["position_ids"], rows["sample_bounds"])
    assert waits == []
    assert torch.equal(hidden[rows["attention_mask"].bool()], expected)
    torch.testing.assert_close(states(stack, {**rows, "sample_bounds": None}), expected)


def test_auto_says_once_what_it_took(anywhere: None, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = batches()
    for family, taken in (
        ("llama", "torch's varlen_attn"),
        ("gpt2", "a block mask (the student's attention drops 0.1"),
    ):
        stack = lora_stack(family) if family == "llama" else AdapterStack(model_of(family, torch.float64), family)
        for _ in range(2):
            states(stack, rows)
        assert capsys.readouterr().err.startswith(f"attention of packed rows: {taken}")
        assert (stack.base.config._attn_implementation == VARLEN) == (family == "llama")


def test_auto_takes_the_block_mask_if_a_pass_fails(
    anywhere: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("no kernel image is available\nfor this card")

    monkeypatch.setattr(attention, "varlen_attn", broken)
    rows, _ = batches()
    found = states(lora_stack("llama"), rows)
    assert torch.equal(found, states(lora_stack("llama", attention="sdpa"), rows))
    assert capsys.readouterr().err == "attention of packed rows: a block mask (no kernel image is available)\n"


GPU = "varlen_attn needs an NVIDIA GPU"
REFUSED: list[tuple[str, str, bool, str]] = [
    ("llama", "varlen", False, GPU),
    ("llama", "flex", False, "FlexAttention does not train on a CPU"),
    ("gpt2", "varlen", True, "the student's attention drops 0.1"),
    ("gemma2", "varlen", True, "transformers gives Gemma2Model no other attention"),
    ("bloom", "varlen", True, "transformers gives BloomModel no other attention"),
    ("lfm2", "varlen", True, "does not keep packed samples apart"),
]


@pytest.mark.parametrize(("family", "name", "machine", "problem"), REFUSED)
def test_what_cannot_be_had_is_refused(
    family: str, name: Any, machine: bool, problem: str, request: pytest.FixtureRequest
) -> None:
    if machine:
        request.getfixturevalue("anywhere")
    with pytest.raises(InputError, match=problem) as caught:
        prepare_packing(model_of(family, torch.float32), name)
    assert str(caught.value).count("\n") == 1


def test_an_old_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_OPTIONS", {})
    with pytest.raises(InputError, match=r"needs torch 2\.11"):
        prepare_packing(model_of("llama", torch.float32), "varlen")


def test_what_only_a_pass_can_tell(anywhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_window_of", lambda module: 9)
    with pytest.raises(InputError, match="not told the student's window of 9"):
        prepare_packing(model_of("mistral", torch.float32), "varlen")
    monkeypatch.setitem(APART, "llama", {**SHAPE, "head_dim": 12})
    with pytest.raises(InputError, match="takes no heads 12 wide"):
        prepare_packing(model_of("llama", torch.float32), "varlen")
    monkeypatch.setattr(attention, "_DTYPES", (torch.bfloat16,))
    with pytest.raises(InputError, match=r"bfloat16 or float16 .*, and here is torch\.float32"):
        prepare_packing(model_of("llama", torch.float32), "varlen")

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from dust2gold.core.errors import InputError
from lightning_modules.components.sampling.sampler import Sample, sample_each
from lightning_modules.components.sampling.settings import SamplingSettings
from tests.families import tiny_config

VOCABULARY, PAD, EOS, CONTEXT = 40, 0, 2, 64
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS}
SIZES |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}


def tiny_llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


def prompts(lengths: tuple[int, ...] = (5, 9, 3, 7)) -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    ids = torch.full((len(lengths), width), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, width - length :] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        mask[row, width - length :] = 1
    return ids, mask, [f"question/{row}" for row in range(len(lengths))]


def sample(*args: Any) -> list[Sample]:
    """All samples, question by question."""
    return sorted((one for each in sample_each(*args) for one in each), key=lambda one: (one.question_index, one.k))


def run(
    model: Any, settings: SamplingSettings, eos: int | list[int] = EOS, lengths: tuple[int, ...] = (5, 9, 3, 7)
) -> list[Sample]:
    return sample(model, *prompts(lengths), eos, PAD, settings)


def test_greedy_equals_generate(model: Any) -> None:
    ids, mask, _ = prompts()
    settings = SamplingSettings(temperature=0, max_new_tokens=12)
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": EOS, "pad_token_id": PAD}
    expected = model.generate(input_ids=ids, attention_mask=mask, **options)[:, ids.shape[1] :]
    for row, got in zip(expected.tolist(), run(model, settings), strict=True):
        assert got.token_ids == (row[: row.index(EOS)] if EOS in row else row)
        assert got.finished == (EOS in row)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_batched_equals_one_by_one_in_any_order(model: Any, top_p: float) -> None:
    ids, mask, questions = prompts()
    settings = SamplingSettings(samples=5, temperature=0.9, top_p=top_p, max_new_tokens=20, seed=3)
    together = {(s.question_index, s.k): s for s in run(model, settings)}
    assert len(together) == 20
    order = [2, 0, 3, 1]
    shuffled = sample(model, ids[order], mask[order], [questions[row] for row in order], EOS, PAD, settings)
    alone = []
    for row, real in enumerate(mask.bool()):
        prompt, ones = ids[row : row + 1, real], mask[row : row + 1, real]
        alone += [(row, s) for s in sample(model, prompt, ones, [questions[row]], EOS, PAD, settings)]
    for row, other in [*alone, *((order[s.question_index], s) for s in shuffled)]:
        reference = together[row, other.k]
        assert (other.token_ids, other.tokens, other.seed) == (reference.token_ids, reference.tokens, reference.seed)
        assert other.logprob == pytest.approx(reference.logprob, abs=1e-4)
    assert len({tuple(s.token_ids) for s in together.values()}) > 10


LENGTHS = (3, 9, 5, 12, 4, 7, 11, 2, 6)
ENDS = [2, 5, 11, 17]  # of 40 tokens: many samples end soon, some do not


@pytest.mark.parametrize("order", ["as they come", "longest first"])
@pytest.mark.parametrize(("rows", "samples"), [(1, 2), (3, 3), (4, 3), (8, 2), (8, 11), (14, 3)])
def test_refilled_rows_write_what_all_at_once_write(model: Any, rows: int, samples: int, order: str) -> None:
    lengths = LENGTHS if order == "as they come" else tuple(sorted(LENGTHS, reverse=True))
    at_once = SamplingSettings(samples=samples, temperature=1.0, max_new_tokens=40, seed=3, rows=1000)
    expected = run(model, at_once, ENDS, lengths)
    written = [one.tokens for one in expected]
    assert min(written) < 3 < 25 < max(written)
    got = run(model, replace(at_once, rows=rows), ENDS, lengths)
    for one, reference in zip(got, expected, strict=True):
        assert replace(one, logprob=0) == replace(reference, logprob=0)
        assert one.logprob == pytest.approx(reference.logprob, abs=1e-4)


@pytest.mark.parametrize("family", ["mamba", "falcon_h1", "lfm2"])
def test_recurrent_states_follow_their_rows(family: str) -> None:
    """Each sample is what its question alone gives, and its log-probability that of one pass over its text."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family)).eval()
    for weight in model.parameters():
        weight.data.normal_(std=0.3) if weight.dim() > 1 else None
    settings = SamplingSettings(samples=6, temperature=1.0, max_new_tokens=12, seed=3, rows=8)
    ids, mask, questions = prompts()
    got = run(model, settings, ENDS)
    assert len({one.tokens for one in got}) > 2
    for one in got:
        row = one.question_index
        prompt = ids[row : row + 1, mask[row].bool()]
        (alone,) = sample_each(model, prompt, torch.ones_like(prompt), [questions[row]], ENDS, PAD, settings)
        assert alone[one.k].token_ids == one.token_ids
        if not one.finished:
            text = torch.cat([prompt, torch.tensor([one.token_ids])], 1)  # [1, T]
            logprobs = model(input_ids=text, use_cache=False).logits[0].log_softmax(-1)[-one.tokens - 1 : -1]  # [n, V]
            assert one.logprob == pytest.approx(
                float(logprobs.gather(-1, text[0, -one.tokens :, None]).sum()), abs=1e-3
            )


def test_unwritten_memory_never_counts(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = (2, 3, 2, 12, 30, 4)  # later ones need space in front of those before
    settings = SamplingSettings(samples=2, temperature=1.0, max_new_tokens=30, rows=4)
    expected = run(model, settings, ENDS, lengths)
    monkeypatch.setattr(Tensor, "new_empty", lambda self, *shape: self.new_full(shape, float("nan")))
    assert run(model, settings, ENDS, lengths) == expected


def test_slots_do_not_stay_empty(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    forward = model.forward

    def counted(**inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] == 1:
            passes.append(len(inputs["input_ids"]))
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", counted)
    got = run(model, SamplingSettings(4, 1.0, max_new_tokens=40, rows=16), ENDS, LENGTHS * 6)
    tokens = sum(one.tokens - 1 for one in got)  # the first comes from the prefill
    assert max(passes) == 16
    assert sum(passes) < 1.35 * tokens
    assert passes.count(16) > 0.7 * len(passes)  # one shape, until the queue is empty


def test_questions_come_as_they_end(model: Any) -> None:
    settings = SamplingSettings(2, 1.0, max_new_tokens=40, rows=6)
    each = list(sample_each(model, *prompts(LENGTHS), ENDS, PAD, settings))
    assert [[one.k for one in samples] for samples in each] == [[0, 1]] * len(LENGTHS)
    order = [samples[0].question_index for samples in each]
    assert sorted(order) == list(range(len(LENGTHS))) != order


def test_whole_samples_follow_the_distribution() -> None:
    """Probabilities of all sequences of up to three of five tokens, enumerated in float64, against 6,000 samples."""
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 16, "vocab_size": 5}
    config = LlamaConfig(initializer_range=0.6, **sizes)
    tiny = LlamaForCausalLM(config).eval()
    prompt, end, n = torch.tensor([[3, 1, 4]]), 2, 6000
    drawn = sample(tiny, prompt, torch.ones_like(prompt), ["q"], end, 0, SamplingSettings(n, 1.2, 1.0, 3, 7, rows=50))
    counts = Counter(tuple([*one.token_ids, end] if one.finished else one.token_ids) for one in drawn)
    exact = copy.deepcopy(tiny).double()
    expected: dict[tuple[int, ...], float] = {}

    def enumerate_from(tokens: tuple[int, ...], probability: float) -> None:
        if len(tokens) == 3 or end in tokens:
            expected[tokens] = probability
            return
        with torch.no_grad():
            logits = exact(torch.cat([prompt[0], torch.tensor(tokens, dtype=torch.int64)])[None]).logits[0, -1]
        for token, share in enumerate((logits / 1.2).softmax(-1).tolist()):
            enumerate_from((*tokens, token), probability * share)

    enumerate_from((), 1.0)
    assert sum(expected.values()) == pytest.approx(1)
    assert len(expected) == 1 + 4 + 16 * 5
    assert counts.keys() <= expected.keys()
    statistic = sum((counts[tokens] - n * p) ** 2 / (n * p) for tokens, p in expected.items())
    degrees = len(expected) - 1
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5


def test_fewer_samples_and_a_lower_cap_are_prefixes(model: Any) -> None:
    long = {(s.question_index, s.k): s for s in run(model, SamplingSettings(samples=4, max_new_tokens=20))}
    for short in run(model, SamplingSettings(samples=2, max_new_tokens=7)):
        assert short.token_ids == long[short.question_index, short.k].token_ids[:7]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprob_equals_teacher_forcing_at_temperature_one(temperature: float) -> None:
    model = tiny_llama()
    ids, mask, _ = prompts()
    samples = run(model, SamplingSettings(samples=3, temperature=temperature, top_p=0.9, max_new_tokens=15))
    exact = tiny_llama().double()
    for s in samples:
        prompt = ids[s.question_index, mask[s.question_index].bool()]
        generated = torch.tensor([*s.token_ids, EOS] if s.finished else s.token_ids)
        assert s.tokens == len(generated)
        with torch.no_grad():
            logits = exact(input_ids=torch.cat([prompt, generated])[None]).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[torch.arange(len(generated)), generated].sum().item()
        assert s.logprob == pytest.approx(expected, abs=1e-3)


def filtered(logits: Tensor, temperature: float, top_p: float) -> list[float]:
    """Slow float64 reference: temperature, then tokens from the most probable on until their mass reaches top_p."""
    weights = [float(torch.exp((value - logits.max()) / temperature)) for value in logits.double()]
    probabilities = [weight / sum(weights) for weight in weights]
    kept, mass = [0.0] * len(weights), 0.0
    for token in sorted(range(len(weights)), key=lambda token: -probabilities[token]):
        if mass >= top_p:
            break
        kept[token] = probabilities[token]
        mass += probabilities[token]
    return [value / mass for value in kept]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.3, 0.7), (0.8, 0.95)])
def test_first_tokens_follow_the_distribution(model: Any, temperature: float, top_p: float) -> None:
    ids, n = prompts((6,))[0], 4000
    settings = SamplingSettings(samples=n, temperature=temperature, top_p=top_p, max_new_tokens=1, seed=11)
    drawn = run(model, settings, -1, (6,))
    counts = torch.bincount(torch.tensor([s.token_ids[0] for s in drawn]), minlength=VOCABULARY).double()
    with torch.no_grad():
        expected = n * torch.tensor(filtered(model(ids).logits[0, -1], temperature, top_p), dtype=torch.float64)
    assert counts[expected == 0].sum() == 0
    large = expected >= 5
    observed = torch.cat([counts[large], counts[~large].sum()[None]])
    wanted = torch.cat([expected[large], expected[~large].sum()[None]])
    statistic = ((observed - wanted) ** 2 / wanted.clamp(min=1)).sum().item()
    degrees = int(large.sum())
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5 + 4


def test_eos_ends_a_sample_and_counts_as_a_token(model: Any) -> None:
    free = run(model, SamplingSettings(samples=4, max_new_tokens=25), eos=-1)
    assert all(s.tokens == 25 == len(s.token_ids) and not s.finished for s in free)
    ends = [free[0].token_ids[3], free[5].token_ids[9]]
    for s, whole in zip(run(model, SamplingSettings(samples=4, max_new_tokens=25), eos=ends), free, strict=True):
        at = next((place for place, token in enumerate(whole.token_ids) if token in ends), None)
        assert s.finished == (at is not None)
        assert s.token_ids == whole.token_ids[:at]
        assert s.tokens == (25 if at is None else at + 1)


def test_eos_as_first_token(model: Any) -> None:
    for s in run(model, SamplingSettings(samples=2), eos=list(range(VOCABULARY))):
        assert (s.token_ids, s.tokens, s.finished, s.logprob < 0) == ([], 1, True, True)


def test_a_peft_model_samples_with_its_adapter(model: Any) -> None:
    adapted = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])).eval()
    settings = SamplingSettings(samples=3, max_new_tokens=15)
    plain = [s.token_ids for s in run(model, settings)]
    assert [s.token_ids for s in run(adapted, settings)] == plain  # LoRA's B starts at zero
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    assert [s.token_ids for s in run(adapted, settings)] != plain


def test_sliding_windows_keep_their_stock_layers() -> None:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)).eval()
    ids, mask, _ = prompts((8, 8))
    expected = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=12, eos_token_id=-1)
    for rows in (64, 1):  # such layers take no new rows: the next question waits until all have ended
        settings = SamplingSettings(temperature=0, max_new_tokens=12, rows=rows)
        got = run(model, settings, -1, (8, 8))
        assert [s.token_ids for s in got] == expected[:, 8:].tolist()


def test_the_global_random_state_is_untouched(model: Any) -> None:
    before = torch.get_rng_state()
    run(model, SamplingSettings(samples=2, max_new_tokens=5))
    assert torch.equal(before, torch.get_rng_state())


def test_context_limit_is_per_prompt(model: Any) -> None:
    settings = SamplingSettings(max_new_tokens=10)
    got = run(model, settings, -1, (CONTEXT - 4, 3))
    assert [(s.tokens, s.finished) for s in got] == [(4, False), (10, False)]
    with pytest.raises(InputError, match=r"question/1.*64 tokens"):
        run(model, settings, EOS, (4, CONTEXT))


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (0.7, 1.0), (0.7, 0.9)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, temperature: float, top_p: float) -> None:
    model = tiny_llama()
    model.get_decoder().norm.weight.data.fill_(value)
    with pytest.raises(InputError, match=r"are no numbers \(question 'question/"):
        run(model, SamplingSettings(2, temperature, top_p, max_new_tokens=3))


def test_misuse_is_refused() -> None:
    ids, mask, questions = prompts()
    with pytest.raises(ValueError, match="eval"):
        run(tiny_llama().train(), SamplingSettings())
    with pytest.raises(ValueError, match="left-padded"):
        sample(tiny_llama(), ids.flip(1), mask.flip(1), questions, EOS, PAD, SamplingSettings())


def test_learned_positions_never_leave_the_context() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    gpt2 = GPT2LMHeadModel(config).eval()
    lengths = (12, 4, 4, 4, 4, 4, 4, 4)  # the first ends alone, too few to leave the batch
    written = run(gpt2, SamplingSettings(max_new_tokens=10), VOCABULARY, lengths)
    assert [one.tokens for one in written] == [4] + [10] * 7

"""n rationales per question from one prefill, each from a seed of its own (PAPER.md, stages 2 and 3).

A sample depends on its prompt, its seed and the settings only, never on the rows it happened to be batched with: a
resumed or re-sharded run writes the same samples. (Up to rounding: matrix products of other shapes differ in the last
bits, which moves a token when its uniform falls within about 1e-7 of a boundary.)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foundation.errors import InputError
from lightning_modules.components.cache import roomy_cache

COMPACT_BELOW = 0.85
"""Finished rows leave the batch once the living are fewer than this share of it: copying the cache costs about as much
as one step, so it pays off within a few."""


@dataclass(slots=True)  # not frozen: Lightning moves the fields of what predict_step returns
class Sample:
    """One generated rationale.

    Attributes:
        question_index: Row of the question in the batch.
        k: Number of the sample within its question, from 0.
        token_ids: The generated tokens without EOS.
        logprob: Natural log-probability of the generated tokens, EOS included, under the model's full distribution at
            temperature 1, whatever temperature and top-p drew them.
        tokens: Number of generated tokens, EOS included.
        seed: Seed of its random numbers (unused by greedy decoding).
        finished: Whether it ended in EOS and not at the cap.
    """

    question_index: int
    k: int
    token_ids: list[int]
    logprob: float
    tokens: int
    seed: int
    finished: bool


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample.

    Args:
        samples: Samples per question.
        temperature: Divides the logits; 0 takes the most probable token (greedy).
        top_p: Keeps the smallest set of most probable tokens whose mass reaches this, after the temperature.
        max_new_tokens: Cap on the generated tokens, EOS included.
        seed: Base seed, see `sample_seed`.

    Raises:
        InputError: If a value is out of range.
    """

    samples: int = 1
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"must be at least 1, found {getattr(self, name)}", field=name)
        if not 0 <= self.temperature < math.inf:
            raise InputError(
                f"must be finite and not negative, found {self.temperature}", field="temperature", remedy="0 is greedy"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(
                f"must be in (0, 1], found {self.top_p}", field="top_p", remedy="1 keeps the whole distribution"
            )


def sample_seed(base_seed: int, question_id: str, k: int) -> int:
    """A 63-bit seed for sample `k` of a question, the same on every machine, in every batch and order."""
    digest = hashlib.blake2b(f"{base_seed}\0{k}\0{question_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float = 1.0) -> Tensor:
    """Draws one token per row by inverting the cumulative distribution in the order of the vocabulary.

    Args:
        logits: [R, V].
        uniforms: [R] float64 in [0, 1), one per row.
        temperature: Positive.
        top_p: In (0, 1]; 1 skips the sort.

    Returns:
        [R] int64 token ids.
    """
    logits = logits.float()
    # Shifted first, so that a tiny temperature sends the others to −inf and none to +inf.
    probabilities = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_p < 1:
        ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
        mass_before = ranked.double().cumsum(-1) - ranked
        ranked = ranked.masked_fill(mass_before >= top_p, 0.0)
        probabilities = torch.empty_like(ranked).scatter_(-1, order, ranked)
    cumulative = probabilities.double().cumsum(-1)
    # A float64 uniform is at most 1 − 2⁻⁵³, so the product rounds below the total and a token of probability 0 is
    # never reached.
    threshold = uniforms.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


class _Rows:
    """The rows being written, one per sample; finished ones may have left.

    `ids` [A] are their numbers in the outputs (R = Q·n rows, row q·n + k), `mask` [A, P + T] covers prompt and cap.
    """

    def __init__(self, mask: Tensor, limits: Tensor, settings: SamplingSettings, seeds: Sequence[int]) -> None:
        device, steps = mask.device, int(limits.max())
        self.settings = settings
        self.ids = torch.arange(len(mask), device=device)
        self.alive = torch.ones(len(mask), dtype=torch.bool, device=device)
        self.limits = limits
        self.lengths = mask.sum(1)
        self.mask = torch.cat([mask, mask.new_ones(len(mask), steps)], dim=1)
        self.uniforms = uniform_block(seeds, steps).to(device) if settings.temperature > 0 else None
        self.tokens = torch.zeros(len(mask), steps, dtype=torch.int64, device=device)
        self.counts = torch.zeros(len(mask), dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(len(mask), dtype=torch.float64, device=device)
        self.finished = torch.zeros(len(mask), dtype=torch.bool, device=device)

    def write(self, logits: Tensor, step: int, eos: Tensor) -> Tensor:
        """Chooses token number `step` of each row from logits [A, V], books it and returns it, [A]."""
        logits = logits.float()
        if self.uniforms is None:
            chosen = logits.argmax(-1)
        else:
            uniforms = self.uniforms[self.ids, step]
            chosen = draw_tokens(logits, uniforms, self.settings.temperature, self.settings.top_p)
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
        ended = torch.isin(chosen, eos) & self.alive
        self.tokens[self.ids, step] = chosen
        self.counts[self.ids] += self.alive
        self.logprobs[self.ids] += torch.where(self.alive, logprobs, 0.0)
        self.finished[self.ids] |= ended
        self.alive = self.alive & ~ended & (step + 1 < self.limits)
        return chosen

    def compact(self) -> Tensor | None:
        """Lets finished rows go where that pays, and returns the places [A'] of those that stay."""
        living = int(self.alive.sum())
        if living >= COMPACT_BELOW * len(self.alive):
            return None
        keep = self.alive.nonzero()[:, 0]
        self.ids, self.alive, self.limits = self.ids[keep], self.alive[keep], self.limits[keep]
        self.lengths, self.mask = self.lengths[keep], self.mask[keep]
        return keep


def uniform_block(seeds: Sequence[int], steps: int) -> Tensor:
    """Random numbers [R, steps], float64 in [0, 1), row r from seeds[r] alone; more steps only lengthen the rows.

    They are drawn on the CPU whatever the model runs on: every device sees the same numbers. (PyTorch's CPU generator
    keeps the lower 32 bits of a seed: of N samples about N²/2³³ pairs share their numbers, rarely on one question.)
    """
    block = torch.empty(len(seeds), steps, dtype=torch.float64)
    generator = torch.Generator()
    for row, seed in zip(block, seeds, strict=True):
        generator.manual_seed(seed)
        row.uniform_(generator=generator)
    return block


@torch.inference_mode()
def sample(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    question_ids: Sequence[str],
    eos_token_id: int | Sequence[int],
    pad_token_id: int,
    settings: SamplingSettings,
) -> list[Sample]:
    """Generates `settings.samples` rationales for each prompt.

    Args:
        model: A Hugging Face causal language model or a `PeftModel` around one, in eval mode.
        input_ids: [Q, P] int64 prompts, left-padded.
        attention_mask: [Q, P], 0 at the padding.
        question_ids: Q ids, from which the seeds are made.
        eos_token_id: The token or tokens that end a rationale.
        pad_token_id: What finished rows are fed while they stay in the batch.
        settings: How to sample.

    Returns:
        Q·n samples, question by question. A prompt that leaves less than `max_new_tokens` of the model's context gets
        what is left.

    Raises:
        InputError: If a prompt fills the model's context.
        ValueError: If the model is in training mode or the prompts are not left-padded.
    """
    if model.training:
        raise ValueError("sampling needs the model in eval mode: dropout would change the samples")
    if not bool(attention_mask[:, -1].all()):
        raise ValueError("the prompts must be left-padded")
    n = settings.samples
    mask = attention_mask.long()
    limits = _token_limits(model.config, mask.sum(1), question_ids, settings.max_new_tokens)
    seeds = [sample_seed(settings.seed, question, k) for question in question_ids for k in range(n)]
    rows = _Rows(mask.repeat_interleave(n, 0), limits.repeat_interleave(n, 0), settings, seeds)
    eos = torch.tensor([eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id), device=input_ids.device)
    _decode(model, input_ids, mask, rows, eos, pad_token_id)
    return _collect(rows, n, seeds)


def _token_limits(config: Any, prompt_lengths: Tensor, question_ids: Sequence[str], max_new_tokens: int) -> Tensor:
    """[Q] new tokens each prompt may have, from its own length: padding takes no positions."""
    context: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if context is None:
        return torch.full_like(prompt_lengths, max_new_tokens)
    limits = (context - prompt_lengths).clamp(max=max_new_tokens)
    for question, length, limit in zip(question_ids, prompt_lengths.tolist(), limits.tolist(), strict=True):
        if limit < 1:
            raise InputError(
                f"the prompt of question '{question}' has {length} tokens and the model's context is {context}",
                field="question",
                remedy="shorten the question, leave it out, or take a student with a longer context",
            )
    return limits


def _decode(model: Any, input_ids: Tensor, mask: Tensor, rows: _Rows, eos: Tensor, pad_token_id: int) -> None:
    """One prefill of [Q, P], then a token per step for each sample until all have ended."""
    cache = roomy_cache(model.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=input_ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
        logits_to_keep=1,
    )  # fmt: skip
    n, width = rows.settings.samples, mask.shape[1]
    logits = output.logits[:, -1].repeat_interleave(n, 0)
    cache.batch_repeat_interleave(n)
    for step in range(rows.tokens.shape[1]):
        chosen = rows.write(logits, step, eos)
        chosen = torch.where(rows.alive, chosen, pad_token_id)
        if (keep := rows.compact()) is not None:
            if not len(keep):
                return
            chosen = chosen[keep]
            cache.batch_select_indices(keep)
        # A row that reached its own limit stays for a while: its position must not leave the context.
        positions = rows.lengths + (rows.limits - 1).clamp(max=step)
        output = model(
            input_ids=chosen[:, None], attention_mask=rows.mask[:, : width + step + 1],
            position_ids=positions[:, None], past_key_values=cache, use_cache=True,
        )  # fmt: skip
        logits = output.logits[:, -1]


def _collect(rows: _Rows, n: int, seeds: Sequence[int]) -> list[Sample]:
    """Takes everything off the device at once."""
    columns = zip(
        rows.tokens.tolist(), rows.counts.tolist(), rows.logprobs.tolist(), rows.finished.tolist(), seeds, strict=True
    )
    return [
        Sample(row // n, row % n, tokens[: count - finished], logprob, count, seed, finished)
        for row, (tokens, count, logprob, finished, seed) in enumerate(columns)
    ]

"""Continuous batching: a question takes the slots of samples that have ended.

The number of slots is fixed: a pass through the model always has the same number of rows until no question waits. A new
question is prefilled once, its n samples are put into n free slots and their first tokens drawn; then it goes on with
the others, one token a step. When the queue is empty the batch shrinks as samples end.

Recurrent states (Mamba's kind) know no padding, so their questions are sampled one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache

from lightning_modules.components.sampling.cache import (
    cache_argument,
    is_recurrent,
    preallocated_cache,
    replace_rows,
    select_rows,
    takes_new_rows,
    trim_rows,
)
from lightning_modules.components.sampling.rng import draw_tokens, uniform_block
from lightning_modules.components.sampling.settings import SamplingSettings

COMPACT_BELOW = 0.85
"""Ended rows leave the batch once the unfinished are fewer than this share of it and no question waits: copying the
cache costs about as much as one step, so it pays off within a few."""

REFILL_FROM = 0.125
"""Share of the slots that must be free before new questions are prefilled: less would prefill single prompts, more
would leave slots empty."""


class Prompts(NamedTuple):
    """Q prompts: ids [Q, P], left-padded; mask [Q, P]; limits [Q] of new tokens."""

    ids: Tensor
    mask: Tensor
    limits: Tensor


class Completion(NamedTuple):
    """One ended sample: its number (question q's k-th is q·n + k), its tokens with EOS, their log-probability."""

    number: int
    tokens: list[int]
    logprob: float
    finished: bool


class _Slots:
    """The state of R rows being decoded, one a slot; an ended row keeps its slot until it is collected.

    Attributes:
        numbers: [R] the sample in each slot, -1 for none, on the CPU.
        alive: [R] bool, whether it continues.
        lengths: [R] tokens so far, prompt included: a row is the last so many positions of the cache.
        limits: [R] new tokens it may have.
        counts: [R] new tokens so far.
        tokens: [R, steps] the new tokens.
        uniforms: [R, steps] float64, the random numbers that choose them.
        logprobs: [R] float64, sum of their log-probabilities.
        finished: [R] bool, whether it ended in EOS.
    """

    def __init__(self, rows: int, steps: int, settings: SamplingSettings, device: torch.device) -> None:
        self.settings = settings
        self.numbers = [-1] * rows
        self.alive = torch.zeros(rows, dtype=torch.bool, device=device)
        self.lengths = torch.ones(rows, dtype=torch.int64, device=device)
        self.limits = torch.zeros_like(self.lengths)
        self.counts = torch.zeros_like(self.lengths)
        self.tokens = torch.zeros(rows, steps, dtype=torch.int64, device=device)
        self.uniforms = torch.zeros(rows, steps, dtype=torch.float64, device=device)
        self.logprobs = torch.zeros(rows, dtype=torch.float64, device=device)
        self.finished = torch.zeros_like(self.alive)

    def start(
        self, slots: Tensor, numbers: Sequence[int], seeds: Sequence[int], lengths: Tensor, limits: Tensor
    ) -> None:
        """Starts samples in free slots [A], with prompts of `lengths` [A]."""
        for slot, number in zip(slots.tolist(), numbers, strict=True):
            self.numbers[slot] = number
        self.alive[slots] = True
        self.lengths[slots], self.limits[slots] = lengths, limits
        self.counts[slots], self.logprobs[slots], self.finished[slots] = 0, 0.0, False
        if self.settings.temperature > 0:
            self.uniforms[slots] = uniform_block(seeds, self.uniforms.shape[1]).to(self.uniforms.device)  # [A, steps]

    def append(self, logits: Tensor, slots: Tensor, eos: Tensor) -> Tensor:
        """Chooses the next token of the rows in `slots` [A] from logits [A, V], records it and returns it, [A]."""
        logits = logits.float()  # [A, V]
        alive, counts = self.alive[slots], self.counts[slots]  # [A]
        step = counts.clamp(max=self.tokens.shape[1] - 1)  # [A]; of an ended row: not used
        if self.settings.temperature == 0:
            chosen = logits.argmax(-1)  # [A]
        else:
            uniforms = self.uniforms[slots, step]  # [A]
            chosen = draw_tokens(logits, uniforms, self.settings.temperature, self.settings.top_p)  # [A]
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)  # [A]
        ended = torch.isin(chosen, eos) & alive  # [A]
        self.tokens[slots, step] = torch.where(alive, chosen, self.tokens[slots, step])
        self.logprobs[slots] += torch.where(alive, logprobs, 0.0)
        self.finished[slots] |= ended
        self.counts[slots] = counts + alive
        self.lengths[slots] += alive
        self.alive[slots] = alive & ~ended & (counts + 1 < self.limits[slots])
        return chosen

    def collect(self) -> list[Completion]:
        """Takes the ended samples off the device, all at once, and frees their slots."""
        alive = self.alive.tolist()
        slots = [slot for slot, number in enumerate(self.numbers) if number >= 0 and not alive[slot]]
        if not slots:
            return []
        at = torch.tensor(slots, device=self.alive.device)  # [E]
        columns = (column[at].tolist() for column in (self.tokens, self.counts, self.logprobs, self.finished))
        ended = []
        for slot, tokens, count, logprob, finished in zip(slots, *columns, strict=True):
            ended.append(Completion(self.numbers[slot], tokens[:count], logprob, finished))
            self.numbers[slot] = -1
        return ended

    def keep(self, slots: Tensor) -> None:
        self.numbers = [self.numbers[slot] for slot in slots.tolist()]
        for name in ("alive", "lengths", "limits", "counts", "tokens", "uniforms", "logprobs", "finished"):
            setattr(self, name, getattr(self, name)[slots])

    def unfinished(self) -> int:
        return int(self.alive.sum())

    def free(self) -> list[int]:
        return [slot for slot, number in enumerate(self.numbers) if number < 0]

    def longest(self) -> int:
        """Positions of the cache that the unfinished rows use; the tokens appended last are not in it yet."""
        return int(torch.where(self.alive, self.lengths, 1).max()) - 1


class Decoder:
    """Generates n samples for each prompt; iterating over it once gives each as it ends, in no particular order.

    The prompts start in their order. `seeds` are Q·n, question by question. The tokens `eos` [E] end a sample; ended
    rows are fed `pad`.
    """

    def __init__(
        self, model: Any, prompts: Prompts, seeds: Sequence[int], settings: SamplingSettings, eos: Tensor, pad: int
    ) -> None:
        self._model, self._prompts, self._seeds, self._settings = model, prompts, seeds, settings
        self._eos, self._pad = eos, pad
        self._steps = int(prompts.limits.max())
        self._queue = deque(_started_together(len(prompts.ids), settings.samples, settings.rows))
        self._device = prompts.ids.device
        self._slots = _Slots(0, self._steps, settings, self._device)
        self._cache: DynamicCache = preallocated_cache(model.config)
        self._recurrent = is_recurrent(self._cache)
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self._cache_argument = cache_argument(base)
        self._last = torch.empty(0, dtype=torch.int64, device=self._device)  # [R] each row's last token

    def __iter__(self) -> Iterator[Completion]:
        while True:
            unfinished = self._slots.unfinished()
            if self._queue and (unfinished == 0 or self._can_refill(len(self._last) - unfinished)):
                yield from self._slots.collect()
                self._refill(fresh=unfinished == 0)
            elif unfinished == 0:
                yield from self._slots.collect()
                return
            else:
                if not self._queue and unfinished < COMPACT_BELOW * len(self._last):
                    yield from self._slots.collect()
                    self._compact()
                self._step()

    def _can_refill(self, free: int) -> bool:
        return free >= max(len(self._queue[0]), REFILL_FROM * len(self._last)) and takes_new_rows(self._cache)

    def _refill(self, fresh: bool) -> None:
        """Prefills as many questions as there are slots for and draws their samples' first tokens."""
        free = self._settings.rows if fresh else len(self._slots.free())
        numbers = self._queue.popleft()
        while self._queue and len(numbers) + len(self._queue[0]) <= free and not self._recurrent:
            numbers += self._queue.popleft()
        n = self._settings.samples
        questions = torch.tensor(sorted({number // n for number in numbers}), device=self._device)  # [Q']
        prompt_of = torch.tensor([number // n for number in numbers], device=self._device)  # [A], one a sample
        cache, logits = self._prefill(questions)
        rows = torch.searchsorted(questions, prompt_of)  # [A], each sample's row of the prefill
        if fresh:
            self._cache = cache
            select_rows(cache, rows)
            self._slots = _Slots(len(numbers), self._steps, self._settings, self._device)
            self._last = torch.full_like(prompt_of, self._pad)
        slots = torch.tensor(self._slots.free()[: len(numbers)], device=self._device)  # [A]
        if not fresh:
            longest = max(self._slots.longest(), cache.get_seq_length())
            replace_rows(self._cache, slots, cache, rows, longest)
        seeds = [self._seeds[number] for number in numbers]
        lengths = self._prompts.mask[prompt_of].sum(1)  # [A]
        self._slots.start(slots, numbers, seeds, lengths, self._prompts.limits[prompt_of])
        self._last[slots] = self._slots.append(logits[rows], slots, self._eos)

    def _prefill(self, questions: Tensor) -> tuple[DynamicCache, Tensor]:
        """One pass over prompts [Q']: their cache, and the logits [Q', V] of their first tokens."""
        ids, mask = self._prompts.ids[questions], self._prompts.mask[questions]  # [Q', P]
        width = int(mask.sum(1).max())
        ids, mask = ids[:, -width:], mask[:, -width:]  # [Q', width]
        cache = preallocated_cache(self._model.config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # [Q', width]
        return cache, self._logits(ids, None if self._recurrent else mask, positions, cache, logits_to_keep=1)

    def _step(self) -> None:
        """One token for each unfinished row."""
        slots = self._slots
        ids = torch.where(slots.alive, self._last, self._pad)[:, None]  # [R, 1]
        mask = None
        if not self._recurrent:
            width = self._cache.get_seq_length() + 1
            mask = torch.arange(width, device=self._device) >= width - slots.lengths[:, None]  # [R, width]
        logits = self._logits(ids, mask, slots.lengths[:, None] - 1, self._cache)
        everyone = torch.arange(len(ids), device=self._device)  # [R]
        self._last = slots.append(logits, everyone, self._eos)

    def _logits(self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache, **more: Any) -> Tensor:
        """Writes ids [R, t] at their positions into the cache; the logits [R, V] of the last."""
        more |= {"use_cache": True, self._cache_argument: cache}
        mask = None if mask is None else mask.long()
        logits: Tensor = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, **more).logits
        return logits[:, -1]  # [R, V]

    def _compact(self) -> None:
        keep = self._slots.alive.nonzero()[:, 0]  # [unfinished]
        self._slots.keep(keep)
        self._last = self._last[keep]
        select_rows(self._cache, keep)
        trim_rows(self._cache, self._slots.longest())


def _started_together(questions: int, samples: int, rows: int) -> Iterator[list[int]]:
    """The numbers of the samples that start together: a question's, or `rows` of them where it has more."""
    for question in range(questions):
        numbers = range(question * samples, (question + 1) * samples)
        for start in range(0, samples, rows):
            yield list(numbers[start : start + rows])

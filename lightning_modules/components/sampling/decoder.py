"""Continuous batching: a question takes the slots of samples that have ended.

The number of slots is fixed: a pass through the model always has the same number of rows until no question waits. A new
question is prefilled once, its n samples are put into n free slots and their first tokens drawn; then it goes on with
the others, one token a step. When the queue is empty the batch shrinks as samples end.

A step, from the last tokens to the next ones, works on tensors that stay where they are: on a GPU it is captured once
for each number of rows and width of the cache. The host knows how long rows can be without asking, and asks only every
few tokens which have ended; what is drawn behind a row's end is thrown away.

Students with other layers than full attention keep a cache that grows, and rows that have begun together. Recurrent
states (Mamba's kind) know no padding either, so their questions are sampled one after the other.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache

from lightning_modules.components.sampling.cache import (
    SlotCache,
    cache_argument,
    is_recurrent,
    select_rows,
    takes_slots,
    width_for,
)
from lightning_modules.components.sampling.graphs import CapturedSteps, captures
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.components.sampling.slots import Completion, Slots

COMPACT_BELOW, COMPACT_CAPTURED_BELOW = 0.85, 0.5
"""Ended rows leave the batch once the unfinished are fewer than this share of it and no question waits: copying the
cache costs about as much as one step, so it pays off within a few; capturing a graph anew costs more."""

REFILL_FROM = 0.125
"""Share of the slots that must be free before new questions are prefilled: less would prefill single prompts, more
would leave slots empty."""

READ_EVERY = 4
"""Tokens after which the host asks a GPU which rows have ended: asking waits for it, and ended rows cost steps."""

ROWS = 64
"""Samples at a time where the user says nothing and the device's memory does not decide."""

CACHE_SHARE = 0.6
"""Of a GPU's free memory, for the cache at its widest and the logits; the rest is for prefills."""

BYTES_A_LOGIT = 48
"""What drawing a token holds at most: logits in two types, shifted, probabilities, sorted ones, sums in float64."""


class Prompts(NamedTuple):
    """Q prompts: ids [Q, P], left-padded; mask [Q, P]; limits [Q] of new tokens."""

    ids: Tensor
    mask: Tensor
    limits: Tensor


class Decoder:
    """Generates n samples for each prompt; iterating over it once gives each as it ends, in no particular order.

    The prompts start in their order. `seeds` are Q·n, question by question. The tokens `eos` [E] end a sample; ended
    rows are fed `pad`. All of an iteration must happen within one autocast context, or without one.
    """

    def __init__(
        self, model: Any, prompts: Prompts, seeds: Sequence[int], settings: SamplingSettings, eos: Tensor, pad: int
    ) -> None:
        self._model, self._prompts, self._seeds, self._settings = model, prompts, seeds, settings
        self._eos, self._pad = eos, pad
        self._device = prompts.ids.device
        self._lengths, self._limits = prompts.mask.sum(1).tolist(), prompts.limits.tolist()
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self._cache_argument, self._head = cache_argument(base), base.get_output_embeddings()
        self._recurrent, self._static = is_recurrent(DynamicCache(config=model.config)), takes_slots(base)
        self._cache: Any = None
        self._graphs = CapturedSteps(self._device)
        self._slots = Slots(0, 0, settings, self._device)
        self._rows = self._choose_rows()
        queue = _started_together(len(prompts.ids), settings.samples, self._rows)
        self._queue = deque(sorted(queue, key=self._widest) if settings.exact else queue)

    def __iter__(self) -> Iterator[Completion]:
        on_gpu, exact = captures(self._device), self._settings.exact
        while True:
            yield from self._slots.collect()
            occupied, rows = len(self._slots.occupied()), len(self._slots.numbers)
            if self._queue and (occupied == 0 or self._can_refill(rows - occupied)):
                self._refill(fresh=rows == 0 or not self._static)
            elif occupied == 0:
                return
            else:
                compact_below = COMPACT_CAPTURED_BELOW if on_gpu and self._static else COMPACT_BELOW
                if not self._queue and not exact and occupied < compact_below * rows:
                    self._compact()
                for _ in range(min(READ_EVERY if on_gpu else 1, self._slots.left())):
                    self._step()

    def _can_refill(self, free: int) -> bool:
        if not self._static or (self._settings.exact and self._widest(self._queue[0]) != self._cache.place.width):
            return False
        return free >= max(len(self._queue[0]), REFILL_FROM * len(self._slots.numbers))

    def _refill(self, fresh: bool) -> None:
        """Prefills as many questions as there are slots for and draws their samples' first tokens."""
        free = self._rows if fresh else len(self._slots.free())
        numbers = self._queue.popleft()
        alone = self._recurrent or self._settings.exact
        while self._queue and len(numbers) + len(self._queue[0]) <= free and not alone:
            numbers += self._queue.popleft()
        prompts = [number // self._settings.samples for number in numbers]  # [A], one a sample
        questions = sorted(set(prompts))  # [Q']
        cache, logits = self._prefill(questions)
        rows = torch.tensor([questions.index(q) for q in prompts], device=self._device)  # [A], of the prefill
        if fresh:
            kept = self._rows if self._static and self._settings.exact else len(numbers)
            self._slots = Slots(kept, max(self._limits), self._settings, self._device)
            self._cache = SlotCache(cache, kept, self._device) if self._static else cache
        lengths, limits = ([column[q] for q in prompts] for column in (self._lengths, self._limits))
        seeds = [self._seeds[number] for number in numbers]
        slots = self._slots.start(self._slots.free()[: len(numbers)], numbers, seeds, lengths, limits)  # [A]
        if self._static:
            self._show(self._widest(numbers) if self._settings.exact else width_for(cache.get_seq_length()))
            self._cache.write(slots, cache, rows, self._slots.lengths[slots])
        else:
            select_rows(cache, rows)
        self._slots.append(logits[rows], slots, self._eos)

    def _prefill(self, questions: list[int]) -> tuple[DynamicCache, Tensor]:
        """One pass over prompts [Q']: their cache, and the logits [Q', V] of their first tokens."""
        width, at = max(self._lengths[q] for q in questions), torch.tensor(questions, device=self._device)
        ids, mask = self._prompts.ids[at, -width:], self._prompts.mask[at, -width:]  # [Q', width]
        cache = DynamicCache(config=self._model.config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # [Q', width]
        return cache, self._logits(ids, None if self._recurrent else mask, positions, cache, logits_to_keep=1)

    def _step(self) -> None:
        """One token for each unfinished row."""
        if self._static:
            if not self._settings.exact:
                self._show(width_for(self._slots.longest()))
            self._graphs.run((len(self._slots.numbers), self._cache.place.width), self._advance)
        else:
            self._advance()
        self._slots.taken += 1

    def _show(self, width: int) -> None:
        if not self._cache.fits(width):
            self._graphs.forget()
        self._cache.show(width)

    def _advance(self) -> None:
        """A step's work on the device; the host decides nothing in it that is not the same for all rows and tokens."""
        slots, mask = self._slots, None
        ids = slots.last.masked_fill(~slots.alive, self._pad)[:, None]  # [R, 1]
        if self._static:
            mask = self._cache.place_tokens(slots.lengths)  # [R, 1, 1, width]
        elif not self._recurrent:
            width = self._cache.get_seq_length() + 1
            mask = (torch.arange(width, device=self._device) >= width - slots.lengths[:, None]).long()  # [R, width]
        logits = self._logits(ids, mask, slots.lengths[:, None] - 1, self._cache)
        slots.append(logits, torch.arange(len(ids), device=self._device), self._eos)

    def _logits(self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache, **more: Any) -> Tensor:
        """Writes ids [R, t] at their positions into the cache; the logits [R, V] of the last."""
        more |= {"use_cache": True, self._cache_argument: cache}
        with _float32_output(self._head) if self._settings.exact else contextlib.nullcontext():
            logits: Tensor = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, **more).logits
        return logits[:, -1]  # [R, V]

    def _compact(self) -> None:
        kept = self._slots.keep(self._slots.occupied())  # [R']
        if self._static:
            self._graphs.forget()
            self._cache.keep(kept)
        else:
            select_rows(self._cache, kept)

    def _widest(self, numbers: list[int]) -> int:
        """The width that a question's samples can come to need."""
        question = numbers[0] // self._settings.samples
        return width_for(self._lengths[question] + self._limits[question])

    def _choose_rows(self) -> int:
        """The samples at a time: the user's number, or as many as a GPU's free memory holds at their longest."""
        settings = self._settings
        if settings.rows is not None or settings.exact or not self._static or not captures(self._device):
            return settings.rows or ROWS
        cache, one = DynamicCache(config=self._model.config), self._prompts.ids[:1, -1:]  # [1, 1]
        logits = self._logits(one, torch.ones_like(one), torch.zeros_like(one), cache)  # [1, V]
        position = SlotCache(cache, 1, self._device).bytes_a_position()
        longest = max(map(sum, zip(self._lengths, self._limits, strict=True)))
        row = width_for(longest) * position + BYTES_A_LOGIT * logits.numel()
        return min(max(1, int(CACHE_SHARE * free_memory(self._device) / row)), len(self._seeds))


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a GPU, those included that PyTorch keeps and does not use."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@contextlib.contextmanager
def _float32_output(head: Any) -> Iterator[None]:
    """Makes an ordinary output layer compute in float32, whatever the types of its weights and of autocast."""

    def recompute(layer: Any, given: tuple[Tensor, ...], made: Tensor) -> Tensor | None:
        if made.dtype == torch.float32 or type(layer) is not nn.Linear:
            return None
        with torch.autocast(made.device.type, enabled=False):
            bias = None if layer.bias is None else layer.bias.float()
            return nn.functional.linear(given[0].float(), layer.weight.float(), bias)

    hook = head.register_forward_hook(recompute)
    try:
        yield
    finally:
        hook.remove()


def _started_together(questions: int, samples: int, rows: int) -> Iterator[list[int]]:
    """The numbers of the samples that start together: a question's, or `rows` of them where it has more."""
    for question in range(questions):
        numbers = range(question * samples, (question + 1) * samples)
        for start in range(0, samples, rows):
            yield list(numbers[start : start + rows])

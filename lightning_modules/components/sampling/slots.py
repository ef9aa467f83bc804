"""The state of the rows being decoded: on the device what a step changes, on the host what is known without asking."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.components.sampling.rng import draw_tokens, uniform_block
from lightning_modules.components.sampling.settings import SamplingSettings


class Completion(NamedTuple):
    """One ended sample: its number (question q's k-th is q·n + k), its tokens with EOS, their log-probability."""

    number: int
    tokens: list[int]
    logprob: float
    finished: bool


class Slots:
    """The state of R rows being decoded, one a slot; an ended row keeps its slot until it is collected.

    On the device, where a step changes them in place:
        alive: [R] bool, whether it continues.
        lengths: [R] tokens so far, prompt included; 1 in a free slot.
        limits: [R] new tokens it may have.
        counts: [R] new tokens so far.
        last: [R] its last token.
        tokens: [R, steps] the new tokens.
        uniforms: [R, steps] float64, the random numbers that choose them.
        logprobs: [R] float64, sum of their log-probabilities.
        finished: [R] bool, whether it ended in EOS.

    On the host, which does not know when a row ends:
        numbers: [R] the sample in each slot, -1 for none.
        spans: [R] its length less the steps taken when it began, and the length at which it ends.
        taken: steps so far.
    """

    def __init__(self, rows: int, steps: int, settings: SamplingSettings, device: torch.device) -> None:
        self.settings = settings
        self.numbers, self.spans, self.taken = [-1] * rows, [(0, 0)] * rows, 0
        self.alive = torch.zeros(rows, dtype=torch.bool, device=device)
        self.lengths = torch.ones(rows, dtype=torch.int64, device=device)
        self.limits = torch.zeros_like(self.lengths)
        self.counts = torch.zeros_like(self.lengths)
        self.last = torch.zeros_like(self.lengths)
        self.tokens = torch.zeros(rows, steps, dtype=torch.int64, device=device)
        self.uniforms = torch.zeros(rows, steps, dtype=torch.float64, device=device)
        self.logprobs = torch.zeros(rows, dtype=torch.float64, device=device)
        self.finished = torch.zeros_like(self.alive)

    def start(
        self, slots: list[int], numbers: list[int], seeds: list[int], lengths: list[int], limits: list[int]
    ) -> Tensor:
        """Starts samples with prompts of `lengths` in free slots, and returns these as a tensor [A]."""
        for slot, number, length, limit in zip(slots, numbers, lengths, limits, strict=True):
            self.numbers[slot], self.spans[slot] = number, (length + 1 - self.taken, length + limit)
        columns = torch.tensor([slots, lengths, limits], device=self.alive.device)  # [3, A]
        at = columns[0]  # [A]
        self.alive[at] = True
        self.lengths[at], self.limits[at] = columns[1:]
        self.counts[at], self.logprobs[at], self.finished[at] = 0, 0.0, False
        if self.settings.temperature > 0:
            self.uniforms[at] = uniform_block(seeds, self.uniforms.shape[1]).to(self.uniforms.device)  # [A, steps]
        return at

    def append(self, logits: Tensor, slots: Tensor, eos: Tensor) -> None:
        """Chooses the next token of the rows in `slots` [A] from logits [A, V] and records it."""
        logits = logits.float()  # [A, V]
        alive, counts = self.alive[slots], self.counts[slots]  # [A]
        step = counts.clamp(max=self.tokens.shape[1] - 1)  # [A]; of an ended row: not used
        if self.settings.temperature == 0:
            chosen = logits.argmax(-1)  # [A]
        else:
            uniforms = self.uniforms[slots, step]  # [A]
            chosen = draw_tokens(logits, uniforms, self.settings.temperature, self.settings.top_p)  # [A]
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)  # [A]
        ended = (chosen[:, None] == eos).any(-1) & alive  # [A]
        self.last[slots] = chosen
        self.tokens[slots, step] = torch.where(alive, chosen, self.tokens[slots, step])
        self.logprobs[slots] += logprobs.masked_fill(~alive, 0.0)  # a 0 for `where` would be copied to the device
        self.finished[slots] |= ended
        self.counts[slots] = counts + alive
        self.lengths[slots] += alive
        self.alive[slots] = alive & ~ended & (counts + 1 < self.limits[slots])

    def collect(self) -> list[Completion]:
        """Takes the ended samples off the device, all at once, and frees their slots."""
        alive = self.alive.tolist()
        slots = [slot for slot in self.occupied() if not alive[slot]]
        if not slots:
            return []
        at = torch.tensor(slots, device=self.alive.device)  # [E]
        columns = (column[at].tolist() for column in (self.tokens, self.counts, self.logprobs, self.finished))
        ended = []
        for slot, tokens, count, logprob, finished in zip(slots, *columns, strict=True):
            ended.append(Completion(self.numbers[slot], tokens[:count], logprob, finished))
            self.numbers[slot] = -1
        self.lengths[at] = 1  # its position must lie within the cache, whose width counts the others alone
        return ended

    def keep(self, slots: list[int]) -> Tensor:
        """Keeps these slots alone, and returns them as a tensor."""
        self.numbers, self.spans = [self.numbers[slot] for slot in slots], [self.spans[slot] for slot in slots]
        at = torch.tensor(slots, device=self.alive.device)  # [R']
        for name, column in vars(self).items():
            if isinstance(column, Tensor):
                setattr(self, name, column[at])
        return at

    def occupied(self) -> list[int]:
        """The slots of samples that are not collected."""
        return [slot for slot, number in enumerate(self.numbers) if number >= 0]

    def free(self) -> list[int]:
        """The others."""
        return [slot for slot, number in enumerate(self.numbers) if number < 0]

    def longest(self) -> int:
        """The most tokens that a row can have, the last of them not in the cache yet."""
        return max(min(first + self.taken, end) for first, end in map(self.spans.__getitem__, self.occupied()))

    def left(self) -> int:
        """The most tokens that a row can still be given."""
        return max(end - (first + self.taken) for first, end in map(self.spans.__getitem__, self.occupied()))

"""Decoding of many rows at a time, where a question takes the places of samples that have ended.

Places are fixed: a pass through the model always has the same number of rows until nobody waits any more. A new
question is prefilled once, its n samples put into n free places, and its first tokens drawn; then it goes on with the
others, a token a step. What is left when the queue is empty shrinks as samples end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_modules.components.sampling.cache import replace_rows, roomy_cache, takes_new_rows, trim_rows
from lightning_modules.components.sampling.rng import draw_tokens, uniform_block
from lightning_modules.components.sampling.settings import SamplingSettings

if TYPE_CHECKING:
    from transformers import DynamicCache

COMPACT_BELOW = 0.85
"""Ended rows leave the batch once the living are fewer than this share of it and nobody waits for their places: copying
the cache costs about as much as one step, so it pays off within a few."""

REFILL_FROM = 0.125
"""Share of the places that are free before new questions are prefilled: a pass for every question that fits would keep
the model at single prompts, waiting longer would leave places empty."""


class Prompts(NamedTuple):
    """Q prompts: ids [Q, P], left-padded; mask [Q, P]; limits [Q] of new tokens."""

    ids: Tensor
    mask: Tensor
    limits: Tensor


class Written(NamedTuple):
    """One ended sample: its number (question q's k-th is q·n + k), its tokens with EOS, their log-probability."""

    number: int
    tokens: list[int]
    logprob: float
    finished: bool


class _Places:
    """The rows being decoded, one a place, all tensors [R, …]; an ended row stays until it is collected.

    Attributes:
        numbers: [R] the sample in each place, -1 for none, on the CPU.
        alive: [R] whether it goes on.
        lengths: [R] tokens so far, prompt included: a row is the last so many positions of the cache.
        limits: [R] new tokens it may have.
        counts: [R] new tokens so far.
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

    def enter(
        self, places: Tensor, numbers: Sequence[int], seeds: Sequence[int], lengths: Tensor, limits: Tensor
    ) -> None:
        """Begins samples in free places [A], with prompts of `lengths` [A]."""
        for place, number in zip(places.tolist(), numbers, strict=True):
            self.numbers[place] = number
        self.alive[places] = True
        self.lengths[places], self.limits[places] = lengths, limits
        self.counts[places], self.logprobs[places], self.finished[places] = 0, 0.0, False
        if self.settings.temperature > 0:
            self.uniforms[places] = uniform_block(seeds, self.uniforms.shape[1]).to(self.uniforms.device)

    def write(self, logits: Tensor, places: Tensor, eos: Tensor) -> Tensor:
        """Chooses the next token of the rows in `places` [A] from logits [A, V], books it and returns it, [A]."""
        logits = logits.float()
        alive, counts = self.alive[places], self.counts[places]
        step = counts.clamp(max=self.tokens.shape[1] - 1)  # of an ended row: not used
        if self.settings.temperature == 0:
            chosen = logits.argmax(-1)
        else:
            uniforms = self.uniforms[places, step]
            chosen = draw_tokens(logits, uniforms, self.settings.temperature, self.settings.top_p)
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
        ended = torch.isin(chosen, eos) & alive
        self.tokens[places, step] = torch.where(alive, chosen, self.tokens[places, step])
        self.logprobs[places] += torch.where(alive, logprobs, 0.0)
        self.finished[places] |= ended
        self.counts[places] = counts + alive
        self.lengths[places] += alive
        self.alive[places] = alive & ~ended & (counts + 1 < self.limits[places])
        return chosen

    def collect(self) -> list[Written]:
        """Takes the ended samples off the device, all at once, and frees their places."""
        alive = self.alive.tolist()
        places = [place for place, number in enumerate(self.numbers) if number >= 0 and not alive[place]]
        if not places:
            return []
        at = torch.tensor(places, device=self.alive.device)
        columns = (self.tokens, self.counts, self.logprobs, self.finished)
        rows = zip(places, *(column[at].tolist() for column in columns), strict=True)
        ended = [
            Written(self.numbers[place], tokens[:count], logprob, finished)
            for place, tokens, count, logprob, finished in rows
        ]
        for place in places:
            self.numbers[place] = -1
        return ended

    def keep(self, places: Tensor) -> None:
        """Keeps these places alone."""
        self.numbers = [self.numbers[place] for place in places.tolist()]
        for name in ("alive", "lengths", "limits", "counts", "tokens", "uniforms", "logprobs", "finished"):
            setattr(self, name, getattr(self, name)[places])

    def living(self) -> int:
        """How many go on."""
        return int(self.alive.sum())

    def free(self) -> list[int]:
        """The places without a sample."""
        return [place for place, number in enumerate(self.numbers) if number < 0]

    def longest(self) -> int:
        """Positions of the cache that the living rows use; the tokens written last are not in it yet."""
        return int(torch.where(self.alive, self.lengths, 1).max()) - 1


class Decoder:
    """Writes n samples for each prompt; iterate over it once for each sample as it ends, in no particular order.

    Args:
        model: A causal language model.
        prompts: The prompts, in the order in which to begin.
        seeds: Q·n seeds, question by question.
        settings: How to sample.
        eos: [E] the tokens that end a sample.
        pad_token_id: What ended rows are fed.
    """

    def __init__(
        self,
        model: Any,
        prompts: Prompts,
        seeds: Sequence[int],
        settings: SamplingSettings,
        eos: Tensor,
        pad_token_id: int,
    ) -> None:
        self._model, self._prompts, self._seeds, self._settings = model, prompts, seeds, settings
        self._eos, self._pad = eos, pad_token_id
        self._steps = int(prompts.limits.max())
        self._queue = deque(_portions(len(prompts.ids), settings.samples, settings.rows))
        self._device = prompts.ids.device
        self._places = _Places(0, self._steps, settings, self._device)
        self._cache: DynamicCache = roomy_cache(model.config)
        self._last = torch.empty(0, dtype=torch.int64, device=self._device)  # [R] the token each row wrote last

    def __iter__(self) -> Iterator[Written]:
        while True:
            living = self._places.living()
            if self._queue and self._has_room(living):
                yield from self._places.collect()
                self._begin(fresh=living == 0)
            elif living == 0:
                yield from self._places.collect()
                return
            else:
                if not self._queue and living < COMPACT_BELOW * len(self._last):
                    yield from self._places.collect()
                    self._compact()
                self._step()

    def _has_room(self, living: int) -> bool:
        free = len(self._last) - living
        enough = max(len(self._queue[0]), REFILL_FROM * len(self._last))
        return living == 0 or (free >= enough and takes_new_rows(self._cache))

    def _begin(self, fresh: bool) -> None:
        """Prefills as many questions as there is room for and writes their samples' first tokens."""
        room = self._settings.rows if fresh else len(self._places.free())
        numbers: list[int] = []
        while self._queue and len(numbers) + len(self._queue[0]) <= room:
            numbers += self._queue.popleft()
        n = self._settings.samples
        questions = torch.tensor(sorted({number // n for number in numbers}), device=self._device)
        asked = torch.tensor([number // n for number in numbers], device=self._device)
        cache, logits = self._prefill(questions)
        rows = torch.searchsorted(questions, asked)
        if fresh:
            self._cache = cache
            cache.batch_select_indices(rows)
            self._places = _Places(len(numbers), self._steps, self._settings, self._device)
            self._last = torch.full_like(asked, self._pad)
        places = torch.tensor(self._places.free()[: len(numbers)], device=self._device)
        if not fresh:
            longest = max(self._places.longest(), cache.get_seq_length())
            replace_rows(self._cache, places, cache, rows, longest)
        seeds = [self._seeds[number] for number in numbers]
        lengths = self._prompts.mask[asked].sum(1)
        self._places.enter(places, numbers, seeds, lengths, self._prompts.limits[asked])
        self._last[places] = self._places.write(logits[rows], places, self._eos)

    def _prefill(self, questions: Tensor) -> tuple[DynamicCache, Tensor]:
        """One pass over prompts [A]: their cache, and the logits [A, V] of their first tokens."""
        ids, mask = self._prompts.ids[questions], self._prompts.mask[questions]
        width = int(mask.sum(1).max())
        ids, mask = ids[:, -width:], mask[:, -width:]
        cache = roomy_cache(self._model.config)
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cache, output.logits[:, -1]

    def _step(self) -> None:
        """A token for each living row."""
        places = self._places
        width = self._cache.get_seq_length() + 1
        mask = torch.arange(width, device=self._device) >= width - places.lengths[:, None]
        output = self._model(
            input_ids=torch.where(places.alive, self._last, self._pad)[:, None],
            attention_mask=mask.long(),
            position_ids=places.lengths[:, None] - 1,
            past_key_values=self._cache,
            use_cache=True,
        )
        everyone = torch.arange(len(mask), device=self._device)
        self._last = places.write(output.logits[:, -1], everyone, self._eos)

    def _compact(self) -> None:
        keep = self._places.alive.nonzero()[:, 0]
        self._places.keep(keep)
        self._last = self._last[keep]
        self._cache.batch_select_indices(keep)
        trim_rows(self._cache, self._places.longest())


def _portions(questions: int, samples: int, rows: int) -> Iterator[list[int]]:
    """The numbers of the samples that begin together: a question's, or `rows` of them where it has more."""
    for question in range(questions):
        numbers = range(question * samples, (question + 1) * samples)
        for start in range(0, samples, rows):
            yield list(numbers[start : start + rows])

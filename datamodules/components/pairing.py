"""Pairs of a right and a wrong rationale of the same question, drawn anew each epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datamodules.components.batching import RowBatches
from datamodules.components.encoding import Encoded
from datamodules.components.samplers import TrainingSampler

Pair = tuple[int, int]
"""Places of a right and a wrong rationale in `Pairing.candidates`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One encoded rationale that may stand in a pair."""

    question_id: str
    encoded: Encoded
    positive: bool

    @property
    def length(self) -> int:
        """In tokens, prompt and EOS included."""
        return len(self.encoded.prompt) + len(self.encoded.completion)


class Pairing:
    """Draws pairs from the questions that have both a right and a wrong rationale, and looks them up (a data set).

    Each epoch every such question gives `pairs_per_question` different pairs, or all it has if those are fewer: the
    number of pairs is the same in every epoch, the pairs depend on (seed, epoch, question) alone.

    Args:
        candidates: Rationales of any questions.
        pairs_per_question: Most pairs of one question an epoch.
        seed: Of the draws.
    """

    def __init__(self, candidates: Sequence[Candidate], pairs_per_question: int, seed: int) -> None:
        self.candidates = candidates
        self.pairs_per_question = pairs_per_question
        self.seed = seed
        sides: dict[str, tuple[list[int], list[int]]] = {}
        for place, candidate in enumerate(candidates):
            right_and_wrong = sides.setdefault(candidate.question_id, ([], []))
            right_and_wrong[0 if candidate.positive else 1].append(place)
        self.questions = {name: both for name, both in sides.items() if both[0] and both[1]}

    def __len__(self) -> int:
        return sum(self._count(right, wrong) for right, wrong in self.questions.values())

    def __getitem__(self, pair: Pair) -> tuple[Candidate, Candidate]:
        return self.candidates[pair[0]], self.candidates[pair[1]]

    def length(self, pair: Pair) -> int:
        """Of the longer of the two, in tokens."""
        return max(self.candidates[place].length for place in pair)

    def draw(self, epoch: int) -> list[Pair]:
        """The pairs of an epoch, question by question."""
        pairs: list[Pair] = []
        for name, (right, wrong) in self.questions.items():
            generator = random.Random(f"{self.seed}/{epoch}/{name}")
            for number in generator.sample(range(len(right) * len(wrong)), self._count(right, wrong)):
                pairs.append((right[number // len(wrong)], wrong[number % len(wrong)]))
        return pairs

    def _count(self, right: list[int], wrong: list[int]) -> int:
        return min(self.pairs_per_question, len(right) * len(wrong))


class PairBatchSampler:
    """Batches of pairs of similar length, in an order that depends on (seed, epoch) alone.

    Args:
        pairing: Where the pairs come from.
        batch_size: Pairs a batch.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, pairing: Pairing, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.pairing = pairing
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.epoch = 0
        self._trained_batches = 0
        self._batches = len(self._sampler([0] * len(pairing)))

    @property
    def sampler(self) -> PairBatchSampler:
        """Itself: Lightning looks for `set_epoch` on a batch sampler's `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the pairs and the order of the next pass."""
        self.epoch = epoch

    def resume(self, batches: int) -> None:
        """Goes on after `batches` batches of this rank, counted over all epochs."""
        self._trained_batches = batches
        self.epoch = batches // len(self)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[Pair]]:
        pairs = self.pairing.draw(self.epoch)
        sampler = self._sampler([self.pairing.length(pair) for pair in pairs])
        sampler.resume(self._trained_batches)
        sampler.set_epoch(self.epoch)
        for batch in sampler:
            yield [pairs[number] for number in batch.rows]

    def _sampler(self, lengths: list[int]) -> TrainingSampler:
        return TrainingSampler(lengths, RowBatches(self.batch_size), self.pairing.seed, self.rank, self.world)

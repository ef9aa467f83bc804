"""The samples of each test question as votes: answers pooled by value, with what they may be weighted by."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.components.grading import canonical
from datamodules.components.pooling import NO_ANSWER, pool
from datamodules.components.records import Question, Rationale, read_questions, read_rationales
from foundation.errors import InputError
from foundation.files import as_paths

NO_GOLD = -2
"""Class of the gold answer where no sample has it."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """The votes on one question.

    Attributes:
        question: The question.
        answers: Class of each of its N samples' answers, −1 for none.
        gold: Class of the gold answer, −2 if no sample has it.
        texts: An answer of each class, as written.
        logprob_mean: N log-probabilities per token, or None if the samples have none.
        score: N scores, or None if the samples have none.
    """

    question: Question
    answers: list[int]
    gold: int
    texts: list[str]
    logprob_mean: list[float] | None
    score: list[float] | None


class VoteDataModule(L.LightningDataModule):
    """Feeds `VotingModel` (test only); `docs/architecture.md` says what a batch holds.

    Besides, `texts` holds for each question an answer of each class, as written. `logprob_mean` and `score` are there
    if all samples have them, and not if none has.

    Args:
        samples: Files of samples (samples.jsonl), all of them, with or without M_rank's scores.
        questions: File of the questions (questions.jsonl); one without samples counts as wrong. Without this file, the
            questions that have samples are all there are.
        samples_per_question: Use only the first so many samples of each question, by their number.
        batch_size: Questions a batch.
    """

    def __init__(
        self,
        samples: str | list[str],
        questions: str | None = None,
        samples_per_question: int | None = None,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        for name, value in (("samples_per_question", samples_per_question), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise InputError(f"must be at least 1, found {value}", field=f"data.{name}")
        self.sample_files = as_paths(samples)
        self.question_file = None if questions is None else Path(questions)
        self.samples_per_question = samples_per_question
        self.batch_size = batch_size
        self.ballots: list[Ballot] = []

    def setup(self, stage: str) -> None:
        """Reads, groups and pools the samples.

        Raises:
            InputError: If a file is missing, damaged or empty, samples belong to other questions, come twice, or only
                some of them have what a method weighs by.
        """
        samples = self._read_samples()
        questions = self._read_questions(samples)
        weighed_by = {name: _all_have(samples, name) for name in ("logprob", "score")}
        grouped: dict[str, list[Rationale]] = {question.id: [] for question in questions}
        for sample in samples:
            if sample.question_id not in grouped:
                raise InputError(
                    f"sample '{sample.id}' belongs to none of its questions", file=self.question_file,
                    remedy="give --data.questions the file that was sampled",
                )  # fmt: skip
            grouped[sample.question_id].append(sample)
        n = self.samples_per_question
        self.ballots = [
            _ballot(question, sorted(grouped[question.id], key=_number)[:n], **weighed_by) for question in questions
        ]
        self._say_short()

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of votes; each rank gets every `world_size`-th question, none twice."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        sampler = UnrepeatedDistributedSampler(self.ballots, num_replicas=world, rank=rank, shuffle=False)
        return DataLoader(
            self.ballots,  # type: ignore[arg-type]  # a list is a map-style dataset
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=collate,
        )

    def _read_samples(self) -> list[Rationale]:
        samples: dict[str, Rationale] = {}
        for file in self.sample_files:
            for sample in read_rationales(file):
                if sample.id in samples:
                    raise InputError(
                        f"sample '{sample.id}' comes twice", file=file, field="id", remedy="give each file once"
                    )
                samples[sample.id] = sample
        if not samples:
            files = ", ".join(map(str, self.sample_files))
            raise InputError(
                "no samples to vote with", file=files, field="data.samples", remedy="sample with `predict`"
            )
        return list(samples.values())

    def _read_questions(self, samples: list[Rationale]) -> list[Question]:
        if self.question_file is None:
            return list({sample.question_id: _question_of(sample) for sample in samples}.values())
        return list(read_questions(self.question_file))

    def _say_short(self) -> None:
        most = max(len(ballot.answers) for ballot in self.ballots)
        wanted = self.samples_per_question or most
        short = sum(len(ballot.answers) < wanted for ballot in self.ballots)
        if short:
            print(f"{short:,} of {len(self.ballots):,} questions have fewer than {wanted} samples", file=sys.stderr)


def collate(ballots: list[Ballot]) -> dict[str, Any]:
    """A batch of Q questions, padded to their largest number of samples N (at least 1)."""
    batch: dict[str, Any] = {
        "answers": _padded([ballot.answers for ballot in ballots], NO_ANSWER, torch.int64),
        "gold": torch.tensor([ballot.gold for ballot in ballots]),
        "texts": [ballot.texts for ballot in ballots],
        "questions": [ballot.question.to_json() for ballot in ballots],
    }
    for name in ("logprob_mean", "score"):
        rows = [getattr(ballot, name) for ballot in ballots]
        if None not in rows:
            batch[name] = _padded(rows, -1, torch.float64)
    return batch


def _padded(rows: list[list[Any]], filler: float, dtype: torch.dtype) -> Tensor:
    width = max(1, *(len(row) for row in rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=dtype)


def _ballot(question: Question, samples: list[Rationale], logprob: bool, score: bool) -> Ballot:
    """Pools the answers; one that was graded as right is of the gold answer's value, however it is written."""
    right = {canonical(s.answer) for s in samples if s.verdict == "positive" and s.answer}
    gold = canonical(question.gold)

    def value(answer: str) -> str:
        own = canonical(answer)
        return gold if own in right else own

    answers = pool([s.answer for s in samples], value)
    texts: dict[int, str] = {}
    for number, sample in zip(answers, samples, strict=True):
        if number != NO_ANSWER and sample.answer is not None:
            texts.setdefault(number, sample.answer)
    # Where the data set gives no gold answer, nothing equals it.
    golden = [number for number, text in texts.items() if question.gold.strip() and value(text) == gold]
    return Ballot(
        question=question,
        answers=answers,
        gold=golden[0] if golden else NO_GOLD,
        texts=[texts[number] for number in range(len(texts))],
        logprob_mean=[(s.logprob or 0.0) / (s.tokens or 1) for s in samples] if logprob else None,
        score=[s.score or 0.0 for s in samples] if score else None,
    )


def _all_have(samples: list[Rationale], field: str) -> bool:
    """Whether all samples have a value in `field`; an error if only some do, as their votes could not be compared."""
    missing = [sample for sample in samples if getattr(sample, field) is None]
    if missing and len(missing) < len(samples):
        raise InputError(
            f"{len(missing)} of {len(samples)} samples have none, e.g. '{missing[0].id}'", field=field,
            remedy="give samples that all have it, or none",
        )  # fmt: skip
    return not missing


def _number(sample: Rationale) -> int:
    """The k of "<question_id>/<k>"."""
    k = sample.id.rpartition("/")[2]
    if not k.isdecimal():
        raise InputError(f"'{sample.id}' does not end in a sample's number", field="id", remedy="<question_id>/<k>")
    return int(k)


def _question_of(sample: Rationale) -> Question:
    return Question(
        id=sample.question_id, question=sample.question, gold=sample.gold, solution="", subject=sample.subject,
        level=sample.level, source=sample.source,
    )  # fmt: skip

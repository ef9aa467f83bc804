"""The samples of each test question as votes: answers pooled by value, with what they may be weighted by."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.components.batching.plan import check_at_least
from datamodules.components.batching.sampler import EvaluationSampler
from datamodules.components.grading.vote_groups import NO_ANSWER, VoteGroup, make_vote_groups, read_samples
from datamodules.components.records.records import read_questions
from dust2gold.core.files import as_paths


class VoteDataModule(L.LightningDataModule):
    """Feeds `VotingModel` (test only); `docs/formats.md` says what a batch holds.

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
        if samples_per_question is not None:
            check_at_least(1, samples_per_question, "data.samples_per_question")
        check_at_least(1, batch_size, "data.batch_size")
        self.sample_files = as_paths(samples)
        self.question_file = None if questions is None else Path(questions)
        self.samples_per_question = samples_per_question
        self.batch_size = batch_size
        self.vote_groups: list[VoteGroup] = []

    def setup(self, stage: str) -> None:
        """Reads, groups and pools the samples.

        Raises:
            InputError: If a file is missing, damaged or empty, samples belong to other questions, come twice, or only
                some of them have what a method weighs by.
        """
        samples = read_samples(self.sample_files)
        questions = None if self.question_file is None else read_questions(self.question_file)
        self.vote_groups = make_vote_groups(samples, questions, self.samples_per_question, self.question_file)
        wanted = self.samples_per_question or max(len(group.answers) for group in self.vote_groups)
        short = sum(len(group.answers) < wanted for group in self.vote_groups)
        if short:
            print(f"{short:,} of {len(self.vote_groups):,} questions have fewer than {wanted} samples", file=sys.stderr)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of votes; each rank gets every `world_size`-th question, none twice."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        sampler = EvaluationSampler([1] * len(self.vote_groups), self.batch_size, rank, world)
        return DataLoader(self.vote_groups, batch_sampler=sampler, collate_fn=collate)  # type: ignore[arg-type]  # a list


def collate(vote_groups: list[VoteGroup]) -> dict[str, Any]:
    """A batch of Q questions, padded to their largest number of samples N (at least 1)."""
    batch: dict[str, Any] = {
        "answers": _padded([group.answers for group in vote_groups], NO_ANSWER, torch.int64),
        "gold": torch.tensor([group.gold for group in vote_groups]),
        "samples": torch.tensor([len(group.samples) for group in vote_groups]),
        "texts": [group.texts for group in vote_groups],
        "questions": [group.question.to_json() for group in vote_groups],
    }
    for name in ("logprob_mean", "score"):
        rows = [getattr(group, name) for group in vote_groups]
        if None not in rows:
            batch[name] = _padded(rows, -1, torch.float64)
    return batch


def _padded(rows: Sequence[Sequence[Any]], filler: float, dtype: torch.dtype) -> Tensor:
    width = max((1, *(len(row) for row in rows)))
    padded = [[*row, *[filler] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=dtype).reshape(-1, width)

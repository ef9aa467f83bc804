"""Rationales to train a decoder on, questions to test it with and to sample for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.components.batching.counts import count_targets
from datamodules.components.batching.plan import Batching, RowBatches, choose_batching
from datamodules.components.batching.sampler import Batch, EvaluationSampler, TrainingSampler
from datamodules.components.encoding.tokenization import context_of, encode, pad_with_mask, stops_of
from datamodules.components.grading.grader import StringGrader, grader_for
from datamodules.components.limits import AnswerRoom
from datamodules.components.records.records import Question, numbered_questions
from datamodules.components.table import Example, Examples
from datamodules.training import TrainingDataModule
from dust2gold.core.errors import InputError


class RationaleDataModule(TrainingDataModule):
    """Feeds the decoder stages; `docs/formats.md` says what a batch holds.

    Args:
        *args: The first options of `TrainingDataModule`.
        questions: File of questions for `test` and `predict`.
        limit_questions: Use only the first so many questions.
        max_new_tokens: Tokens that an answer may have, to say which questions leave less in the student's context: they
            are asked all the same. None: `model.sampling.max_new_tokens`, which the command line fills in.
        question_batch_size: Questions handed to the sampler together in `test` and `predict`; of these it decodes
            `model.sampling.rows` samples at a time, so many questions keep it busy and cost no memory.
        tokens_per_batch: Instead of `batch_size`: as many rationales as keep rows × longest within so many tokens.
        packing: Put several rationales into a row, of `max_length` tokens or, with `tokens_per_batch`, of what these
            rationales need; each attends to itself alone, and the loss is the same. Students that cannot keep them
            apart (ALiBi, recurrent layers) are refused.
        loss_on_prompt: Train on the prompt's tokens too (reference: true).
        **kwargs: The other options of `TrainingDataModule`.
    """

    def __init__(
        self,
        *args: Any,
        questions: str | None = None,
        limit_questions: int | None = None,
        max_new_tokens: int | None = None,
        question_batch_size: int = 256,
        tokens_per_batch: int | None = None,
        packing: bool = False,
        loss_on_prompt: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.question_file = None if questions is None else Path(questions)
        self.limit_questions = limit_questions
        self.max_new_tokens = max_new_tokens
        self.question_batch_size = question_batch_size
        self.tokens_per_batch = tokens_per_batch
        self.packing = packing
        self.loss_on_prompt = loss_on_prompt
        self.questions: list[tuple[Question, Tensor]] = []
        self.grader = StringGrader()  # of the answers to `questions`
        self.stops: list[int] = []  # the tokens that end an answer, from `setup` on
        self._excluded: set[str] = set()

    def setup(self, stage: str) -> None:
        """Reads and encodes what the entry point needs; refuses what `TrainingDataModule.setup` refuses."""
        super().setup(stage)
        if stage in ("test", "predict"):
            self._read_questions()

    def exclude_questions(self, ids: set[str]) -> None:
        """Leaves out questions that are answered already; call between `setup` and the first loader."""
        self._excluded = set(ids)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches of similar lengths, the same for the same seed and epoch."""
        examples = self.train_examples
        width = min(self.max_length, context_of(self.tokenizer_name) or self.max_length)
        lengths = examples.lengths  # [n]
        longest = int(lengths.max()) if len(lengths) else 1
        batching = choose_batching(self.batch_size, self.tokens_per_batch, self.packing, width, longest)
        sampler = TrainingSampler(lengths, batching, self.seed, counts=self.counts(examples), **self.sharding())
        return self.training_loader(examples, sampler, partial(self._collate, batching))

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches."""
        examples, size = self.validation_examples, self.eval_batch_size
        collate = partial(self._collate, RowBatches(size))
        return self.validation_loader(examples, examples.lengths, size, collate, self.counts(examples))

    def test_dataloader(self) -> DataLoader[Any]:
        """Question batches, longest first."""
        questions = [item for item in self.questions if item[0].id not in self._excluded]
        lengths = [len(prompt) for _, prompt in questions]
        sampler = EvaluationSampler(lengths, self.question_batch_size, *self.rank_of_world())
        return self.loader(questions, sampler, self._collate_questions)

    predict_dataloader = test_dataloader

    def read_tokenizer(self) -> None:
        """Also finds the tokens that end an answer."""
        super().read_tokenizer()
        self.stops = stops_of(self.tokenizer, self.tokenizer_name, self.prompt)

    def texts(self, answers: list[list[int]]) -> list[str]:
        """The rationales in the tokens of sampled answers."""
        if not answers:  # of an empty list the tokenizer would make one text
            return []
        written = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [self.prompt.rationale(text) for text in written]

    def largest_ids(self) -> Iterator[tuple[Path, int, int]]:
        """The largest token id of each rationale and question, with its file and line."""
        yield from super().largest_ids()
        if self.question_file is not None:
            lines = (line for line, _ in numbered_questions(self.question_file))
            for line, (_, ids) in zip(lines, self.questions, strict=False):  # the first so many
                yield self.question_file, line, int(ids.max())

    def counts(self, examples: Examples) -> Tensor:
        """Target tokens and samples of each example, by verdict [n, 3, 2]: see `count_targets`."""
        return count_targets(examples.targets(self.loss_on_prompt), examples.positive)

    def _read_questions(self) -> None:
        if self.question_file is None:
            remedy = "give --data.questions FILE (questions.jsonl)"
            raise InputError("no questions", field="data.questions", remedy=remedy)
        questions = list(numbered_questions(self.question_file))
        self.grader = grader_for(question for _, question in questions)
        questions = questions[: self.limit_questions]
        if not questions:
            raise InputError("holds no question", file=self.question_file, remedy="check the output of prepare")
        room = AnswerRoom(context_of(self.tokenizer_name), self.max_new_tokens)
        encodings = encode(self.tokenizer, [(question.question, None) for _, question in questions], self.prompt)
        self.questions = []
        for (line, question), (ids, _) in zip(questions, encodings, strict=True):
            room.check(question.id, len(ids), self.question_file, line)
            self.questions.append((question, torch.tensor(ids, dtype=torch.int32)))  # [length]
        room.report()

    def _collate(self, batching: Batching, examples: list[Example], batch: Batch) -> dict[str, Any]:
        return {
            **batching.collate(examples, self.tokenizer.pad_token_id, self.loss_on_prompt),  # [B, T] each
            "positive": torch.tensor([example.positive for example in examples]),  # [samples]
            "ids": [example.id for example in examples],
            "eos_token_id": self.stops,
            "pad_token_id": self.tokenizer.pad_token_id,
        }

    def _collate_questions(self, items: list[tuple[Question, Tensor]]) -> dict[str, Any]:
        pad_id = self.tokenizer.pad_token_id
        return {
            **pad_with_mask([prompt.tolist() for _, prompt in items], pad_id, left=True),  # [Q, T] each
            "questions": [question.to_json() for question, _ in items],
            "eos_token_id": self.stops,
            "pad_token_id": pad_id,
        }

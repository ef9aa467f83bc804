"""Rationales to train a decoder on, questions to test it with and to sample for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.components.batching.counts import count_targets
from datamodules.components.batching.plan import Batching, RowBatches, choose_batching
from datamodules.components.batching.sampler import EvaluationSampler
from datamodules.components.encoding.encoded_files import Recipe
from datamodules.components.encoding.examples import EncodedFile, Example, Examples
from datamodules.components.encoding.tokenization import (
    CharacterLimit,
    Encoded,
    LengthLimit,
    context_of,
    encode,
    eos_of,
    load_tokenizer,
    pad_of,
    pad_with_mask,
)
from datamodules.components.grading.grader import are_plain
from datamodules.components.records.records import Question, numbered_questions
from datamodules.resumable import ResumableDataModule
from dust2gold.core.errors import InputError
from dust2gold.core.files import as_paths

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RationaleDataModule(ResumableDataModule):
    """Feeds the decoder stages; `docs/architecture.md` says what a batch holds.

    Args:
        tokenizer: The student's name: a directory, a hub name, or `embedded`.
        train: Files of rationales to train on (positive.jsonl, negative.jsonl, …), all of them.
        validation: Files of rationales to validate on; without them, `validation_fraction` of the training questions.
        validation_fraction: Share of the questions of `train` held out, chosen by a hash of their id.
        questions: File of questions for `test` and `predict`.
        limit_questions: Use only the first so many questions.
        batch_size: Rationales a training batch and device (paper: 128 over 8 GPUs); with `packing`, rows.
        tokens_per_batch: Instead of `batch_size`: as many rationales as keep rows × longest within so many tokens.
        packing: Put several rationales into a row, of `max_length` tokens or, with `tokens_per_batch`, of what these
            rationales need; each attends to itself alone, and the loss is the same. Students that cannot keep them
            apart (ALiBi, recurrent layers) are refused.
        eval_batch_size: Rationales a validation batch; default as `batch_size`.
        question_batch_size: Questions handed to the sampler together in `test` and `predict`; of these it decodes
            `model.sampling.rows` samples at a time, so many questions keep it busy and cost no memory.
        max_length: Most tokens of prompt and rationale together.
        drop_longer: Leave out longer rationales, and say how many, instead of refusing.
        max_characters: Leave out rationales of more characters, question included, and say how many (reference:
            1,600; NCE 1,200).
        loss_on_prompt: Train on the prompt's tokens too (reference: true).
        allow_ungradable: Train on rationales whose verdict is `ungradable` too.
        encoded: Directory to keep encoded rationales in: encoded once, and from then on mapped into memory by every
            process and run, instead of encoded and held by each.
        seed: Of the order of the batches.
        num_workers: Processes that collate batches.
    """

    def __init__(
        self,
        tokenizer: str = "embedded",
        train: list[str] | str | None = None,
        validation: list[str] | str | None = None,
        validation_fraction: float = 0.05,
        questions: str | None = None,
        limit_questions: int | None = None,
        batch_size: int = 16,
        tokens_per_batch: int | None = None,
        packing: bool = False,
        eval_batch_size: int | None = None,
        question_batch_size: int = 256,
        max_length: int = 1024,
        drop_longer: bool = False,
        max_characters: int | None = None,
        loss_on_prompt: bool = False,
        allow_ungradable: bool = False,
        encoded: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed, num_workers)
        self.tokenizer_name = tokenizer
        self.train_files = as_paths(train)
        self.validation_files = as_paths(validation)
        self.validation_fraction = validation_fraction
        self.question_file = None if questions is None else Path(questions)
        self.limit_questions = limit_questions
        self.batch_size = batch_size
        self.tokens_per_batch = tokens_per_batch
        self.packing = packing
        self.eval_batch_size = eval_batch_size or batch_size
        self.question_batch_size = question_batch_size
        self.max_length = max_length
        self.drop_longer = drop_longer
        self.max_characters = max_characters
        self.loss_on_prompt = loss_on_prompt
        self.allow_ungradable = allow_ungradable
        self.encoded = None if encoded is None else Path(encoded)
        self.train_examples = self.validation_examples = Examples([])
        self.questions: list[tuple[Question, Encoded]] = []
        self.plain_golds = False
        self._excluded: set[str] = set()

    def prepare_data(self) -> None:
        """Encodes what `encoded` does not hold yet, in one process of a machine; the others wait until it is done."""
        training = self.trainer is not None and self.trainer.state.fn in (TrainerFn.FITTING, TrainerFn.VALIDATING)
        if self.encoded is not None and training:
            recipe = self._recipe(load_tokenizer(self.tokenizer_name))
            for file in [*self.train_files, *self.validation_files]:
                recipe.keep(file, self.encoded)

    def setup(self, stage: str) -> None:
        """Reads and encodes what the entry point needs.

        Raises:
            InputError: If a file is missing or damaged, holds nothing to use, or a text is too long.
        """
        self.tokenizer = load_tokenizer(self.tokenizer_name)
        if stage in ("fit", "validate") and not self.train_examples:
            self._setup_rationales()
        if stage in ("test", "predict"):
            self._setup_questions()

    def exclude_questions(self, ids: set[str]) -> None:
        """Leaves out questions that are answered already; call between `setup` and the first loader."""
        self._excluded = set(ids)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches of similar lengths, the same for the same seed and epoch.

        Raises:
            InputError: If a rationale is longer than `tokens_per_batch`.
        """
        examples, counts = self.train_examples, self.counted(self.train_examples)
        width = min(self.max_length, context_of(self.tokenizer_name) or self.max_length)
        lengths = examples.lengths
        longest = int(lengths.max()) if len(lengths) else 1
        batching = choose_batching(self.batch_size, self.tokens_per_batch, self.packing, width, longest)
        return self.training_loader(examples, lengths, batching, counts, partial(self._collate, batching))

    def counted(self, examples: Examples) -> Tensor:
        """Target tokens and samples of each example, by verdict: see `count_targets`."""
        return count_targets(examples.targets(self.loss_on_prompt), examples.positive)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches."""
        examples, size = self.validation_examples, self.eval_batch_size
        collate = partial(self._collate, RowBatches(size))
        return self.validation_loader(examples, examples.lengths, size, collate, self.counted(examples))

    def test_dataloader(self) -> DataLoader[Any]:
        """Question batches, longest first."""
        questions = [item for item in self.questions if item[0].id not in self._excluded]
        lengths = [len(encoded.prompt) for _, encoded in questions]
        sampler = EvaluationSampler(lengths, self.question_batch_size, *self.place())
        return self.loader(questions, sampler, self._collate_questions)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The same as for `test`."""
        return self.test_dataloader()

    def _setup_rationales(self) -> None:
        if not self.train_files:
            raise InputError(
                "nothing to train on",
                field="data.train",
                remedy="give --data.train FILE (positive.jsonl, negative.jsonl, …)",
            )
        examples = self._read(self.train_files)
        if self.validation_files:
            self.train_examples, self.validation_examples = examples, self._read(self.validation_files)
            return
        self.train_examples, self.validation_examples = examples.split(self.validation_fraction)
        if not self.train_examples:
            raise InputError(
                "all questions were held out for validation", field="data.validation_fraction", remedy="lower it"
            )

    def _read(self, files: list[Path]) -> Examples:
        recipe = self._recipe(self.tokenizer)
        examples = Examples([self._encoded(recipe, file) for file in files])
        recipe.report()
        return examples

    def _encoded(self, recipe: Recipe, file: Path) -> EncodedFile:
        return recipe.read(file) if self.encoded is None else recipe.keep(file, self.encoded)

    def _recipe(self, tokenizer: PreTrainedTokenizerBase) -> Recipe:
        return Recipe(
            tokenizer,
            LengthLimit(self.max_length, self.drop_longer, context_of(self.tokenizer_name)),
            CharacterLimit(self.max_characters),
            self.allow_ungradable,
        )

    def _setup_questions(self) -> None:
        if self.question_file is None:
            raise InputError(
                "no questions", field="data.questions", remedy="give --data.questions FILE (questions.jsonl)"
            )
        questions = list(numbered_questions(self.question_file))
        self.plain_golds = are_plain(question.gold for _, question in questions)
        questions = questions[: self.limit_questions]
        if not questions:
            raise InputError("holds no question", file=self.question_file, remedy="check the output of prepare")
        limit = LengthLimit(self.max_length, drop=False, context=context_of(self.tokenizer_name))
        encodings = encode(self.tokenizer, ((question.question, None) for _, question in questions))
        self.questions = [
            (question, encoded)
            for (line, question), encoded in zip(questions, encodings, strict=True)
            if limit.admits(encoded, question.id, self.question_file, line)
        ]

    def _collate(self, batching: Batching, examples: list[Example]) -> dict[str, Any]:
        labelled = [example.labelled(self.loss_on_prompt) for example in examples]
        return {
            **batching.collate(labelled, pad_of(self.tokenizer)),
            "positive": torch.tensor([example.positive for example in examples]),
            "ids": [example.id for example in examples],
        }

    def _collate_questions(self, items: list[tuple[Question, Encoded]]) -> dict[str, Any]:
        pad_id = pad_of(self.tokenizer)
        return {
            **pad_with_mask([encoded.prompt for _, encoded in items], pad_id, left=True),
            "questions": [question.to_json() for question, _ in items],
            "eos_token_id": eos_of(self.tokenizer),
            "pad_token_id": pad_id,
        }

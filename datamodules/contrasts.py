"""Right and wrong rationales of the same questions together in a batch: pairs for REDI and DPO, groups for CL."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.components.batching.groups import Grouping, require_both_verdicts
from datamodules.components.batching.plan import RowBatches
from datamodules.components.encoding.examples import Example, Examples
from datamodules.components.encoding.tokenization import pad
from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError


class ContrastDataModule(RationaleDataModule):
    """Feeds REDI, DPO and CL in training, and their questions to `test` and `predict`; see `docs/architecture.md`.

    A batch holds whole groups, never a part of one. A group has at least one right and one wrong rationale of a
    question, and is drawn anew each epoch where there are more than `rationales_per_question`. Questions without a
    right rationale train nothing; those without a wrong one do with `right_only`.

    Args:
        tokenizer: The student's name: a directory, a hub name, or `embedded`.
        train: Files of rationales of both verdicts, all of them together (positive.jsonl, negative.jsonl).
        validation: Files to validate on; without them, `validation_fraction` of the training questions.
        validation_fraction: Share of the questions held out, chosen by a hash of their id.
        questions: File of questions for `test` and `predict`.
        limit_questions: Use only the first so many questions.
        rationales_per_question: Most rationales of a group: 2 makes pairs.
        groups_per_question: Most groups of a question an epoch, each with another pair in it.
        right_only: Let questions without a wrong rationale give a group of right ones (CL: MLE without contrast).
        batch_size: Groups a batch and device.
        question_batch_size: Questions handed to the sampler together in `test` and `predict`.
        max_length: Most tokens of prompt and rationale together.
        drop_longer: Leave out longer rationales, and say how many, instead of refusing.
        max_characters: Leave out rationales of more characters, question included, and say how many.
        seed: Of the groups and the order of the batches.
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
        rationales_per_question: int = 2,
        groups_per_question: int = 1,
        right_only: bool = False,
        batch_size: int = 8,
        question_batch_size: int = 256,
        max_length: int = 1024,
        drop_longer: bool = False,
        max_characters: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            tokenizer,
            train,
            validation,
            validation_fraction,
            questions,
            limit_questions,
            batch_size,
            question_batch_size=question_batch_size,
            max_length=max_length,
            drop_longer=drop_longer,
            max_characters=max_characters,
            seed=seed,
            num_workers=num_workers,
        )
        for name, value, least in (
            ("rationales_per_question", rationales_per_question, 2),
            ("groups_per_question", groups_per_question, 1),
        ):
            if value < least:
                raise InputError(f"must be at least {least}, found {value}", field=f"data.{name}")
        self.rationales_per_question = rationales_per_question
        self.groups_per_question = groups_per_question
        self.right_only = right_only
        self.train_groups: Grouping[Example] | None = None
        self.validation_groups: Grouping[Example] | None = None

    def setup(self, stage: str) -> None:
        """Reads and encodes what the entry point needs.

        Raises:
            InputError: As `RationaleDataModule.setup`, or if no question has both verdicts.
        """
        super().setup(stage)
        if stage in ("fit", "validate") and self.train_groups is None:
            self.train_groups = self._grouping(self.train_examples, "train")
            # A small fraction of few questions may hold none with both verdicts; then there is no validation.
            self.validation_groups = self._grouping(
                self.validation_examples, "validation" if self.validation_files else None
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches of groups of similar lengths, the same for the same seed and epoch."""
        if self.train_groups is None:
            raise RuntimeError("setup() has not run yet")
        counts = self.counted(self.train_examples)
        return self.grouped_loader(self.train_groups, self.batch_size, self._collate_groups, counts)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation groups, the same in every epoch; no batch where there are none."""
        if self.validation_groups is None:
            raise RuntimeError("setup() has not run yet")
        counts = self.counted(self.validation_examples)
        return self.fixed_groups_loader(self.validation_groups, self.batch_size, self._collate_groups, counts)

    def _grouping(self, examples: Examples, field: str | None) -> Grouping[Example]:
        grouping = Grouping(
            examples, self.groups_per_question, self.seed, self.rationales_per_question, self.right_only
        )
        if field is not None:
            require_both_verdicts(grouping, field)
        return grouping

    def _collate_groups(self, groups: list[tuple[Example, ...]]) -> dict[str, Any]:
        examples = [example for group in groups for example in group]
        prompts = [[1] * len(e.encoded.prompt) + [0] * len(e.encoded.completion) for e in examples]
        return {
            **self._collate(RowBatches(len(examples)), examples),
            "groups": torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups])),
            "prompt_mask": pad(prompts, 0),
        }

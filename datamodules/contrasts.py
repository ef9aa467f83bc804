"""Right and wrong rationales of the same questions together in a batch: pairs for REDI and DPO, groups for CL."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.components.batching.groups import Grouping, group_counts, group_lengths
from datamodules.components.batching.plan import RowBatches, check_at_least
from datamodules.components.batching.sampler import Batch, GroupBatchSampler
from datamodules.components.encoding.tokenization import pad
from datamodules.components.table import Example, Examples
from datamodules.rationales import RationaleDataModule


class ContrastDataModule(RationaleDataModule):
    """Feeds REDI, DPO and CL in training, and their questions to `test` and `predict`; see `docs/formats.md`.

    A batch holds whole groups, never a part of one. A group has at least one right and one wrong rationale of a
    question, and is drawn anew each epoch where there are more than `rationales_per_question`. Questions without a
    right rationale train nothing; those without a wrong one do with `right_only`.

    Args:
        *args: The first options of `TrainingDataModule`.
        rationales_per_question: Most rationales of a group: 2 makes pairs.
        groups_per_question: Most groups of a question an epoch, each with another pair in it.
        right_only: Let questions without a wrong rationale give a group of right ones (CL: MLE without contrast).
        batch_size: Groups a batch and device.
        **kwargs: The other options of `RationaleDataModule`, but for its layouts of a batch.
    """

    def __init__(
        self,
        *args: Any,
        rationales_per_question: int = 2,
        groups_per_question: int = 1,
        right_only: bool = False,
        batch_size: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args, batch_size=batch_size, tokens_per_batch=None, packing=False, loss_on_prompt=False, **kwargs
        )
        check_at_least(2, rationales_per_question, "data.rationales_per_question")
        check_at_least(1, groups_per_question, "data.groups_per_question")
        self.rationales_per_question = rationales_per_question
        self.groups_per_question = groups_per_question
        self.right_only = right_only

    def setup(self, stage: str) -> None:
        """Reads and encodes what the entry point needs; refuses data in which no question has both verdicts."""
        super().setup(stage)
        if stage in ("fit", "validate"):
            self.train_groups, self.validation_groups = self.grouped(self._grouping)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches of groups of similar lengths, the same for the same seed and epoch."""
        examples = self.train_examples
        sampler = GroupBatchSampler(
            self.train_groups, self.batch_size, examples.lengths, counts=self.counts(examples), **self.sharding()
        )
        return self.training_loader(examples, sampler, self._collate_groups)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation groups, the same in every epoch; no batch where there are none."""
        examples, groups = self.validation_examples, self.validation_groups.draw(0)
        lengths, counts = group_lengths(examples.lengths, groups), group_counts(self.counts(examples), groups)
        return self.validation_loader(examples, lengths, self.eval_batch_size, self._collate_groups, counts, groups)

    def _grouping(self, examples: Examples) -> Grouping:
        of_each = examples.question_ids, examples.positive
        return Grouping(*of_each, self.groups_per_question, self.seed, self.rationales_per_question, self.right_only)

    def _collate_groups(self, examples: list[Example], batch: Batch) -> dict[str, Any]:
        sizes = batch.sizes or []
        prompts = [[1] * e.prompt + [0] * (len(e.tokens) - e.prompt) for e in examples]
        return {
            **self._collate(RowBatches(len(examples)), examples, batch),
            "groups": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),  # [B]
            "prompt_mask": pad(prompts, 0),  # [B, T]
        }

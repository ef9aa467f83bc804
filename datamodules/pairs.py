"""Pairs of a right and a wrong rationale to train M_rank on, and samples for it to score."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.components.batching.counts import count_targets
from datamodules.components.batching.groups import QuestionPairs, group_counts, group_lengths
from datamodules.components.batching.plan import check_at_least
from datamodules.components.batching.sampler import Batch, EvaluationSampler, GroupBatchSampler
from datamodules.components.encoding.tokenization import context_of, pad, pad_with_mask
from datamodules.components.records.records import Rationale, read_rationales
from datamodules.components.table import Example, Examples, open_table
from datamodules.training import TrainingDataModule
from dust2gold.core.errors import InputError


class PairDataModule(TrainingDataModule):
    """Feeds `RankModel`; `docs/formats.md` says what a batch holds. EOS belongs to the rationale.

    The paper trains on D_pos and D_neg (positive.jsonl, negative.jsonl), the reference on M_NAT's own samples plus the
    gold solutions (samples.jsonl, solutions.jsonl): list the files you want. Ungradable records never enter.

    Args:
        *args: The first options of `TrainingDataModule`.
        predict: File of rationales to score (samples.jsonl).
        max_scored_length: Most tokens, prompt included, of a rationale to score; None: what the backbone's context
            holds. A longer one gets the mean of its question's scores, 0.5 where it has none (reference: 512).
        pairs_per_question: Most pairs drawn from one question, anew each epoch; validation keeps one draw.
        batch_size: Pairs a batch and device. A question's pairs stay together, so that each rationale is read once:
            `batch_size // pairs_per_question` questions a batch, at least one.
        score_batch_size: Rationales scored together in `predict`.
        **kwargs: The other options of `TrainingDataModule`.
    """

    def __init__(
        self,
        *args: Any,
        predict: str | None = None,
        max_scored_length: int | None = None,
        pairs_per_question: int = 4,
        batch_size: int = 16,
        score_batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, batch_size=batch_size, allow_ungradable=False, **kwargs)
        check_at_least(1, pairs_per_question, "data.pairs_per_question")
        self.predict_file = None if predict is None else Path(predict)
        self.max_scored_length = max_scored_length
        self.pairs_per_question = pairs_per_question
        self.score_batch_size = score_batch_size
        self.records: list[Rationale] = []
        self.too_long: list[Rationale] = []  # of `records`, to score

    def setup(self, stage: str) -> None:
        """Reads and encodes what the entry point needs; refuses data in which no question has both verdicts."""
        super().setup(stage)
        if stage in ("fit", "validate"):
            self.train_pairs, self.validation_pairs = self.grouped(self._pairing)
        if stage == "predict":
            self._read_records()

    def gradable(self, examples: Examples, file: Path) -> Examples:
        """The file's right and wrong rationales; says how many ungradable ones it leaves out."""
        ungradable = examples.has_verdict("ungradable")  # [n]
        if ungradable.any():
            print(f"{file}: left out {int(ungradable.sum()):,} ungradable rationales", file=sys.stderr)
        return examples.where(~ungradable)

    def require_some(self, examples: Examples, file: Path) -> None:
        """A file may hold none: what counts is whether any question has both verdicts."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Training pairs, the same for the same seed and epoch."""
        examples = self.train_examples
        questions = self._questions(self.batch_size)
        counts = count_targets(examples.targets(), examples.positive)
        sampler = GroupBatchSampler(self.train_pairs, questions, examples.lengths, counts=counts, **self.sharding())
        return self.training_loader(examples, sampler, self._collate_pairs)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation pairs, the same in every epoch; no loader where there are none."""
        if not self.validation_pairs:
            return []
        examples, groups = self.validation_examples, self.validation_pairs.draw(0)
        counts = group_counts(count_targets(examples.targets(), examples.positive), groups)
        lengths, questions = group_lengths(examples.lengths, groups), self._questions(self.eval_batch_size)
        return self.validation_loader(examples, lengths, questions, self._collate_pairs, counts, groups)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The records to score, longest first, each exactly once over all ranks."""
        lengths = self._scorable.lengths  # [n]
        sampler = EvaluationSampler(lengths, self.score_batch_size, *self.rank_of_world())
        return self.loader(range(len(lengths)), sampler, self._collate_records)

    def _questions(self, pairs: int) -> int:
        """Questions a batch; fewer than 1 pair is left to the sampler, which refuses it."""
        return min(pairs, max(1, pairs // self.pairs_per_question))

    def _pairing(self, examples: Examples) -> QuestionPairs:
        return QuestionPairs(examples.question_ids, examples.positive, self.pairs_per_question, self.seed)

    def _read_records(self) -> None:
        if self.predict_file is None:
            remedy = "give --data.predict FILE (samples.jsonl)"
            raise InputError("nothing to score", field="data.predict", remedy=remedy)
        self.records = list(read_rationales(self.predict_file, once=True))
        if not self.records:
            raise InputError("holds no rationale", file=self.predict_file, remedy="check the stage that sampled it")
        examples = Examples(open_table(self.tokenizer, self.predict_file, prompt=self.prompt))
        limits = [each for each in (self.max_scored_length, context_of(self.tokenizer_name)) if each is not None]
        most = min(limits, default=sys.maxsize)
        self._scorable = examples.where(examples.lengths <= most)  # its rows are the numbers of their records
        self._files.append((self.predict_file, self._scorable))
        left = set(range(len(self.records))).difference(self._scorable.rows.tolist())
        self.too_long = [self.records[number] for number in sorted(left)]
        if not len(self._scorable):
            remedy = "raise --data.max_scored_length, or take a backbone with a longer context"
            raise InputError(f"every rationale has more than {most:,} tokens", file=self.predict_file, remedy=remedy)
        if left:
            problem = f"{len(left):,} of {len(self.records):,} rationales have more than {most:,} tokens"
            print(f"{problem}: each gets the mean of its question's scores, or 0.5", file=sys.stderr)

    def _collate(self, rows: list[Example]) -> dict[str, Tensor]:
        masks = [[0] * row.prompt + [1] * (len(row.tokens) - row.prompt) for row in rows]
        return {
            **pad_with_mask([row.tokens for row in rows], self.tokenizer.pad_token_id),
            "rationale_mask": pad(masks, 0),
        }  # [B, T] each

    def _collate_pairs(self, paired: list[Example], batch: Batch) -> dict[str, Any]:
        read = dict(zip(batch.rows, paired, strict=True))  # each rationale once, in however many pairs
        places = {number: row for row, number in enumerate(read)}
        return {
            **self._collate(list(read.values())),
            "pairs": torch.tensor([places[number] for number in batch.rows]).view(-1, 2),  # [P, 2]
            "question_ids": [example.question_id for example in paired[::2]],
        }

    def _collate_records(self, numbers: list[int]) -> dict[str, Any]:
        collated = self._collate(self._scorable.take(numbers))
        rows = self._scorable.rows[numbers].tolist()
        return {**collated, "records": [self.records[row].to_json() for row in rows]}

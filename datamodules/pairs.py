"""Pairs of a right and a wrong rationale to train M_rank on, and samples for it to score."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.components.batching.counts import count_targets
from datamodules.components.batching.groups import Candidate, QuestionPairs, require_both_verdicts
from datamodules.components.batching.sampler import EvaluationSampler
from datamodules.components.encoding.tokenization import (
    Encoded,
    LengthLimit,
    context_of,
    encode_rationales,
    load_tokenizer,
    pad,
    pad_of,
    pad_with_mask,
)
from datamodules.components.records.records import Rationale, numbered_rationales
from datamodules.components.records.splits import held_out
from datamodules.resumable import ResumableDataModule
from dust2gold.core.errors import InputError
from dust2gold.core.files import as_paths
from dust2gold.core.jsonl import read_json_lines


class PairDataModule(ResumableDataModule):
    """Feeds `RankModel`; `docs/architecture.md` says what a batch holds. EOS belongs to the rationale.

    The paper trains on D_pos and D_neg (positive.jsonl, negative.jsonl), the reference on M_NAT's own samples plus the
    gold solutions (samples.jsonl, solutions.jsonl): list the files you want. Ungradable records never enter.

    Args:
        tokenizer: The backbone's name: a directory, a hub name, or `embedded`.
        train: Files of rationales of both verdicts, all of them together.
        validation: Files to validate on; without them, `validation_fraction` of the training questions.
        validation_fraction: Share of the questions held out, chosen by a hash of their id.
        predict: File of rationales to score (samples.jsonl).
        pairs_per_question: Most pairs drawn from one question, anew each epoch; validation keeps one draw.
        batch_size: Pairs a batch and device. A question's pairs stay together, so that each rationale is read once:
            `batch_size // pairs_per_question` questions a batch, at least one.
        score_batch_size: Rationales scored together in `predict`.
        max_length: Most tokens of prompt and rationale together, in training; `predict` scores whatever the backbone's
            context holds.
        drop_longer: Leave out longer rationales, and say how many, instead of refusing.
        seed: Of the pairs and the order of the batches.
        num_workers: Processes that collate batches.
    """

    def __init__(
        self,
        tokenizer: str = "embedded",
        train: list[str] | str | None = None,
        validation: list[str] | str | None = None,
        validation_fraction: float = 0.05,
        predict: str | None = None,
        pairs_per_question: int = 4,
        batch_size: int = 16,
        score_batch_size: int = 64,
        max_length: int = 1024,
        drop_longer: bool = False,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed, num_workers)
        if pairs_per_question < 1:
            raise InputError(f"must be at least 1, found {pairs_per_question}", field="data.pairs_per_question")
        self.tokenizer_name = tokenizer
        self.train_files = as_paths(train)
        self.validation_files = as_paths(validation)
        self.validation_fraction = validation_fraction
        self.predict_file = None if predict is None else Path(predict)
        self.pairs_per_question = pairs_per_question
        self.batch_size = batch_size
        self.score_batch_size = score_batch_size
        self.max_length = max_length
        self.drop_longer = drop_longer
        self.train_pairs: QuestionPairs[Candidate] | None = None
        self.validation_pairs: QuestionPairs[Candidate] | None = None
        self.records: list[Rationale] = []
        self._scorable: list[tuple[Rationale, Encoded]] = []

    def setup(self, stage: str) -> None:
        """Reads and encodes what the entry point needs.

        Raises:
            InputError: If a file is missing or damaged, a text is too long, or no question has both verdicts.
        """
        self.tokenizer = load_tokenizer(self.tokenizer_name)
        if stage in ("fit", "validate") and self.train_pairs is None:
            self._setup_pairs()
        if stage == "predict":
            self._setup_records()

    def train_dataloader(self) -> DataLoader[Any]:
        """Training pairs, the same for the same seed and epoch."""
        if self.train_pairs is None:
            raise RuntimeError("setup() has not run yet")
        return self.grouped_loader(
            self.train_pairs, self._questions, self._collate_pairs, _counted(self.train_pairs.candidates)
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation pairs, the same in every epoch; no loader where there are none."""
        pairing = self.validation_pairs
        if not pairing:
            return []
        return self.fixed_groups_loader(pairing, self._questions, self._collate_pairs, _counted(pairing.candidates))

    def predict_dataloader(self) -> DataLoader[Any]:
        """The records to score, longest first, each exactly once over all ranks."""
        lengths = [len(encoded.ids) for _, encoded in self._scorable]
        sampler = EvaluationSampler(lengths, self.score_batch_size, *self.place())
        return self.loader(self._scorable, sampler, self._collate_records)

    @property
    def _questions(self) -> int:
        """Questions a batch; a `batch_size` below 1 is left to the sampler, which refuses it."""
        return min(self.batch_size, max(1, self.batch_size // self.pairs_per_question))

    def _setup_pairs(self) -> None:
        if not self.train_files:
            raise InputError(
                "nothing to train on",
                field="data.train",
                remedy="give --data.train FILES with right and wrong rationales (positive.jsonl, negative.jsonl, …)",
            )
        candidates = self._candidates(self.train_files)
        if self.validation_files:
            kept, held = candidates, self._candidates(self.validation_files)
        else:
            kept = [c for c in candidates if not held_out(c.question_id, self.validation_fraction)]
            held = [c for c in candidates if held_out(c.question_id, self.validation_fraction)]
        self.train_pairs = self._pairing(kept, "train")
        # A small fraction of few questions may hold none with both verdicts; then there is no validation, as with 0.
        self.validation_pairs = self._pairing(held, "validation" if self.validation_files else None)

    def _pairing(self, candidates: list[Candidate], field: str | None) -> QuestionPairs[Candidate]:
        pairing = QuestionPairs(candidates, self.pairs_per_question, self.seed)
        if field is not None:
            require_both_verdicts(pairing, field)
        return pairing

    def _candidates(self, files: list[Path]) -> list[Candidate]:
        limit = LengthLimit(self.max_length, self.drop_longer, context_of(self.tokenizer_name))
        candidates = [candidate for file in files for candidate in self._encoded(file, limit)]
        limit.report()
        return candidates

    def _encoded(self, file: Path, limit: LengthLimit) -> list[Candidate]:
        """The file's right and wrong rationales as far as the limit admits them."""
        rows = list(_graded(file))
        return [
            Candidate(record.question_id, encoded, record.verdict == "positive")
            for record, encoded in encode_rationales(self.tokenizer, file, rows, limit, len(rows))
        ]

    def _setup_records(self) -> None:
        if self.predict_file is None:
            raise InputError(
                "nothing to score", field="data.predict", remedy="give --data.predict FILE (samples.jsonl)"
            )
        numbered = list(numbered_rationales(self.predict_file))
        if not numbered:
            raise InputError("holds no rationale", file=self.predict_file, remedy="check the stage that sampled it")
        self.records = [record for _, record in numbered]
        # Every sample needs its score to vote: only what the backbone cannot read is refused.
        limit = LengthLimit(sys.maxsize, drop=False, context=context_of(self.tokenizer_name))
        self._scorable = list(encode_rationales(self.tokenizer, self.predict_file, numbered, limit, len(numbered)))

    def _collate(self, rows: list[Encoded]) -> dict[str, Tensor]:
        marks = [[0] * len(row.prompt) + [1] * len(row.completion) for row in rows]
        return {**pad_with_mask([row.ids for row in rows], pad_of(self.tokenizer)), "rationale_mask": pad(marks, 0)}

    def _collate_pairs(self, questions: list[tuple[Candidate, ...]]) -> dict[str, Any]:
        paired = [candidate for pairs in questions for candidate in pairs]
        rows = {id(candidate): candidate for candidate in paired}  # the data set's own objects: one is one rationale
        places = {key: row for row, key in enumerate(rows)}
        return {
            **self._collate([candidate.encoded for candidate in rows.values()]),
            "pairs": torch.tensor([places[id(candidate)] for candidate in paired]).view(-1, 2),
            "question_ids": [candidate.question_id for candidate in paired[::2]],
        }

    def _collate_records(self, rows: list[tuple[Rationale, Encoded]]) -> dict[str, Any]:
        return {**self._collate([encoded for _, encoded in rows]), "records": [record.to_json() for record, _ in rows]}


def _counted(candidates: Sequence[Candidate]) -> Tensor:
    """Of each rationale, see `count_targets`."""
    tokens = [len(candidate.encoded.completion) for candidate in candidates]
    return count_targets(tokens, [candidate.positive for candidate in candidates])


def _graded(file: Path) -> Iterator[tuple[int, Rationale]]:
    """The file's right and wrong rationales with their lines; says how many ungradable ones it skips."""
    skipped = 0
    for line, value in read_json_lines(file):
        record = Rationale.from_json(value, file, line)
        if record.verdict == "ungradable":
            skipped += 1
        else:
            yield line, record
    if skipped:
        print(f"{file}: left out {skipped:,} ungradable rationales", file=sys.stderr)

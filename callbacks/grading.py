"""Turns generated samples into graded rationale records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L

from datamodules.components.records.records import Question, Rationale, rationale_for
from lightning_modules.components.sampling.sampler import Sample


class SampleGrader:
    """Decodes and grades the samples of a batch.

    Data sets whose gold answers hold no LaTeX are compared by value ("1,000" is "1000"), the others by MATH's strings;
    see `grader_for`.

    Args:
        trainer: Its DataModule holds the questions, and decodes and grades answers.
        writer: Who wrote the samples, for the records ("nat", "nce", …).
    """

    def __init__(self, trainer: L.Trainer, writer: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.texts = data.texts
        self.grader = data.grader
        self.writer = writer

    def records(self, samples: list[Sample], batch: dict[str, Any]) -> list[Rationale]:
        """One graded record per sample of questions of a batch."""
        texts = self.texts([sample.token_ids for sample in samples])
        questions = [Question.from_json(batch["questions"][sample.question_index]) for sample in samples]
        grades = self.grader.grade_many([(text, q.gold) for text, q in zip(texts, questions, strict=True)])
        return [
            replace(
                rationale_for(question, sample.k, text, self.writer),
                answer=answer,
                verdict=verdict,
                logprob=sample.logprob,
                tokens=sample.tokens,
                seed=sample.seed,
            )
            for sample, text, question, (verdict, answer) in zip(samples, texts, questions, grades, strict=True)
        ]

"""Turns generated samples into graded rationale records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L

from datamodules.components.records.records import Question, Rationale, rationale_for
from lightning_modules.components.sampling.sampler import Sample


def graded(trainer: L.Trainer, writer: str, samples: list[Sample], batch: dict[str, Any]) -> list[Rationale]:
    """One graded record per sample of questions of a batch, by the Trainer's DataModule; `writer` is who wrote them.

    Data sets whose gold answers hold no LaTeX are compared by value ("1,000" is "1000"), the others by MATH's strings;
    see `grader_for`.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    texts = data.texts([sample.token_ids for sample in samples])
    questions = [Question.from_json(batch["questions"][sample.question_index]) for sample in samples]
    grades = data.grader.grade_many([(text, q.gold) for text, q in zip(texts, questions, strict=True)])
    return [
        replace(
            rationale_for(question, sample.k, text, writer),
            answer=answer,
            verdict=verdict,
            logprob=sample.logprob,
            tokens=sample.tokens,
            seed=sample.seed,
        )
        for sample, text, question, (verdict, answer) in zip(samples, texts, questions, grades, strict=True)
    ]

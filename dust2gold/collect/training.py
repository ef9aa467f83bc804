"""What collecting makes for training: collected.jsonl, then D_pos and D_neg by the machinery of `prepare`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.components.records.records import Question, Rationale, rationale_id
from dust2gold.collect.reply import Choice
from dust2gold.collect.settings import CollectSettings
from dust2gold.commands.prepare import prepare, print_summary
from dust2gold.core.jsonl import write_json_lines

Answered = tuple[Question, Sequence[Choice]]
"""A question and its samples."""


def write_training_data(settings: CollectSettings, answered: Iterable[Answered]) -> None:
    """Writes collected.jsonl and what `prepare` makes of it into the output directory, and prints the counts.

    Raises:
        InputError: If it cannot be written.
    """
    output = Path(settings.output)
    collected = output / "collected.jsonl"
    write_json_lines(collected, _records(settings, answered))
    print_summary(prepare(collected, "records", output, settings.grader))


def _records(settings: CollectSettings, answered: Iterable[Answered]) -> Iterator[dict[str, Any]]:
    """Each question, which carries the data set's own solution, before its rationales."""
    for question, choices in answered:
        yield question.to_json()
        for k, choice in enumerate(choices):
            if is_useful(choice, settings.keep_truncated):
                yield to_rationale(question, k, choice, settings.writer).to_json()


def is_useful(choice: Choice, keep_truncated: bool) -> bool:
    """Whether to train on a sample: a student would learn from one that is empty or cut off to end like that."""
    return bool(choice.text) and (keep_truncated or choice.finish != "length")


def to_rationale(question: Question, k: int, choice: Choice, writer: str) -> Rationale:
    """The `k`-th sample of a question as a record, still to be graded."""
    return Rationale(
        id=rationale_id(question.id, k),
        question_id=question.id,
        question=question.question,
        gold=question.gold,
        rationale=choice.text,
        answer=None,
        verdict="ungradable",
        subject=question.subject,
        level=question.level,
        source=question.source,
        writer=writer,
    )

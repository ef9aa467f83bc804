"""What collecting writes: D_pos and D_neg as `prepare` does, or the predictions and metrics of a student's `test`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.components.grading.grader import StringGrader
from datamodules.components.grading.semantic import open_grader
from datamodules.components.records.predictions import accuracies, prediction, write_metrics, write_predictions
from datamodules.components.records.records import Question, rationale_for, write_rationales
from dust2gold.collect.request import Choice
from dust2gold.collect.settings import CollectSettings
from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import write_json_lines
from dust2gold.core.text import visible
from dust2gold.prepare.prepare import prepare
from dust2gold.prepare.readers import compares_by_value
from dust2gold.prepare.summary import print_summary

Answered = tuple[Question, Sequence[Choice]]
"""A question and its samples."""


def report_flawed(settings: CollectSettings, answered: Sequence[Answered], evaluate: bool) -> None:
    """Counts the samples that are left out, or in a test empty, by reason.

    Raises:
        InputError: If that leaves none of what was answered.
    """
    choices = [choice for _, given in answered for choice in given]
    flaws = Counter(choice.flaw for choice in choices if choice.flaw and not (evaluate and choice.text))
    if not flaws:
        return
    counted = ", ".join(f"{count:,} {flaw}" for flaw, count in flaws.most_common())
    if flaws.total() < len(choices):
        what = "count as wrong" if evaluate else "are left out"
        print(f"warning: of {len(choices):,} samples {flaws.total():,} {what}: {counted}", file=sys.stderr)
        return
    remedy = "raise sampling.max_tokens where they end by length; set think to true to keep reasoning as a part of them"
    remedy += "; once the server itself is mended, name another journal: what is in this one is not asked for again"
    raise InputError(
        f"none of the {len(choices):,} samples can be used: {counted}", file=settings.output, remedy=remedy
    )


def write_training_data(settings: CollectSettings, answered: Sequence[Answered]) -> None:
    """Writes collected.jsonl and what `prepare` makes of it into the output directory, and prints the counts.

    Samples that are empty or cut off, by a filter too, are left out (`Choice.flaw`).

    Raises:
        InputError: If it cannot be written.
    """

    def records() -> Iterator[dict[str, Any]]:
        for question, choices in answered:
            yield question.to_json()  # first: it carries the data set's own solution
            for k, choice in enumerate(choices):
                if not choice.flaw:
                    yield rationale_for(question, k, choice.text, "teacher").to_json()

    output = Path(settings.output)
    write_json_lines(output / "collected.jsonl", records())
    print_summary(prepare(output / "collected.jsonl", "records", output, settings.grader))


def write_evaluation(settings: CollectSettings, answered: Sequence[Answered]) -> None:
    """Grades the answers and writes samples.jsonl, predictions.jsonl and metrics.json into the output directory.

    A sample that is empty or cut off counts as it stands: as wrong, unless it states the answer.

    Raises:
        InputError: If they cannot be written.
    """
    output = Path(settings.output)
    method = settings.method or settings.endpoint.model
    records = [rationale_for(question, 0, choices[0].text, "teacher") for question, choices in answered]
    by_value = compares_by_value(Path(settings.input), settings.format)
    strings = StringGrader(by_value, stated=by_value)
    with open_grader(settings.grader, strings, cache=output / "math-verify.jsonl") as grader:
        grades = grader.grade_many([(record.rationale, record.gold) for record in records])
    graded = [replace(r, verdict=verdict, answer=answer) for r, (verdict, answer) in zip(records, grades, strict=True)]
    rows = [prediction(record, method) for record in graded]
    metrics = accuracies(rows)
    write_rationales(output / "samples.jsonl", graded)
    write_metrics(output, {f"test/{name}": value for name, value in metrics.items()})
    file = write_predictions(output, rows)
    print(f"{visible(method)}: {100 * metrics['accuracy']:.2f}% of {len(rows):,} questions, in {file}")

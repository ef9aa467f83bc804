"""What an evaluation makes of a model's greedy answers: the files that a student's `test` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.components.grading.semantic import open_grader
from datamodules.components.records.predictions import accuracies, prediction, write_metrics, write_predictions
from datamodules.components.records.readers import compares_by_value
from datamodules.components.records.records import Rationale, write_rationales
from dust2gold.collect.settings import CollectSettings, TeacherSampling
from dust2gold.collect.training import Answered, to_rationale
from dust2gold.core.text import visible


def greedy(sampling: TeacherSampling) -> TeacherSampling:
    """One sample, the most probable one."""
    return replace(sampling, n=1, temperature=0.0, top_p=1.0)


def write_evaluation(settings: CollectSettings, answered: Sequence[Answered]) -> None:
    """Grades the answers and writes samples.jsonl, predictions.jsonl and metrics.json into the output directory.

    A sample that is empty or cut off counts as it stands: as wrong, unless it states the answer.

    Raises:
        InputError: If they cannot be written.
    """
    output = Path(settings.output)
    method = settings.method or settings.endpoint.model
    ungraded = [to_rationale(question, 0, choices[0], settings.writer) for question, choices in answered]
    graded = _graded(settings, ungraded)
    rows = [prediction(record, method) for record in graded]
    metrics = accuracies(rows)
    write_rationales(output / "samples.jsonl", graded)
    write_metrics(output, {f"test/{name}": value for name, value in metrics.items()})
    print(
        f"{visible(method)}: {100 * metrics['accuracy']:.2f}% of {len(rows):,} questions, in "
        f"{write_predictions(output, rows)}"
    )


def _graded(settings: CollectSettings, ungraded: Sequence[Rationale]) -> list[Rationale]:
    by_value = compares_by_value(Path(settings.input), settings.format)
    cache = Path(settings.output) / "math-verify.jsonl"
    with open_grader(settings.grader, by_value=by_value, workers=None, time_limit=5.0, cache=cache) as grader:
        grades = grader.grade_many([(record.rationale, record.gold) for record in ungraded])
    return [
        replace(record, verdict=verdict, answer=answer)
        for record, (verdict, answer) in zip(ungraded, grades, strict=True)
    ]

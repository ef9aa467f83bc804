"""From predictions to figures: accuracy by method, data set and subject with Wilson intervals, paired differences."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import InputError
from foundation.json_lines import read_json_lines

Z95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""

OVERALL = "all"
"""The `subject` of the row over all questions of a data set."""

_ORDER = ("cot-kd", "neg", "nat", "nce", "sc", "ws", "asc")


@dataclass(frozen=True)
class Prediction:
    """One method's answer to one test question; `correct` is 0 to 1, as a tie of votes counts fractionally."""

    method: str
    dataset: str
    question_id: str
    subject: str
    correct: float


@dataclass(frozen=True)
class Row:
    """One row of results.json.

    Attributes:
        method: The method.
        dataset: The data set.
        subject: The subject, "all" for the whole data set.
        n: The number of questions.
        correct: The sum of `correct` over them.
        accuracy: correct / n, in [0, 1]; 0 where n is 0.
        ci_low: The lower end of the 95% Wilson interval, in [0, 1].
        ci_high: Its upper end.
    """

    method: str
    dataset: str
    subject: str
    n: int
    correct: float
    accuracy: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline on the questions that both answered.

    Attributes:
        shared: The number of these questions.
        points: The mean difference in accuracy, in percentage points.
        margin: Half the width of its 95% interval (normal, paired by question), in points; None below two questions.
        better: On how many questions the method did better.
        worse: On how many it did worse.
    """

    shared: int
    points: float
    margin: float | None
    better: int
    worse: int


def wilson_interval(correct: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion (Wilson 1927).

    Args:
        correct: The number of successes; a fraction is taken as it is.
        n: The number of trials.

    Returns:
        Both ends, in [0, 1]; (0, 1) for no trials, which tell nothing.

    Raises:
        ValueError: If `correct` is not within 0 and `n`.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} correct of {n}")
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # At 0 and n the ends are exactly 0 and 1; there and next to it the rounding of centre ± half may miss by an ulp.
    low = 0.0 if correct == 0 else max(centre - half, 0.0)
    return low, 1.0 if correct == n else min(centre + half, 1.0)


def method_order(method: str) -> tuple[int, str]:
    """Sorts methods: the paper's in the order of its stages, then all others by name."""
    return (_ORDER.index(method), "") if method in _ORDER else (len(_ORDER), method)


def read_predictions(run: Path) -> list[Prediction]:
    """Reads every predictions.jsonl below a run directory, hidden directories excepted.

    Raises:
        InputError: If the directory or every such file is missing, a field is missing or wrong, or a method answers a
            question of a data set twice.
    """
    if not run.is_dir():
        raise InputError("no such directory", file=run, remedy="name the directory that `run` wrote, as runs/demo")
    files = sorted(path for path in run.rglob("predictions.jsonl") if not _hidden(path.relative_to(run)))
    if not files:
        remedy = "run the pipeline first: python cli.py run --config FILE"
        raise InputError("no predictions.jsonl in it", file=run, remedy=remedy)
    seen: dict[tuple[str, str, str], Path] = {}
    predictions: list[Prediction] = []
    for file in files:
        for line, record in read_json_lines(file):
            prediction = _prediction(record, file, line)
            key = (prediction.method, prediction.dataset, prediction.question_id)
            if key in seen:
                raise InputError(
                    f"'{key[0]}' answers this question of '{key[1]}' twice (also in {seen[key]})", file=file, line=line,
                    field="question_id", remedy="remove the file that is out of date",
                )  # fmt: skip
            seen[key] = file
            predictions.append(prediction)
    return predictions


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _prediction(record: dict[str, Any], file: Path, line: int) -> Prediction:
    texts = {name: _text(record, name, file, line) for name in ("method", "dataset", "question_id", "subject")}
    correct = record.get("correct")
    if not isinstance(correct, (int, float)) or not 0 <= correct <= 1:
        remedy = "a number from 0 to 1 belongs there"
        raise InputError(f"{correct!r} is no share of correct", file=file, line=line, field="correct", remedy=remedy)
    if texts["subject"] == OVERALL:
        remedy = "rename it: that word stands for all questions in results.json"
        raise InputError(f"a subject called '{OVERALL}'", file=file, line=line, field="subject", remedy=remedy)
    return Prediction(correct=float(correct), **texts)


def _text(record: dict[str, Any], name: str, file: Path, line: int) -> str:
    value = record.get(name)
    if not isinstance(value, str) or (not value and name != "subject"):
        problem = "is missing" if name not in record else f"a text was expected, found {value!r}"
        raise InputError(problem, file=file, line=line, field=name, remedy="write the file again with `test`")
    return value


def tabulate(predictions: Iterable[Prediction]) -> list[Row]:
    """Counts predictions by method, data set and subject, and over all subjects.

    Returns:
        Rows by data set, then method, then subject, "all" last; questions without a subject count in "all" alone.
    """
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for prediction in predictions:
        for subject in {prediction.subject or OVERALL, OVERALL}:
            groups[prediction.dataset, prediction.method, subject].append(prediction.correct)
    rows = [_row(method, dataset, subject, values) for (dataset, method, subject), values in groups.items()]
    return sorted(rows, key=lambda row: (row.dataset, method_order(row.method), row.subject == OVERALL, row.subject))


def _row(method: str, dataset: str, subject: str, values: Sequence[float]) -> Row:
    n = len(values)
    # Thirds and the like leave the sum an ulp off a whole number.
    correct = min(round(math.fsum(values), 9), float(n))
    low, high = wilson_interval(correct, n)
    return Row(method, dataset, subject, n, correct, correct / n if n else 0.0, low, high)


def compare(predictions: Iterable[Prediction], dataset: str, method: str, baseline: str) -> Comparison:
    """Compares a method with a baseline, question by question."""
    correct: dict[str, dict[str, float]] = {method: {}, baseline: {}}
    for prediction in predictions:
        if prediction.dataset == dataset and prediction.method in correct:
            correct[prediction.method][prediction.question_id] = prediction.correct
    ours, theirs = correct[method], correct[baseline]
    gains = [value - theirs[question] for question, value in ours.items() if question in theirs]
    n = len(gains)
    mean = math.fsum(gains) / n if n else 0.0
    margin = None
    if n > 1:
        variance = math.fsum((gain - mean) ** 2 for gain in gains) / (n - 1)
        margin = 100 * Z95 * math.sqrt(variance / n)
    return Comparison(n, 100 * mean, margin, sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains))

"""predictions.jsonl: every method's answer to every test question, as read from a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import read_json_lines

OVERALL = "all"
"""The `subject` of the row over all questions of a data set."""


@dataclass(frozen=True)
class Prediction:
    """One method's answer to one test question; `correct` is 0 to 1, as a tie of votes counts fractionally."""

    method: str
    dataset: str
    question_id: str
    subject: str
    correct: float
    level: str = ""


def prediction_files(run: Path) -> list[Path]:
    """Every predictions.jsonl below a run directory, sorted; hidden directories are left out.

    Raises:
        InputError: If there is no such directory or no such file.
    """
    if not run.is_dir():
        raise InputError("no such directory", file=run, remedy="name the directory that `run` wrote, as runs/demo")
    found = run.rglob("predictions.jsonl")
    files = sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(run).parts))
    if not files:
        remedy = "make the run first: python cli.py run --config FILE"
        raise InputError("no predictions.jsonl in it", file=run, remedy=remedy)
    return files


def read_predictions(run: Path) -> list[Prediction]:
    """Reads every predictions.jsonl below a run directory; a method may have several, one for each test set.

    Raises:
        InputError: If the directory or every such file is missing, a field is missing or wrong, or a method answers a
            question of a data set twice.
    """
    seen: dict[tuple[str, str, str], tuple[Path, int]] = {}
    predictions: list[Prediction] = []
    for file in prediction_files(run):
        for line, record in read_json_lines(file):
            prediction = _prediction(record, file, line)
            key = (prediction.method, prediction.dataset, prediction.question_id)
            if (other := seen.setdefault(key, (file, line))) != (file, line):
                problem = f"'{key[0]}' answers this question of '{key[1]}' twice (also in {other[0]})"
                remedy = "remove the file that is out of date"
                raise InputError(problem, file=file, line=line, field="question_id", remedy=remedy)
            predictions.append(prediction)
    return predictions


def _prediction(record: dict[str, Any], file: Path, line: int) -> Prediction:
    texts: dict[str, Any] = {}
    for name in ("method", "dataset", "question_id", "subject"):
        texts[name] = value = record.get(name)
        if not isinstance(value, str) or (not value and name != "subject"):
            problem = "is missing" if name not in record else f"a text was expected, found {value!r}"
            raise InputError(problem, file=file, line=line, field=name, remedy="write the file again with `test`")
    correct = record.get("correct")
    if not isinstance(correct, (int, float)) or not 0 <= correct <= 1:
        remedy = "a number from 0 to 1 belongs there"
        raise InputError(f"{correct!r} is no share of correct", file=file, line=line, field="correct", remedy=remedy)
    if texts["subject"] == OVERALL:
        remedy = "rename it: that word stands for all questions in results.json"
        raise InputError(f"a subject called '{OVERALL}'", file=file, line=line, field="subject", remedy=remedy)
    level = record.get("level")
    return Prediction(correct=float(correct), level=level if isinstance(level, str) else "", **texts)

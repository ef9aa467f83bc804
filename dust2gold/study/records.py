"""What a finished arm leaves: a small JSON file, from which a study goes on anywhere and its tables are made."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError
from dust2gold.core.files import write_json
from dust2gold.core.machine import machine, versions
from dust2gold.core.provenance import short_hash
from dust2gold.report.analyses.predictions import Prediction
from dust2gold.report.section import reading
from dust2gold.run.sources import CODE_ROOT


@dataclass(frozen=True)
class Made:
    """How an arm was made: what defines it, and the circumstances."""

    from_stages: dict[str, str]  # it and all stages it needs: a hash of command lines, configs and inputs, not of code
    commands: tuple[str, ...]  # its own; RUN_DIR stands for the run directory
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    clean: bool | None  # whether the working tree was that commit; None without git
    date: str


@dataclass(frozen=True)
class ArmRecord:
    """The answers of one arm of one cell and seed.

    The questions are in the order of their ids. `correct` has by method a digit for each question, or a list of shares
    where ties of votes count fractionally; `levels` a digit for each question, `-` where it has no level.
    """

    cell: str
    seed: int
    stage: str
    questions: str  # a hash of the ids: arms are compared only on the same questions
    levels: str
    correct: dict[str, str | list[float]]
    made: Made

    def shares(self, method: str) -> list[float]:
        """How right a method's answer to each question is, 0 to 1."""
        return [float(share) for share in self.correct[method]]


def arm_record(cell: str, seed: int, stage: str, predictions: Sequence[Prediction], made: Made) -> ArmRecord:
    """Makes the record of an arm from its answers.

    Raises:
        InputError: If its methods answered different questions.
    """
    by_method: dict[str, list[Prediction]] = {}
    for answer in sorted(predictions, key=lambda answer: (answer.dataset, answer.question_id)):
        by_method.setdefault(answer.method, []).append(answer)
    asked = {method: [(a.dataset, a.question_id, a.level) for a in own] for method, own in by_method.items()}
    questions = next(iter(asked.values()), [])
    if not questions or any(other != questions for other in asked.values()):
        remedy = "a study compares methods on the same questions; leave this stage out of `arms`"
        raise InputError(f"stage '{stage}': its methods answered different questions, or none", remedy=remedy)
    levels = "".join(level[-1] if re.fullmatch(r"(\D*\s)?\d", level) else "-" for *_, level in questions)
    correct = {method: _packed([answer.correct for answer in own]) for method, own in sorted(by_method.items())}
    return ArmRecord(cell, seed, stage, short_hash([key[:2] for key in questions]), levels, correct, made)


def _packed(shares: Sequence[float]) -> str | list[float]:
    whole = all(share in (0, 1) for share in shares)
    return "".join(str(int(share)) for share in shares) if whole else list(shares)


def write_record(file: Path, record: ArmRecord) -> None:
    """Writes a record, whole or not at all."""
    write_json(file, {"schema": 1, **asdict(record)}, indent=1)


def read_record(file: Path) -> ArmRecord | None:
    """Reads a record; None if there is no such file.

    Raises:
        InputError: If it is malformed.
    """
    if not file.is_file():
        return None
    with reading(file):
        value = json.loads(file.read_text(encoding="utf-8"))
        if value.pop("schema") != 1:
            raise ValueError("another schema")
        record = ArmRecord(**{**value, "made": Made(**value["made"])})
        if any(len(record.shares(method)) != len(record.levels) for method in record.correct):
            raise ValueError("as many answers as levels were expected")
    return record


def circumstances() -> dict[str, Any]:
    """Machine, versions, commit and date, as `Made` has them."""
    commit, clean = _commit()
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"machine": machine(), "versions": versions(), "commit": commit, "clean": clean, "date": now}


@cache
def _commit() -> tuple[str | None, bool | None]:
    """The commit of the code and whether nothing but docs/ differs from it, when first asked for."""
    git = ["git", "-C", str(CODE_ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--", ".", ":(exclude)docs"]
        return commit, not subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None, None

"""The settings of a study: what a file such as configs/study.yaml holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dust2gold.core.config_errors import find_option
from dust2gold.core.errors import InputError
from dust2gold.run.settings import RunSettings, parse_settings


@dataclass(frozen=True)
class StudySettings:
    """A study: each of its cells is run once for each seed."""

    run: str  # the runs' directories are <run>/<cell>/seed-<k>
    records: str  # what finished arms leave: <records>/<cell>/seed-<k>/<stage>.json
    cells: dict[str, dict[str, Any]]  # by name: values of RunSettings, laid over `settings`; `arms` of its own
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # of data and of training alike
    settings: dict[str, Any] = field(default_factory=dict)  # values of RunSettings for all cells
    arms: tuple[str, ...] | None = None  # the stages whose answers count; null: all that answer test questions
    contrasts: tuple[tuple[str, str], ...] = ()  # primary: a method minus another, announced before the run
    secondary: tuple[tuple[str, str], ...] = ()


def load_study(file: str) -> StudySettings:
    """Reads the settings of a study.

    Raises:
        InputError: If the file is missing or malformed, or names a seed twice or a cell as no directory can be.
    """
    study = parse_settings(["study", "--config", file], StudySettings)
    if wrong := [name for name in study.cells if name.startswith(".") or Path(name).name != name]:
        problem = f"'{wrong[0]}' cannot be a directory's name"
        raise InputError(problem, file=file, field="cells", remedy="leave the slash or dot out")
    if len(set(study.seeds)) != len(study.seeds):
        raise InputError("a seed comes twice", file=file, field="seeds", remedy="remove one")
    return study


def cell_settings(study: StudySettings, file: str, cell: str, seed: int) -> RunSettings:
    """The settings of the run of one cell and seed; `file` is what the study was read from.

    Raises:
        InputError: If a field is unknown or of another type, or one that the study sets.
    """
    values = {name: value for name, value in {**study.settings, **study.cells[cell]}.items() if name != "arms"}
    try:
        if own := {"run", "seed", "data_seed"}.intersection(values):
            raise InputError("the study sets it", field=min(own), remedy="take it away; `run` and `seeds` say it")
        run = str(Path(study.run, cell, f"seed-{seed}"))
        values = {"run": run, "seed": seed, "data_seed": seed, **values}
        return parse_settings(["study", *(f"--{name}={_typed(value)}" for name, value in values.items())], RunSettings)
    except InputError as error:
        _, line = find_option((error.field or "").split("."), ["study", "--config", file])
        raise InputError(error.problem, file=file, line=line, field=error.field, remedy=error.remedy) from error


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def arms_of(study: StudySettings, cell: str) -> Sequence[str] | None:
    """The stages of a cell whose answers count: its own `arms`, or the study's."""
    own: Sequence[str] | None = study.cells[cell].get("arms", study.arms)
    return own


def chosen(asked: Sequence[Any], known: Sequence[Any], flag: str) -> list[Any]:
    """What a flag asks for of what the study has, in its order; all if it asks for nothing."""
    if unknown := [each for each in asked if each not in known]:
        raise InputError(f"{flag} {unknown[0]}: not of this study", remedy=f"choose of {', '.join(map(str, known))}")
    return [each for each in known if each in asked or not asked]

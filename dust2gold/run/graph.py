"""The order of the stages, and the rule that what one stage puts away is no other's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from dust2gold.core.errors import InputError
from dust2gold.run.stage import Stage

ALL = "*"
"""Among a stage's needs: all stages that do not need all themselves."""


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """Sorts stages so that each follows those it needs, otherwise keeping the given order; spells out "*".

    Raises:
        InputError: If a name comes twice, a needed stage does not exist, or stages need each other in a circle.
    """
    others = tuple(stage.name for stage in stages if ALL not in stage.needs)
    stages = [replace(stage, needs=others) if ALL in stage.needs else stage for stage in stages]
    _check_names(stages)
    ordered: list[Stage] = []
    waiting = list(stages)
    while waiting:
        placed = {stage.name for stage in ordered}
        ready = next((stage for stage in waiting if placed.issuperset(stage.needs)), None)
        if ready is None:
            first = waiting[0]
            raise InputError(
                f"stages need each other in a circle: {' -> '.join(_circle(waiting))}",
                file=first.file,
                field=f"stages.{first.name}.needs",
                remedy="take one of these needs away",
            )
        ordered.append(ready)
        waiting.remove(ready)
    return ordered


def _check_names(stages: Sequence[Stage]) -> None:
    by_name: dict[str, Stage] = {}
    for stage in stages:
        if stage.name in by_name:
            where = by_name[stage.name].file
            raise InputError(
                f"two stages have this name (the other one in {where})",
                file=stage.file,
                field=f"stages.{stage.name}",
                remedy="rename one of them",
            )
        by_name[stage.name] = stage
    for stage in stages:
        for need in stage.needs:
            if need not in by_name:
                raise InputError(
                    f"needs '{need}', which is no stage",
                    file=stage.file,
                    field=f"stages.{stage.name}.needs",
                    remedy=f"stages: {', '.join(by_name)}",
                )


def _circle(waiting: Sequence[Stage]) -> list[str]:
    """Follows, from the first waiting stage, one need that waits as well until a name comes again."""
    by_name = {stage.name: stage for stage in waiting}
    path = [waiting[0].name]
    while path[-1] not in path[:-1]:
        path.append(next(need for need in by_name[path[-1]].needs if need in by_name))
    return path[path.index(path[-1]) :]


def check_directories(stages: Iterable[Stage], run: Path) -> None:
    """Checks that putting a stage's directories away touches nothing but this stage's own work.

    Raises:
        InputError: If a directory lies outside the run directory, or holds another stage's directory or output.
    """
    root = run.resolve()
    owned: list[tuple[Path, Stage]] = []
    for stage in stages:
        for name in stage.directories:
            path = Path(name).resolve()
            inside = path != root and path.is_relative_to(root)
            if not inside or path.relative_to(root).parts[0].startswith("."):
                raise InputError(
                    f"'{name}' is not a visible directory inside the run directory {run}",
                    file=stage.file,
                    field=f"stages.{stage.name}.directory",
                    remedy="it is put away when the stage starts afresh: name one as {run}/" + stage.name,
                )
            owned.append((path, stage))
    for path, owner in owned:
        for stage in stages:
            if stage is not owner:
                _check_apart(path, owner, stage)


def _check_apart(path: Path, owner: Stage, stage: Stage) -> None:
    for name in (*stage.directories, *stage.outputs):
        if Path(name).resolve().is_relative_to(path):
            raise InputError(
                f"'{name}' lies in the directory of stage '{owner.name}', which puts it away when it starts afresh",
                file=stage.file,
                field=f"stages.{stage.name}",
                remedy="give each stage a directory of its own",
            )

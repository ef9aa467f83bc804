"""One stage of a run: the commands it consists of, what it needs, what it leaves behind; and the order of stages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from dust2gold.core.configs import config_files
from dust2gold.core.errors import InputError

ALL = "*"
"""Among a stage's needs: all stages that do not need all themselves."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RESUMING = ("fit", "predict", "collect")
"""The verbs that find for themselves what of an interrupted attempt they can go on from."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: Its name; its record, and by default its directory, is called after it.
        about: What it does, in a line.
        commands: Each command line as a user would type it in a shell, without `python cli.py`.
        needs: The stages that must be done before, or `("*",)`.
        inputs: Files and directories whose content matters beyond what the needed stages make.
        students: Models it reads: directories, whose content matters, hub names, or `embedded`.
        outputs: What exists in the run directory when it is done, as `neg/adapter`.
        directories: What it alone writes to in the run directory; moved aside when it starts afresh.
    """

    name: str
    about: str
    commands: tuple[str, ...]
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    students: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"'{self.name}' is no stage name", remedy="use letters, digits, - and _; it names files")
        if not self.commands or not all(self.words):
            raise self.error("a command is missing", "give each as 'fit --config FILE'")
        object.__setattr__(self, "directories", self.directories or (self.name,))

    @property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """The words of each command."""
        try:
            return tuple(tuple(shlex.split(command)) for command in self.commands)
        except ValueError as error:
            raise self.error(f"a command cannot be split into words ({error})", "close the quotation") from error

    @property
    def verbs(self) -> tuple[str, ...]:
        """The verb of each command."""
        return tuple(verb for verb, *_ in self.words)

    @property
    def configs(self) -> tuple[str, ...]:
        """The files that its commands name after `--config` or `-c`, each once, in order."""
        return tuple(dict.fromkeys(name for words in self.words for name in config_files(words)))

    @property
    def resumes(self) -> bool:
        """Whether an interrupted attempt from other settings may lie where it is.

        Its commands go on from what of it is still the same; unless one is told to go on from whatever there is.
        """
        any_checkpoint = any("--ckpt_path last" in " ".join(words).replace("=", " ") for words in self.words)
        return any(verb in _RESUMING for verb in self.verbs) and not any_checkpoint

    def error(self, problem: str, remedy: str) -> InputError:
        """Makes an error about this stage."""
        return InputError(f"stage '{self.name}': {problem}", remedy=remedy)


def as_typed(words: Sequence[str]) -> str:
    """A command line as the user would type it, quoted for the shell."""
    return shlex.join(["python", "cli.py", *words])


def in_order(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Sorts stages so that each follows those it needs, otherwise keeping the given order; spells out "*".

    Raises:
        InputError: If a name comes twice, a needed stage does not exist, or stages need each other in a circle.
    """
    others = tuple(stage.name for stage in stages if ALL not in stage.needs)
    waiting = [replace(stage, needs=others) if ALL in stage.needs else stage for stage in stages]
    names = [stage.name for stage in waiting]
    for stage in waiting:
        if names.count(stage.name) > 1:
            raise stage.error("another stage has this name too", "rename one of them")
        for need in set(stage.needs).difference(names):
            raise stage.error(f"it needs '{need}', which is no stage", f"stages: {', '.join(names)}")
    try:
        TopologicalSorter({stage.name: stage.needs for stage in waiting}).prepare()
    except CycleError as error:
        problem = f"stages need each other in a circle: {' -> '.join(reversed(error.args[1]))}"
        raise InputError(problem, remedy="take one of these needs away") from error
    ordered: list[Stage] = []
    while waiting:
        placed = {stage.name for stage in ordered}
        ordered.append(next(stage for stage in waiting if placed.issuperset(stage.needs)))
        waiting.remove(ordered[-1])
    return tuple(ordered)


def check_directories(stages: Sequence[Stage], run: Path) -> None:
    """Checks that moving a stage's directories aside touches nothing but this stage's own work.

    Raises:
        InputError: If a directory lies outside the run directory, or holds another stage's directory or output.
    """
    root = run.resolve()
    for owner in stages:
        for name in owner.directories:
            path = (run / name).resolve()
            inside = path != root and path.is_relative_to(root)
            if not inside or path.relative_to(root).parts[0].startswith("."):
                problem = f"'{name}' is not a visible directory inside the run directory {run}"
                raise owner.error(problem, f"it is moved aside when the stage starts afresh: name one as {owner.name}")
            for stage in stages:
                for other in (*stage.directories, *stage.outputs) if stage is not owner else ():
                    if (run / other).resolve().is_relative_to(path):
                        whose = f"'{other}' lies in the directory of stage '{owner.name}'"
                        problem = f"{whose}, which is moved aside when that starts afresh"
                        raise stage.error(problem, "give each stage a directory of its own")

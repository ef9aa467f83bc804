"""One stage of a pipeline: what it runs, what it reads, what it leaves behind."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_GOING_ON = ("fit", "predict", "collect")
"""The verbs that find for themselves, by hashes of their own, what of an interrupted attempt they can go on from."""


@dataclass(frozen=True)
class Stage:
    """One stage with every variable replaced.

    Attributes:
        name: Its name; the manifest is called after it.
        about: What it does, in a line.
        commands: The words of each command line, without `python cli.py`.
        needs: The stages that must be done before.
        inputs: Files and directories whose content matters beyond what the needed stages make.
        students: Models it reads: directories, whose content matters, hub names, or `embedded`.
        outputs: Files and directories that exist when it is done.
        directories: What it alone writes to; put aside before it starts afresh.
        file: The pipeline file it stands in.
    """

    name: str
    about: str
    commands: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...]
    inputs: tuple[str, ...]
    students: tuple[str, ...]
    outputs: tuple[str, ...]
    directories: tuple[str, ...]
    file: Path

    @property
    def configs(self) -> tuple[str, ...]:
        """The files that its commands name after `--config` or `-c`, each once, in order."""
        return tuple(dict.fromkeys(name for command in self.commands for name in config_files(command)))

    @property
    def goes_on(self) -> bool:
        """Whether an interrupted attempt from other settings may lie where it is.

        Its commands go on from what of it is still the same; unless one is told to go on from whatever there is.
        """
        return any(command[0] in _GOING_ON for command in self.commands) and not any(map(_takes_any, self.commands))


def _takes_any(command: Sequence[str]) -> bool:
    pairs = zip(command, (*command[1:], ""), strict=True)
    return any("=".join(pair) == "--ckpt_path=last" or pair[0] == "--ckpt_path=last" for pair in pairs)


def config_files(command: Sequence[str]) -> list[str]:
    """The files that a command line names after `--config` or `-c`, in order."""
    found: list[str] = []
    for word, following in zip(command, (*command[1:], ""), strict=True):
        if word in ("--config", "-c") and following:
            found.append(following)
        elif word.startswith("--config="):
            found.append(word.partition("=")[2])
    return found


def as_typed(command: Sequence[str]) -> str:
    """Returns a command line as the user would type it, quoted for the shell."""
    return shlex.join(["python", "cli.py", *command])

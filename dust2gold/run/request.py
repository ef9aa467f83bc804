"""What the user asked `run` for, and the command that carries on after an interruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dust2gold.run.stage import as_typed


@dataclass(frozen=True)
class Request:
    """The flags of `run`."""

    config: str  # the file of settings, as typed
    settings: Mapping[str, str] = field(default_factory=dict)  # of `--set`
    stages: str | None = None  # the Python file
    run: str | None = None  # the directory
    only: tuple[str, ...] = ()
    start: str | None = None  # the stage of `--from`
    force: bool = False
    isolate: bool = False
    jobs: int = 1
    seeds: tuple[int, ...] = ()  # none for one run with the settings' own seed

    @property
    def redo(self) -> bool:
        """Whether the stages asked for are done again though nothing changed."""
        return self.force or self.start is not None

    def resuming(self, remaining: Sequence[str]) -> str:
        """The command that carries on with the stages that remain.

        It drops `--force` and `--from`: these would begin again what has been finished by now.
        """
        words = ["run", "--config", self.config]
        words += [] if self.stages is None else ["--stages", self.stages]
        words += [] if self.run is None else ["--run", self.run]
        words += ["--seeds", ",".join(map(str, self.seeds))] if self.seeds else []
        for name, value in self.settings.items():
            words += ["--set", f"{name}={value}"]
        if self.only or self.start is not None:
            words += ["--only", ",".join(remaining)]
        words += ["--isolate"] if self.isolate else []
        words += ["--jobs", str(self.jobs)] if self.jobs > 1 else []
        return as_typed(words)

"""Which stages the user asked for, and the command that carries on after an interruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dust2gold.core.errors import InputError
from dust2gold.run.config import Pipeline
from dust2gold.run.stage import Stage, as_typed


@dataclass(frozen=True)
class Request:
    """The flags of `run`.

    Attributes:
        config: The pipeline file, as typed.
        settings: The values of `--set`.
        run: The directory of `--run`.
        only: The stages of `--only`.
        start: The stage of `--from`.
        force: Whether unchanged stages are done again.
        isolate: Whether each command gets a process of its own.
        jobs: How many stages may run at a time.
        seeds: The seeds of `--seeds`; none for one run with the pipeline's own seed.
    """

    config: str
    settings: Mapping[str, str] = field(default_factory=dict)
    run: str | None = None
    only: tuple[str, ...] = ()
    start: str | None = None
    force: bool = False
    isolate: bool = False
    jobs: int = 1
    seeds: tuple[int, ...] = ()

    @property
    def redo(self) -> bool:
        """Whether the stages asked for are done again though nothing changed."""
        return self.force or self.start is not None

    def resuming(self, remaining: Sequence[str]) -> str:
        """Returns the command that carries on with the stages that remain.

        It drops `--force` and `--from`: these would begin again what has been finished by now.
        """
        words = ["run", "--config", self.config]
        words += [] if self.run is None else ["--run", self.run]
        words += ["--seeds", ",".join(map(str, self.seeds))] if self.seeds else []
        for name, value in self.settings.items():
            words += ["--set", f"{name}={value}"]
        if self.only or self.start is not None:
            words += ["--only", ",".join(remaining)]
        words += ["--isolate"] if self.isolate else []
        words += ["--jobs", str(self.jobs)] if self.jobs > 1 else []
        return as_typed(words)


def selected(pipeline: Pipeline, request: Request) -> tuple[Stage, ...]:
    """Returns the stages that the request covers, in order: all, those of `--only`, or `--from` one to the last.

    Raises:
        InputError: If a name is no stage.
    """
    names = [stage.name for stage in pipeline.stages]
    for flag, asked in (("--only", request.only), ("--from", () if request.start is None else (request.start,))):
        for name in asked:
            if name not in names:
                problem = f"{flag} {name}: no such stage"
                raise InputError(problem, file=pipeline.file, remedy=f"stages: {', '.join(names)}")
    if request.only:
        return tuple(stage for stage in pipeline.stages if stage.name in request.only)
    if request.start is not None:
        return pipeline.stages[names.index(request.start) :]
    return pipeline.stages

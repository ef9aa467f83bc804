"""Whether a stage must run, can be skipped or resumes, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dust2gold.core.errors import InputError
from dust2gold.core.students import locate_student
from dust2gold.run.basis import Installed
from dust2gold.run.config import Pipeline
from dust2gold.run.fields import way_to
from dust2gold.run.fingerprint import ABSENT, ContentHashes, Fingerprint, fingerprint_of
from dust2gold.run.manifest import Manifest, Manifests
from dust2gold.run.shelf import Shelf
from dust2gold.run.stage import Stage, as_typed

_REASONS_SHOWN = 3


class Action(Enum):
    """What happens to a stage."""

    RUN = "run"
    RESUME = "resume"
    SKIP = "skip"
    RESTORE = "restore"


@dataclass(frozen=True)
class Decision:
    """What happens to a stage and why.

    Attributes:
        action: What happens.
        reason: Why, as a short clause.
        completed: Which of its commands an earlier attempt has completed.
    """

    action: Action
    reason: str
    completed: tuple[bool, ...]


class Planner:
    """Compares stages with their manifests and with the files as they are.

    Args:
        pipeline: The pipeline.
        installed: The code and the libraries; by default those that are running.
    """

    def __init__(self, pipeline: Pipeline, installed: Installed | None = None) -> None:
        self.pipeline = pipeline
        self.manifests = Manifests(pipeline.run)
        self.shelf = Shelf(pipeline.run)
        self._hashes = ContentHashes(pipeline.run / ".stages" / "hashes")
        self._installed = Installed() if installed is None else installed
        self._by_name = {stage.name: stage for stage in pipeline.stages}

    def fingerprint(self, stage: Stage) -> Fingerprint:
        """Takes the fingerprint of a stage whose needed stages have manifests."""
        needs: dict[str, str] = {}
        made: dict[str, str] = {}
        for name in stage.needs:
            manifest = self.manifests.read(name)
            if manifest is not None:
                needs[name] = manifest.fingerprint.key
                made.update(manifest.outputs)
        verbs = {command[0] for command in stage.commands}
        code, libraries = self._installed.code(verbs), self._installed.libraries(verbs)
        return fingerprint_of(stage, needs, made, self._hashes, code, libraries)

    def outputs(self, stage: Stage) -> dict[str, str]:
        """Returns the hash of each declared output, `ABSENT` where there is none."""
        return {name: self._hashes.of(Path(name)) for name in stage.outputs}

    def decide(self, stage: Stage, *, redo: bool = False) -> Decision:
        """Decides about a stage once those it needs are as they will be.

        Args:
            stage: The stage.
            redo: Whether it was asked for though nothing may have changed.
        """
        manifest = self.manifests.read(stage.name)
        afresh = (False,) * len(stage.commands)
        if manifest is not None and (redo or manifest.state == "redo"):
            return Decision(Action.RUN, "asked for anew", afresh)
        fingerprint = self.fingerprint(stage)
        changes = [] if manifest is None else fingerprint.differences(manifest.fingerprint)
        kept = self.shelf.kept(stage, fingerprint.key) if changes or manifest is None else None
        if kept is not None:
            completed = tuple(record.done for record in kept.commands)
            return Decision(Action.RESTORE, "what it made before fits again", completed)
        if manifest is None:
            return Decision(Action.RUN, "not done yet", afresh)
        if changes:
            more = len(changes) - _REASONS_SHOWN
            shown = changes[:_REASONS_SHOWN] + ([f"{more} more"] if more > 0 else [])
            going_on = manifest.state == "running" and stage.goes_on
            shown += ["interrupted: its commands go on from what still fits"] if going_on else []
            return Decision(Action.RUN, "; ".join(shown), afresh)
        if manifest.state == "running":
            completed = tuple(record.done for record in manifest.commands)
            reason = f"interrupted, {sum(completed)} of {len(completed)} commands completed"
            return Decision(Action.RESUME, reason, completed)
        broken = self._broken_output(stage, manifest)
        if broken is not None:
            return Decision(Action.RUN, broken, afresh)
        return Decision(Action.SKIP, "unchanged", (True,) * len(stage.commands))

    def _broken_output(self, stage: Stage, manifest: Manifest) -> str | None:
        for name, found in self.outputs(stage).items():
            if found == ABSENT:
                return f"output missing: {name}"
            if name not in manifest.outputs:
                return f"output not recorded: {name}"
            if found != manifest.outputs[name]:
                return f"output changed since: {name}"
        return None

    def check(self, stages: Sequence[Stage]) -> list[str]:
        """Checks what can be checked before hours of work begin.

        Returns:
            A note for each needed stage outside `stages` that is used though it is out of date.

        Raises:
            InputError: If a config, input or student is missing that no stage can make, or a needed stage is not done.
        """
        names = {stage.name for stage in stages}
        needed = {need: stage for stage in stages for need in stage.needs if need not in names}
        for stage in stages:
            self._check_files(stage)
        return [note for need, stage in needed.items() for note in self._check_need(self._by_name[need], stage)]

    def _check_files(self, stage: Stage) -> None:
        run = self.pipeline.run.resolve()
        for word, paths in (("config", stage.configs), ("input", stage.inputs)):
            for name in paths:
                path = Path(name)
                if not path.exists() and not path.resolve().is_relative_to(run):
                    raise InputError(
                        f"stage '{stage.name}': {word} '{name}' does not exist", file=stage.file, remedy=way_to(path)
                    )
        for name in stage.students:
            locate_student(name)

    def _check_need(self, need: Stage, stage: Stage) -> list[str]:
        manifest = self.manifests.read(need.name)
        problem = "is not done" if manifest is None or manifest.state != "done" else self._broken_output(need, manifest)
        if problem is not None:
            raise InputError(
                f"stage '{stage.name}' needs '{need.name}': {problem}",
                file=stage.file,
                remedy=f"add it (--only {need.name},{stage.name}) or run the pipeline without --only and --from",
            )
        decision = self.decide(need)
        return [f"'{need.name}' is used as it stands ({decision.reason})"] if decision.action is not Action.SKIP else []


def label(pipeline: Pipeline, stage: Stage) -> str:
    """Returns the beginning of a stage's lines: its number among all stages and its name."""
    total = len(pipeline.stages)
    number = pipeline.stages.index(stage) + 1
    return f"[{number:>{len(str(total))}}/{total}] {stage.name}"


def show_plan(planner: Planner, stages: Sequence[Stage], *, redo: bool, tell: Callable[[str], None]) -> None:
    """Prints what `run` would do, with each command as the user would type it, and changes nothing.

    Args:
        planner: The planner.
        stages: The stages asked for.
        redo: Whether they were asked for though nothing may have changed.
        tell: Prints a line.
    """
    unsettled: set[str] = set()
    for stage in stages:
        decision = _foresee(planner, stage, unsettled, redo)
        if decision.action is not Action.SKIP:
            unsettled.add(stage.name)
        tell(f"{label(planner.pipeline, stage)}: {stage.about}")
        tell(f"    {decision.action.value}: {decision.reason}")
        for command, completed in zip(stage.commands, decision.completed, strict=True):
            tell(f"    {'# completed: ' if completed else ''}{as_typed(command)}")
    tell(f"{len(unsettled)} of {len(stages)} stages would run")


def _foresee(planner: Planner, stage: Stage, unsettled: Collection[str], redo: bool) -> Decision:
    """Decides about a stage whose needed stages may still have to run: what they will make is not known yet."""
    waits = [need for need in stage.needs if need in unsettled]
    if waits and not redo:
        return Decision(Action.RUN, f"after {', '.join(waits)}", (False,) * len(stage.commands))
    return planner.decide(stage, redo=redo)

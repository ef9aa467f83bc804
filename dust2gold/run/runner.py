"""Runs the stages that must run, in order, and records each step so that an interruption costs one command at most."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone

from dust2gold.core.errors import InputError
from dust2gold.run.durations import duration
from dust2gold.run.fingerprint import ABSENT
from dust2gold.run.lock import only_run_in
from dust2gold.run.manifest import CommandRecord, Manifest
from dust2gold.run.plan import Action, Decision, Planner, label
from dust2gold.run.selection import Request, selected
from dust2gold.run.stage import Stage, as_typed

Execute = Callable[[list[str]], "int | None"]
"""Runs one command line, given without `python cli.py`; anything but 0 or None is a failure."""

_INTERRUPTED = (130, -signal.SIGINT)
"""How a command ends that was stopped with Ctrl-C: as a shell reports it, and as `subprocess` does."""

_PREEMPTED = (128 + signal.SIGTERM, 128 + signal.SIGUSR1)
"""How a command ends that a scheduler stopped."""


class Runner:
    """Runs a pipeline.

    Args:
        planner: Decides what must run.
        request: What the user asked for.
        execute: Runs one command line.
        tell: Prints a line for the user.
    """

    def __init__(self, planner: Planner, request: Request, execute: Execute, tell: Callable[[str], None]) -> None:
        self._planner = planner
        self._request = request
        self._execute = execute
        self._tell = tell
        self._stages = selected(planner.pipeline, request)
        self._remaining = [stage.name for stage in self._stages]
        self._asked = False
        self.skipped: list[Stage] = []
        """The stages that `run` left as they were, so far."""

    @property
    def resuming(self) -> str:
        """The command that carries on from here; with several seeds other runs may still have to do every stage."""
        names = [stage.name for stage in self._stages] if self._request.seeds else self._remaining
        return self._request.resuming(names)

    def run(self) -> None:
        """Runs, resumes or skips each stage asked for.

        Raises:
            InputError: If another run is at work here, a needed stage or file is missing, or a command fails in a
                way the user can mend; any other exception of a command passes through.
            KeyboardInterrupt: If the user stops it. The stage stays `running` and resumes.
        """
        started = time.monotonic()
        with only_run_in(self._planner.pipeline.run):
            for note in self._planner.check(self._stages):
                self._tell(f"note: {note}")
            if self._request.redo and not self._asked:
                self.ask_anew()
            self._settle_all()
        count = len(self._stages)
        self._tell(f"{count} {'stage' if count == 1 else 'stages'} in {duration(time.monotonic() - started)}")

    def ask_anew(self) -> None:
        """Marks the stages at once, so that an interrupted `--force` carries on without it and repeats nothing.

        `run` does so itself unless it has been done before.
        """
        self._asked = True
        for stage in self._stages:
            manifest = self._planner.manifests.read(stage.name)
            if manifest is not None:
                manifest.state = "redo"
                self._planner.manifests.write(manifest)

    def _settle_all(self) -> None:
        for stage in self._stages:
            self._settle(stage)
            self._remaining.remove(stage.name)

    def _settle(self, stage: Stage) -> None:
        manifest = self._opened(stage)
        if manifest is not None:
            self._carry_out(stage, manifest, self._execute)
            self._closed(stage, manifest)

    def _opened(self, stage: Stage) -> Manifest | None:
        """Decides about a stage whose needed stages are settled; its manifest if it must run, None if it need not."""
        head = label(self._planner.pipeline, stage)
        decision = self._planner.decide(stage)
        if decision.action is Action.RESTORE:
            self._restore(stage)
            self._tell(f"{head}: {decision.reason}")
            decision = self._planner.decide(stage)
        if decision.action is Action.SKIP:
            self._tell(f"{head}: {stage.about} - skipped ({decision.reason})")
            self.skipped.append(stage)
            return None
        self._tell(f"{head}: {stage.about} - {decision.action.value} ({decision.reason})")
        return self._begin(stage, decision)

    def _carry_out(self, stage: Stage, manifest: Manifest, execute: Execute) -> None:
        for number, record in enumerate(manifest.commands, 1):
            if not record.done:
                self._attempt(stage, number, record, manifest, execute)

    def _closed(self, stage: Stage, manifest: Manifest) -> None:
        self._finish(stage, manifest)
        self._tell(f"{label(self._planner.pipeline, stage)}: done in {duration(manifest.seconds)}")

    def _restore(self, stage: Stage) -> None:
        """Brings back what fits again; what stands in its place goes where it was, and is as safe there."""
        shelf, manifests = self._planner.shelf, self._planner.manifests
        kept, present = shelf.kept(stage, self._planner.fingerprint(stage).key), manifests.read(stage.name)
        if kept is None:
            return
        if present is not None:
            shelf.put(stage, present)
            manifests.forget(stage.name)  # killed from here on, `run` finds no manifest, and goes on below
        shelf.take_back(stage, kept.fingerprint.key)
        manifests.write(kept)
        shelf.discard(stage, kept.fingerprint.key)

    def _begin(self, stage: Stage, decision: Decision) -> Manifest:
        earlier = self._planner.manifests.read(stage.name)
        if decision.action is Action.RESUME and earlier is not None:
            return earlier
        # Before the new manifest is written: a crash in between must not pass old files off as this attempt's.
        if earlier is None or earlier.state != "running" or not stage.goes_on:
            self._planner.shelf.put(stage, earlier)
        manifest = Manifest(
            stage=stage.name,
            about=stage.about,
            state="running",
            fingerprint=self._planner.fingerprint(stage),
            commands=[CommandRecord(command) for command in stage.commands],
            started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        self._planner.manifests.write(manifest)
        return manifest

    def _attempt(self, stage: Stage, number: int, record: CommandRecord, manifest: Manifest, execute: Execute) -> None:
        where = f"stage '{stage.name}', command {number} of {len(manifest.commands)}"
        by_hand = f"repeat it alone with `{as_typed(record.command)}`, or carry on with `{self.resuming}`"
        started = time.monotonic()
        try:
            check_ending(execute(list(record.command)))
            record.done = True
        except InputError as error:
            remedy = f"{error.remedy}; {by_hand}" if error.remedy else by_hand
            raise InputError(
                f"{error.problem} ({where})", file=error.file, line=error.line, field=error.field, remedy=remedy
            ) from error
        except SystemExit as error:
            _check_interrupt(error)
            if error.code in _PREEMPTED:
                print(f"{where} was stopped by a signal; carry on with `{self.resuming}`", file=sys.stderr)
                raise
            if error.code not in (None, 0):
                raise InputError(f"{where} ended with exit status {error.code}", remedy=by_hand) from error
            record.done = True
        except Exception:
            print(f"{where} failed; {by_hand}", file=sys.stderr)
            raise
        finally:
            record.seconds += time.monotonic() - started
            self._planner.manifests.write(manifest)

    def _finish(self, stage: Stage, manifest: Manifest) -> None:
        manifest.outputs = self._planner.outputs(stage)
        missing = [name for name, found in manifest.outputs.items() if found == ABSENT]
        manifest.state = "redo" if missing else "done"
        self._planner.manifests.write(manifest)
        if missing:
            raise InputError(
                f"stage '{stage.name}' completed without writing {', '.join(missing)}",
                file=stage.file,
                field=f"stages.{stage.name}.outputs",
                remedy="mend its commands or its `outputs`",
            )
        self._planner.shelf.discard(stage)


def check_ending(code: int | None) -> None:
    """Raises as its ending says if a command did not end well: KeyboardInterrupt, or SystemExit with its status."""
    if code in _INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise SystemExit(128 - code if code < 0 else code)  # a signal's number, as a shell reports it


def _check_interrupt(error: SystemExit) -> None:
    """Lightning turns Ctrl-C into `exit(1)`: without this, an interruption would be reported as a failure."""
    if error.code in _INTERRUPTED or isinstance(error.__context__, KeyboardInterrupt):
        raise KeyboardInterrupt from error

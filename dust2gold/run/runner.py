"""Runs the stages that must run, and records each step so that an interruption costs one command at most."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dust2gold.core import locks
from dust2gold.core.errors import InputError
from dust2gold.core.signals import SIGNALS
from dust2gold.core.text import say
from dust2gold.run.children import Children, shares
from dust2gold.run.leaks import warn_of_leaks
from dust2gold.run.plan import ABSENT, Plan
from dust2gold.run.record import CommandRecord, StageRecord, duration
from dust2gold.run.stage import Stage, as_typed

Execute = Callable[[list[str]], "int | None"]
"""Runs one command line, given without `python cli.py`; anything but 0 or None is a failure."""

_PREEMPTED = tuple(128 + number for number in SIGNALS)  # how a command ends that a scheduler stopped


class _Job(NamedTuple):
    stage: Stage
    share: dict[str, str]


class Runner:
    """Runs stages, each when those it needs are done: one after the other, or up to `--jobs` at a time.

    Side by side, each command has a Python of its own that writes to `<run>/logs/<stage>.log`; a stage that is alone
    has the terminal and the whole machine. After a failure no other stage begins; those under way end first.

    `flags` are those of `run`; `execute` runs one command line on the terminal.
    """

    def __init__(self, plan: Plan, flags: argparse.Namespace, execute: Execute, children: Children) -> None:
        self.plan = plan
        self.stages = plan.selected(flags.only, flags.start)
        self.skipped: list[Stage] = []  # what `run` left as it was
        self._flags = flags
        self._execute = execute
        self._children = children
        self._remaining = list(self.stages)
        self._jobs: dict[Future[None], _Job] = {}
        self._compared = False  # the test questions with those of training
        self._shares = shares(flags.jobs) if flags.jobs > 1 else []

    @property
    def redo(self) -> bool:
        """Whether the stages asked for are done again though nothing changed."""
        return self._flags.force or self._flags.start is not None

    @property
    def resuming(self) -> str:
        """The command that carries on from here.

        It has no `--force` and no `--from`, which would begin again what has been finished by now; with several seeds
        other runs may still have to do every stage.
        """
        flags, stages = self._flags, self.stages if self._flags.seeds else self._remaining
        words = ["run", "--config", flags.config]
        words += ["--stages", flags.stages] if flags.stages is not None else []
        words += ["--run", flags.run] if flags.run is not None else []
        words += ["--seeds", ",".join(map(str, flags.seeds))] if flags.seeds else []
        words += [word for name, value in flags.settings for word in ("--set", f"{name}={value}")]
        if flags.only or flags.start is not None:
            words += ["--only", ",".join(stage.name for stage in stages)]
        words += ["--isolate"] if flags.isolate else []
        words += ["--jobs", str(flags.jobs)] if flags.jobs > 1 else []
        return as_typed(words)

    def run(self) -> None:
        """Runs, resumes or skips each stage asked for.

        Raises:
            InputError: If another run is at work here, a needed stage or file is missing, or a command fails in a
                way the user can mend; any other exception of a command passes through.
            KeyboardInterrupt: If the user stops it. The stage stays `running` and resumes.
        """
        started = time.monotonic()
        with only_run_in(self.plan.run), ThreadPoolExecutor(self._flags.jobs) as pool:
            for note in self.plan.check(self.stages):
                say(f"note: {note}")
            if self.redo:
                self.ask_anew()
            while self._remaining:
                self._advance(pool)
        count = len(self.stages)
        say(f"{count} {'stage' if count == 1 else 'stages'} in {duration(time.monotonic() - started)}")

    def ask_anew(self) -> None:
        """Marks the stages at once, so that an interrupted `--force` carries on without it and repeats nothing."""
        for stage in self.stages:
            record = self.plan.records.read(stage.name)
            if record is not None:
                record.state = "redo"
                self.plan.records.write(record)

    def finish(self, stage: Stage) -> None:
        """Takes note that a stage is done, now or before."""
        self._remaining.remove(stage)

    def _advance(self, pool: ThreadPoolExecutor) -> None:
        """Does one stage here, or begins what can begin side by side and waits until something has ended."""
        pending, begun = {stage.name for stage in self._remaining}, [job.stage for job in self._jobs.values()]
        ready = [stage for stage in self._remaining if stage not in begun and pending.isdisjoint(stage.needs)]
        if not self._jobs and (self._flags.jobs == 1 or len(ready) == 1):
            record = self._opened(ready[0])
            if record is not None:
                self._carry_out(ready[0], record, self._execute)
            self.finish(ready[0])
            return
        try:
            self._begin_jobs(pool, ready)
            for future in wait(self._jobs, return_when=FIRST_COMPLETED).done:
                self._end(future)
        except BaseException:
            self._end_all_jobs()
            raise

    def _begin_jobs(self, pool: ThreadPoolExecutor, ready: list[Stage]) -> None:
        for stage in ready[: len(self._shares)]:
            record = self._opened(stage)
            if record is None:
                self.finish(stage)
                continue
            job = _Job(stage, self._shares.pop(0))
            log = self.plan.run / "logs" / f"{stage.name}.log"
            say(f"    its output: {log}")
            execute = partial(self._children.execute, log=log, share=job.share)
            self._jobs[pool.submit(self._carry_out, stage, record, execute)] = job

    def _end(self, future: Future[None]) -> None:
        """Closes the stage of a job that has ended, or raises what it raised."""
        future.result()
        job = self._jobs.pop(future)
        self._shares.append(job.share)
        self.finish(job.stage)

    def _end_all_jobs(self) -> None:
        """Waits for the jobs under way, so that what they complete is recorded; the first failure is told already."""
        under_way = [job.stage.name for future, job in self._jobs.items() if not future.done()]
        if under_way:
            say(f"waiting for {', '.join(under_way)}")
        for future in list(self._jobs):
            wait([future])
            if future.exception() is None:
                self._end(future)

    def _opened(self, stage: Stage) -> StageRecord | None:
        """Decides about a stage whose needed stages are done; its record if it must run, None if it need not."""
        head = f"{self.plan.label(stage)}: {stage.about}"
        decision = self.plan.decide(stage)
        if decision.action == "skip":
            say(f"{head} - skipped ({decision.reason})")
            self.skipped.append(stage)
            return None
        say(f"{head} - {decision.action} ({decision.reason})")
        if stage.students and not self._compared:
            warn_of_leaks(self.plan.run)
            self._compared = True
        earlier = self.plan.records.read(stage.name)
        if decision.action == "resume" and earlier is not None:
            return earlier
        # Before the new record is written: a crash in between must not pass old files off as this attempt's.
        if earlier is None or earlier.state != "running" or not stage.resumes:
            self._move_aside(stage)
        record = StageRecord(
            stage=stage.name,
            about=stage.about,
            state="running",
            made_from=self.plan.made_from(stage),
            commands=[CommandRecord(command) for command in stage.commands],
            started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        self.plan.records.write(record)
        return record

    def _move_aside(self, stage: Stage) -> None:
        """Moves what the stage made, and then its record, to the next free `<run>/.stale/<stage>-<k>`."""
        found = [name for name in stage.directories if (self.plan.run / name).exists()]
        if not found:
            return
        numbers = itertools.count(1)
        aside = next(path for k in numbers if not (path := self.plan.run / ".stale" / f"{stage.name}-{k}").exists())
        for name in found:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (self.plan.run / name).rename(aside / name)
        with contextlib.suppress(FileNotFoundError):
            self.plan.records.path(stage.name).rename(aside / "record.json")
        say(f"    what it made before: {aside}")

    def _carry_out(self, stage: Stage, record: StageRecord, execute: Execute) -> None:
        """Runs the commands that have not completed yet, then records what the stage has made."""
        for number, words in enumerate(stage.words):
            if not record.commands[number].done:
                self._attempt(stage, number, list(words), record, execute)
        record.outputs = self.plan.outputs(stage)
        missing = [name for name, found in record.outputs.items() if found == ABSENT]
        record.state = "redo" if missing else "done"
        self.plan.records.write(record)
        if missing:
            raise stage.error(f"completed without writing {', '.join(missing)}", "mend its commands or its `outputs`")
        say(f"{self.plan.label(stage)}: done in {duration(record.seconds)}")

    def _attempt(self, stage: Stage, number: int, words: list[str], record: StageRecord, execute: Execute) -> None:
        where = f"stage '{stage.name}', command {number + 1} of {len(record.commands)}"
        by_hand = f"repeat it alone with `{as_typed(words)}`, or carry on with `{self.resuming}`"
        started = time.monotonic()
        command = record.commands[number]
        try:
            status = exit_status(execute, words)
            command.done = status == 0
        except InputError as error:
            remedy = f"{error.remedy}; {by_hand}" if error.remedy else by_hand
            problem, field = f"{error.problem} ({where})", error.field
            raise InputError(problem, file=error.file, line=error.line, field=field, remedy=remedy) from error
        except Exception:
            print(f"{where} failed; {by_hand}", file=sys.stderr)
            raise
        finally:
            command.seconds += time.monotonic() - started
            self.plan.records.write(record)
        if status in _PREEMPTED:
            print(f"{where} was stopped by a signal; carry on with `{self.resuming}`", file=sys.stderr)
            raise SystemExit(status)
        if status:
            raise InputError(f"{where} ended with exit status {status}", remedy=by_hand)


def exit_status(execute: Execute, words: list[str]) -> int:
    """Runs a command line and returns its exit status, as a shell reports it; Ctrl-C is a `KeyboardInterrupt`."""
    try:
        code = execute(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) or error.code is None else 1
    status = 128 - code if code is not None and code < 0 else code or 0  # `subprocess` says -2 where a shell says 130
    if status == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    return status


@contextlib.contextmanager
def only_run_in(run: Path) -> Iterator[None]:
    """Holds the run directory's lock file while the block runs; a file left by a dead process is taken over."""
    remedy = "wait for it, stop it, or choose another directory with --run DIR"
    with locks.claim(run / ".stages" / "lock", "another run", remedy) as stream:
        os.set_inheritable(stream.fileno(), True)  # a command that outlives a killed `run` keeps the next one out
        yield

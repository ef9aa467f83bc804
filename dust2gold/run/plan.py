"""Whether a stage must run, can be skipped or resumes, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from dust2gold.core.configs import find_config
from dust2gold.core.errors import InputError
from dust2gold.core.provenance import Provenance, content_hash, own_code, short_hash
from dust2gold.core.students import locate_student
from dust2gold.core.text import say
from dust2gold.run.record import Records, StageRecord
from dust2gold.run.sources import facts_of
from dust2gold.run.stage import Stage, as_typed, check_directories, in_order

ABSENT = "absent"  # stands for the hash of a path where nothing exists
_REASONS_SHOWN = 3
_CLASS_PATH = re.compile(r"class_path:\s*([\w.]+)")
_PROMPT = re.compile(r"\bprompt[:= ] *['\"]?([^\s'\"]+)")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


class Decision(NamedTuple):
    """What happens to a stage and why."""

    action: Literal["run", "resume", "skip"]
    reason: str  # a short clause


class Plan:
    """Compares stages with their records and with the files as they are; sorts them by what they need.

    Raises:
        InputError: If stages do not fit together, or one's directory is not its own.
    """

    def __init__(self, stages: Sequence[Stage], run: Path) -> None:
        if Path.cwd().resolve().is_relative_to(run.resolve()):
            problem = f"'{run}' holds the working directory"
            raise InputError(problem, field="run", remedy="name a directory of its own, as runs/demo")
        self.run = run
        self.stages = in_order(stages)
        check_directories(self.stages, run)
        self.records = Records(run)
        self._by_name = {stage.name: stage for stage in self.stages}

    def label(self, stage: Stage) -> str:
        """The beginning of a stage's lines: its number among all stages and its name."""
        total = len(self.stages)
        return f"[{self.stages.index(stage) + 1:>{len(str(total))}}/{total}] {stage.name}"

    def selected(self, only: Sequence[str], start: str | None) -> tuple[Stage, ...]:
        """The stages asked for, in order: all, those of `--only`, or those from that of `--from` on."""
        names = list(self._by_name)
        for flag, asked in (("--only", only), ("--from", () if start is None else (start,))):
            for name in asked:
                if name not in names:
                    raise InputError(f"{flag} {name}: no such stage", remedy=f"stages: {', '.join(names)}")
        if only:
            return tuple(stage for stage in self.stages if stage.name in only)
        return self.stages if start is None else self.stages[names.index(start) :]

    def made_from(self, stage: Stage) -> Provenance:
        """What a stage whose needed stages have records would be made from."""
        facts = {f"command {number}": short_hash(words) for number, words in enumerate(stage.words, 1)}
        facts |= {f"config {name}": _hash(find_config(name)) for name in stage.configs}
        facts |= {f"input {name}": _hash(Path(name)) for name in stage.inputs}
        facts |= {f"input {name}": _hash(find_config(name)) for name in _prompt_files(stage)}
        facts |= own_code(_class_paths(stage))
        for name in stage.students:
            path = Path(locate_student(name))
            facts |= {f"input {name}": _hash(path)} if path.is_dir() else {}  # the others are hub names
        for name in stage.needs:
            record = self.records.read(name)
            if record is not None:
                facts[f"stage {name}"] = record.made_from.key
                facts |= {f"input {output}": found for output, found in record.outputs.items()}
        return Provenance({**facts, **facts_of(stage.verbs)})

    def outputs(self, stage: Stage) -> dict[str, str]:
        """The hash of each declared output, `ABSENT` where there is none."""
        return {str(self.run / name): _hash(self.run / name) for name in stage.outputs}

    def decide(self, stage: Stage, *, redo: bool = False) -> Decision:
        """Decides about a stage once those it needs are as they will be; `redo`: though nothing may have changed."""
        record = self.records.read(stage.name)
        if record is None:
            return Decision("run", "not done yet")
        if redo or record.state == "redo":
            return Decision("run", "asked for anew")
        if changes := _changes(self.made_from(stage), record.made_from):
            more = len(changes) - _REASONS_SHOWN
            reason = f"changed: {', '.join(changes[:_REASONS_SHOWN])}" + (f" and {more} more" if more > 0 else "")
            if record.state == "running" and stage.resumes:
                reason += "; interrupted: its commands go on from what still fits"
            return Decision("run", reason)
        if record.state == "running":
            done = sum(record.completed)
            return Decision("resume", f"interrupted, {done} of {len(record.commands)} commands completed")
        broken = self._broken_output(stage, record)
        return Decision("skip", "unchanged") if broken is None else Decision("run", broken)

    def _broken_output(self, stage: Stage, record: StageRecord) -> str | None:
        for name, found in self.outputs(stage).items():
            if found == ABSENT:
                return f"output missing: {name}"
            if name not in record.outputs:
                return f"output not recorded: {name}"
            if found != record.outputs[name]:
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
        for stage in stages:
            inputs = [("input", name, Path(name)) for name in stage.inputs]
            for word, name, path in [*(("config", name, find_config(name)) for name in stage.configs), *inputs]:
                if not path.exists() and not path.resolve().is_relative_to(self.run.resolve()):
                    remedy = "check the path; relative paths start at the working directory"
                    raise stage.error(f"{word} '{name}' does not exist", remedy)
            for name in stage.students:
                locate_student(name)
        needed = {need: stage for stage in stages for need in stage.needs if need not in names}
        missing = {need: problem for need in needed if (problem := self._missing(self._by_name[need])) is not None}
        if missing:
            problem = "; ".join(f"'{need}' {problem}" for need, problem in missing.items())
            remedy = f"add {','.join(missing)} to --only, or run without --only and --from"
            raise needed[next(iter(missing))].error(f"what it needs is not there: {problem}", remedy)
        decisions = {need: self.decide(self._by_name[need]) for need in needed}
        return [f"'{need}' is used as it stands ({d.reason})" for need, d in decisions.items() if d.action != "skip"]

    def _missing(self, need: Stage) -> str | None:
        """Why another stage cannot use what this one made; None if it can."""
        record = self.records.read(need.name)
        return "is not done" if record is None or record.state != "done" else self._broken_output(need, record)

    def show(self, stages: Sequence[Stage], *, redo: bool) -> None:
        """Tells what `run` would do with stages, and each command as the user would type it; changes nothing."""
        running: set[str] = set()
        for stage in stages:
            waits = [need for need in stage.needs if need in running]
            if waits and not redo:  # what they will make is not known yet
                decision = Decision("run", f"after {', '.join(waits)}")
            else:
                decision = self.decide(stage, redo=redo)
            say(f"{self.label(stage)}: {stage.about}")
            say(f"    {decision.action}: {decision.reason}")
            record = self.records.read(stage.name)
            completed = (False,) * len(stage.commands)
            if record is not None and decision.action != "run":
                completed = record.completed
            for words, done in zip(stage.words, completed, strict=True):
                say(f"    {'# completed: ' if done else ''}{as_typed(words)}")
            if decision.action != "skip":
                running.add(stage.name)
        say(f"{len(running)} of {len(stages)} stages would run")


def _class_paths(stage: Stage) -> list[str]:
    """What its commands and their configs may name as classes."""
    words = [word.rpartition("=")[2] for words in stage.words for word in words]
    named = [name for text in _config_texts(stage) for name in _CLASS_PATH.findall(text)]
    return [*filter(_DOTTED.fullmatch, words), *named]


def _prompt_files(stage: Stage) -> list[str]:
    """The files that its commands and their configs name as prompts."""
    texts = [*(" ".join(words) for words in stage.words), *_config_texts(stage)]
    names = {name for text in texts for name in _PROMPT.findall(text)}
    return sorted(name for name in names if find_config(name).is_file())


def _config_texts(stage: Stage) -> list[str]:
    return [path.read_text(encoding="utf-8") for name in stage.configs if (path := find_config(name)).is_file()]


def _hash(path: Path) -> str:
    return content_hash(path) or ABSENT


def _changes(now: Provenance, then: Provenance) -> list[str]:
    """The facts that differ; of libraries also their versions."""
    names = now.differences(then.facts)
    versions = {name: [facts.get(name, "not counted") for facts in (then.facts, now.facts)] for name in names}
    return [f"{name} ({', now '.join(versions[name])})" if name.startswith("version of ") else name for name in names]

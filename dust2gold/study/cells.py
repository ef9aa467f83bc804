"""One cell with one seed: an ordinary run without its report, the records of its arms, and what is still to be done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dust2gold.core.configs import find_config, read_yaml
from dust2gold.core.errors import InputError
from dust2gold.core.provenance import short_hash
from dust2gold.core.secret_options import check_command
from dust2gold.report.analyses.predictions import read_predictions
from dust2gold.run.plan import Plan
from dust2gold.run.settings import RunSettings
from dust2gold.run.stage import Stage
from dust2gold.run.tables import run_stages
from dust2gold.study.records import ArmRecord, Made, arm_record, circumstances, read_record, write_record
from dust2gold.study.settings import StudySettings, arms_of, cell_settings

_ANSWERS = "predictions.jsonl"


class CellRun:
    """The run of one cell and seed of a study that was read from `file`.

    Attributes:
        plan: The stages, for a `Runner`.
        arms: Those whose answers count, in order.
        records: The records that are there, by arm.

    Raises:
        InputError: If settings do not fit, `arms` names no stage that answers, or a record is of other settings.
    """

    def __init__(self, study: StudySettings, file: str, cell: str, seed: int) -> None:
        self.cell, self.seed = cell, seed
        settings = cell_settings(study, file, cell, seed)
        self.plan = Plan(_stages(settings), Path(settings.run))
        for stage in self.plan.stages:
            for words in stage.words:
                check_command(words, Path(file), f"stage {stage.name}")
        answering = {stage.name: stage for stage in self.plan.stages if _answer_files(stage)}
        arms = arms_of(study, cell)
        if unknown := set(arms or ()) - answering.keys():
            remedy = f"choose of {', '.join(answering)}"
            raise InputError(f"'{min(unknown)}' answers no test questions", file=file, field="arms", remedy=remedy)
        self.arms = [name for name in answering if arms is None or name in arms]
        self._place = Path(study.records, cell, f"seed-{seed}")
        # With a name for the run directory: what is made must not depend on where.
        anywhere = Plan(_stages(replace(settings, run="RUN_DIR")), Path("RUN_DIR"))
        self._typed = {stage.name: stage.commands for stage in anywhere.stages}
        self._defined = {stage.name: _definition(anywhere, stage) for stage in anywhere.stages}
        self.records: dict[str, ArmRecord] = {}
        self.read()

    def read(self) -> None:
        """Reads the records that are there: another process may have written some."""
        self.records = {name: record for name in self.arms if (record := self._read(name)) is not None}

    @property
    def name(self) -> str:
        """What it is called on the terminal."""
        return f"{self.cell}, seed {self.seed}"

    @property
    def missing(self) -> list[str]:
        """The arms without a record."""
        return [name for name in self.arms if name not in self.records]

    @property
    def wanted(self) -> list[str]:
        """The stages to be run: the missing arms and all that they need."""
        return self._needed(self.missing)

    def keep(self, stage: Stage) -> None:
        """Writes the record of an arm that is done, where there is none yet."""
        if stage.name not in self.missing:
            return
        answers = [a for file in _answer_files(stage) for a in read_predictions((self.plan.run / file).parent)]
        done = self.plan.records.read(stage.name)
        seconds = 0.0 if done is None else round(done.seconds, 1)
        made = Made(self._made_from(stage.name), self._typed[stage.name], seconds, **circumstances())
        self.records[stage.name] = arm_record(self.cell, self.seed, stage.name, answers, made)
        write_record(self._file(stage.name), self.records[stage.name])

    def _file(self, arm: str) -> Path:
        return self._place / f"{arm}.json"

    def _read(self, arm: str) -> ArmRecord | None:
        record = read_record(self._file(arm))
        if record is not None:
            now, then = self._made_from(arm), record.made.from_stages
            if changed := [name for name in {**now, **then} if now.get(name) != then.get(name)]:
                problem = f"was made with other settings (those of {', '.join(changed)} differ)"
                remedy = "undo the change, move the record away, or name another `records` directory"
                raise InputError(problem, file=self._file(arm), remedy=remedy)
        return record

    def _needed(self, names: Iterable[str]) -> list[str]:
        """Stages and all that these need, in order."""
        wanted = set(names)
        for stage in reversed(self.plan.stages):
            wanted |= set(stage.needs) if stage.name in wanted else set()
        return [stage.name for stage in self.plan.stages if stage.name in wanted]

    def _made_from(self, arm: str) -> dict[str, str]:
        return {name: self._defined[name] for name in self._needed([arm])}


def _definition(plan: Plan, stage: Stage) -> str:
    """A hash of a stage's command lines, configs, students and inputs from elsewhere."""
    facts = {**plan.made_from(stage).facts}
    facts |= {f"config {name}": short_hash(read_yaml(find_config(name))) for name in stage.configs}  # without comments
    left_out = ("code ", "version of ")  # a record of another machine or commit counts
    return short_hash({name: fact for name, fact in facts.items() if not name.startswith(left_out)})


def _stages(settings: RunSettings) -> list[Stage]:
    return [stage for stage in run_stages(settings) if "report" not in stage.verbs]


def _answer_files(stage: Stage) -> list[str]:
    return [name for name in stage.outputs if Path(name).name == _ANSWERS]

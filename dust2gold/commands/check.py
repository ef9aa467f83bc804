"""`run --check`: every command of a run that trains, tests or predicts is set up, before hours of work begin.

The data stages run. Then each command is parsed, its data are read, encoded and limited, and its stage is built on the
meta device: shapes, no weights. For what stages are still to make others stand in, see `StandIns`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.adapters import check_trained_alike
from datamodules.training import TrainingDataModule
from dust2gold.commands.disk import bytes_written
from dust2gold.commands.stand_ins import NotMadeError, StandIns
from dust2gold.commands.trainer import StageCLI
from dust2gold.core.errors import InputError
from dust2gold.core.text import say
from dust2gold.run.children import Children
from dust2gold.run.plan import Plan
from dust2gold.run.runner import Execute, Runner
from dust2gold.run.stage import Stage
from lightning_modules.trainable import TrainableModule

_SET_UP = frozenset(TrainerFn)
_MAKES_DATA = frozenset({"generate", "prepare"})
_REFUSALS = (InputError, MisconfigurationException)


def check(plan: Plan, flags: argparse.Namespace, execute: Execute, runs: int = 1) -> int:
    """Runs the data stages, sets up what trains, tests or predicts, and tells all that is wrong.

    Returns the exit status: 1 if something is wrong. The disk must hold so many such `runs`.

    Raises:
        InputError: If `run` itself would refuse to begin, or a data stage fails.
    """
    stages, data = plan.selected(flags.only, flags.start), _data_stages(plan.stages)
    for note in plan.check(stages):
        say(f"note: {note}")
    if only := [stage.name for stage in stages if stage in data]:
        alone = {"only": only, "start": None, "force": False, "jobs": 1, "seeds": ()}
        Runner(plan, argparse.Namespace(**{**vars(flags), **alone}), execute, Children()).run()
    with tempfile.TemporaryDirectory(prefix="dust2gold-check-") as room:
        checker, needed = _Checker(StandIns(plan, data, Path(room))), 0
        for stage in stages:
            done = plan.decide(stage).action == "skip"
            for words in stage.words:
                if words[0] in _SET_UP:
                    size = checker.check(stage, words)
                    needed += 0 if done else size
    problems = [*checker.problems, *_disk_problems(plan.run, needed * runs)]
    for problem in problems:
        print(problem, file=sys.stderr)
    say(f"problems: {len(problems)}" if problems else "no problem found: it can run")
    return 1 if problems else 0


def _data_stages(stages: Sequence[Stage]) -> list[Stage]:
    """Those that only make data, from nothing but such."""
    found: list[Stage] = []
    for stage in stages:  # in order: what one needs stands before it
        if _MAKES_DATA.issuperset(stage.verbs) and {each.name for each in found}.issuperset(stage.needs):
            found.append(stage)
    return found


class _Checker:
    """Sets up commands one after another.

    Attributes:
        problems: What is wrong with them.
    """

    def __init__(self, stand_ins: StandIns) -> None:
        self.problems: list[str] = []
        self._stand_ins = stand_ins
        self._read: dict[str, Any] = {}  # DataModules by their arguments: many commands read the same
        self._told: set[str] = set()
        self._longest_sample = 0  # that a `predict` so far may make, in tokens

    def check(self, stage: Stage, words: Sequence[str]) -> int:
        """Sets up one command, and says what it reads; returns about how many bytes it will write."""
        said, reads, size = io.StringIO(), "", 0
        found, warned = list[Exception](), list[str]()
        with _quiet(), contextlib.redirect_stderr(said):
            try:
                command = _SetUp(words, stage, self._stand_ins, self._read)
                reads, size, found = command.reads, command.writes, command.problems
                warned = self._of_samples(command)
            except NotMadeError as error:
                reads = f"not checked: {error}"
            except _REFUSALS as error:
                found = [error]
        if words[0] == "fit" and (found or not size):
            self._stand_ins.breaks(stage)
        say(f"{stage.name:<18} {words[0]:<8} {'has a problem, see below' if found else reads}")
        for line in [*self._stand_ins.news(), *warned, *said.getvalue().split("\n")]:
            line = line.rpartition("\r")[2].strip()  # of a progress bar, nothing
            if line and line not in self._told:  # once, and not for every command that reads the same file
                say(f"    {line}")
                self._told.add(line)
        told = [f"stage '{stage.name}', {words[0]}: {error}" for error in found]
        self.problems += [self._stand_ins.by_own_names(text) for text in told]
        return size

    def _of_samples(self, command: _SetUp) -> list[str]:
        """A warning where samples that are still to be made may be too long to train on: nobody knows it yet."""
        data, module = command.datamodule, command.model
        if command.subcommand == "predict" and (questions := getattr(data, "questions", None)):
            longest = max(len(ids) for _, ids in questions) + module.sampling.max_new_tokens
            self._longest_sample = max(self._longest_sample, longest)
        limits = isinstance(data, TrainingDataModule) and not (data.drop_longer or command.complete)
        if command.subcommand != "fit" or not limits or data.max_length >= self._longest_sample:
            return []
        more = f"up to {self._longest_sample:,} tokens, more than --data.max_length {data.max_length}"
        return [f"samples may have {more}, and would end it: give --data.drop_longer true"]


class _SetUp(StageCLI):
    """Sets up a command and goes no further.

    Attributes:
        reads: What it will read, in words.
        writes: About how many bytes it will write.
        problems: What its data and its stage refuse.
        complete: Whether all that it reads is there, and nothing stands for it.
    """

    def __init__(self, words: Sequence[str], stage: Stage, stand_ins: StandIns, read: dict[str, Any]) -> None:
        self._stage, self._stand_ins, self._read = stage, stand_ins, read
        super().__init__(words)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line, and lets others stand in for what is not made yet."""
        super().parse_arguments(parser, args)
        self._readable = self._stand_ins.fill(self.config[self.config.subcommand], self._stage)
        self.complete = not self._stand_ins.in_use

    def _run_subcommand(self, subcommand: str) -> None:
        """Sets up DataModule and stage as the Trainer would, the stage on the meta device."""
        self.trainer.state.fn = TrainerFn(subcommand)
        self.datamodule.trainer = self.model.trainer = self.trainer
        self.reads, self.writes, self.problems = "its data are made by the run", 0, list[Exception]()
        with self._noting():
            if self._readable:
                self.datamodule = self._set_up(subcommand)
                self.reads = _described(self.datamodule, subcommand)
        with self._noting(), torch.device("meta"):
            self.model.setup(subcommand)
            self.model.configure_model()
            encoding = self._check_encoding()
            if subcommand == "fit" and isinstance(self.model, TrainableModule):
                self._stand_ins.write_adapter(self.model, Path(self.trainer.default_root_dir), encoding)
                self.model.make_optimizer()
        if not self.problems:
            self.writes = bytes_written(self.model, self.datamodule if self._readable else None, subcommand)

    def _check_encoding(self) -> dict[str, Any]:
        """Checks the adapters that the stage reads as `AdapterWriter` does; returns what its own will note."""
        data = self.datamodule
        if not isinstance(data, TrainingDataModule):
            return {}
        if not self._readable:
            data.read_tokenizer()
        if not hasattr(data, "prompt"):  # which has been told
            return {}
        if isinstance(self.model, TrainableModule):
            check_trained_alike(self.model, data)
        return data.encoding

    def _set_up(self, subcommand: str) -> Any:
        """The DataModule, set up, or the same of an earlier command."""
        key = f"{subcommand} {self.config[subcommand].data}"
        if key not in self._read:
            self.datamodule.setup(subcommand)
            self._read[key] = self.datamodule
        return self._read[key]

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except _REFUSALS as error:
            self.problems.append(error)


def _described(data: Any, verb: str) -> str:
    """What a DataModule has read; of training data also whether they make batches."""
    if verb in ("fit", "validate"):
        train = data.train_examples
        used, total = len(train) + len(data.validation_examples), len(train.table)
        batches = len(data.train_dataloader())
        longest = int(train.lengths.max()) if len(train) else 0
        return f"{used:,} of {total:,} rationales, the longest of {longest:,} tokens; {batches:,} batches an epoch"
    if questions := getattr(data, "questions", None):
        return f"{len(questions):,} questions, the longest of {max(len(ids) for _, ids in questions):,} tokens"
    return f"{len(getattr(data, 'records', None) or getattr(data, 'vote_groups', [])):,} records"


def _disk_problems(run: Path, needed: int) -> list[str]:
    place = next(path for path in (run.resolve(), *run.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    say(f"disk: about {needed / 1e9:,.2f} GB will be written, {free / 1e9:,.2f} GB are free")
    if needed <= free:
        return []
    error = InputError("too little space", file=run, remedy="free some space, or choose another disk with --run DIR")
    return [f"disk: {error}"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what libraries say of the machine, and of weights that are not there."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)

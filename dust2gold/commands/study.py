"""The verb `study`: the runs of a study, those whose records are there left out, and its tables."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from dust2gold.commands.arguments import names, positive, seeds
from dust2gold.core.errors import InputError
from dust2gold.core.text import say
from dust2gold.run.children import Children, shares
from dust2gold.run.runner import Execute, Runner
from dust2gold.run.stage import Stage, as_typed
from dust2gold.study.settings import StudySettings, chosen, load_study

if TYPE_CHECKING:
    from dust2gold.study.cells import CellRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `study`."""
    parser.description = (
        "Run each cell of a study, which is a run with some settings, once for each seed. Each arm that is done leaves "
        "a record; the command goes on from the records, on any machine, and ends with the tables made from them."
    )
    parser.epilog = f"Settings, for FILE: {', '.join(each.name for each in fields(StudySettings))}."
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="the settings of the study, as configs/study.yaml")
    add("--cells", type=names, default=(), metavar="CELL[,CELL]", help="run these cells alone")
    add("--seeds", type=seeds, default=(), metavar="SEED[,SEED]", help="run these of the study's seeds alone")
    jobs = (
        "do up to N cells and seeds side by side, each in a Python of its own with its share of the cores and GPUs; "
        "output goes to RUN/CELL/seed-<k>.log (default: 1)"
    )
    add("--jobs", "-j", type=positive, default=1, metavar="N", help=jobs)
    add("--dry-run", action="store_true", help="print what would run; do nothing")


class _CellRunner(Runner):
    """Runs the stages that a cell and seed still needs, and keeps the record of each arm as soon as it is done."""

    def __init__(self, run: CellRun, execute: Execute, children: Children, resuming: str) -> None:
        flags = argparse.Namespace(only=run.wanted, start=None, force=False, jobs=1)
        super().__init__(run.plan, flags, execute, children)
        self._keep, self._command = run.keep, resuming

    @property
    def resuming(self) -> str:
        """The command that carries on from here: the same."""
        return self._command

    def finish(self, stage: Stage) -> None:
        """Keeps the record of a stage, done now or before."""
        super().finish(stage)
        self._keep(stage)


def main(args: argparse.Namespace, execute: Execute) -> int:
    """Runs what has no record yet, and writes the tables; `execute` runs one command line in this process."""
    # What `--help` need not wait for.
    from dust2gold.study.cells import CellRun
    from dust2gold.study.tables import write_study

    if os.environ.get("LOCAL_RANK", "0") != "0":
        # Lightning's DDP starts the other ranks with this process's own command line, which must be the stage's.
        raise InputError("`study` was started again as another rank", remedy="train on one device, or use `run`")
    study = load_study(args.config)
    cells = chosen(args.cells, list(study.cells), "--cells")
    seeds_asked = chosen(args.seeds, study.seeds, "--seeds")
    runs = [CellRun(study, args.config, cell, seed) for cell in study.cells for seed in study.seeds]
    asked = [run for run in runs if run.cell in cells and run.seed in seeds_asked]
    if args.dry_run:
        for run in asked:
            there = f"{len(run.records)} of {len(run.arms)} records"
            say(f"{run.name}: {there}" + (f"; would run: {', '.join(run.wanted)}" if run.missing else ""))
        return 0
    children, resuming = Children(), _as_typed(args)
    try:
        with children.signals:
            if args.jobs > 1:
                status = _side_by_side(args, study, [run for run in asked if run.missing], children)
                if status:
                    print(f"carry on with `{resuming}`", file=sys.stderr)
                    return status
            for run in asked:
                run.read()
                if run.missing:
                    say(f"{run.name}: {', '.join(run.missing)}")
                    _CellRunner(run, children.unless_stopped(execute), children, resuming).run()
                    write_study(study, runs)
    except KeyboardInterrupt:
        print(f"\ninterrupted; carry on with `{resuming}`", file=sys.stderr)
        return 130
    print(write_study(study, runs))
    say(f"table: {Path(study.records, 'table.md')}")
    return 0


def _side_by_side(args: argparse.Namespace, study: StudySettings, runs: list[CellRun], children: Children) -> int:
    """Does each run by a command of its own; returns the first exit status that is a failure's, else 0."""
    free = shares(args.jobs)

    def do(run: CellRun) -> int:
        log, share = Path(study.run, run.cell, f"seed-{run.seed}.log"), free.pop()
        say(f"{run.name}: {', '.join(run.missing)}")
        say(f"    its output: {log}")
        command = ["study", "--config", args.config, "--cells", run.cell, "--seeds", str(run.seed)]
        status = children.execute(command, log, share)
        free.append(share)
        say(f"{run.name}: " + ("done" if status == 0 else f"ended with exit status {status}"))
        return status

    with ThreadPoolExecutor(args.jobs) as pool:
        return next(filter(None, pool.map(do, runs)), 0)


def _as_typed(args: argparse.Namespace) -> str:
    words = ["study", "--config", args.config]
    words += ["--cells", ",".join(args.cells)] if args.cells else []
    words += ["--seeds", ",".join(map(str, args.seeds))] if args.seeds else []
    return as_typed([*words, *(["--jobs", str(args.jobs)] if args.jobs > 1 else [])])

"""The verb `run`: the stages of a whole run, those that are up to date skipped."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dust2gold.commands.arguments import names, positive, seeds
from dust2gold.core.errors import InputError
from dust2gold.core.secret_options import check_command
from dust2gold.core.text import say
from dust2gold.report.shown import show
from dust2gold.run.children import Children
from dust2gold.run.plan import Plan
from dust2gold.run.runner import Execute, Runner, exit_status
from dust2gold.run.settings import RunSettings, load_settings
from dust2gold.run.stage import Stage, as_typed
from dust2gold.run.tables import run_stages

Stages = Callable[[RunSettings], list[Stage]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `run`."""
    parser.description = (
        "Run the method's stages: each whose inputs, config or code changed since it was last done; the others are "
        "skipped, an interrupted one resumes."
    )
    parser.epilog = f"Settings, for FILE and --set: {', '.join(each.name for each in fields(RunSettings))}."
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="the settings of the run, as configs/demo.yaml")
    setting = "give one of the settings another value; may be repeated"
    add("--set", action="append", default=[], type=_setting, metavar="NAME=VALUE", dest="settings", help=setting)
    add("--stages", metavar="FILE.py", help="stages of your own: a file whose `stages(settings)` returns all stages")
    add("--run", metavar="DIR", help="the run directory, instead of the file's")
    each_seed = "run the whole once per seed, as RUN/seed-<k>, and report mean and spread; the data stay the same"
    add("--seeds", type=seeds, default=(), metavar="SEED[,SEED]", help=each_seed)
    which = parser.add_mutually_exclusive_group()
    only = "these stages alone; what they need must be done"
    which.add_argument("--only", type=names, default=(), metavar="STAGE[,STAGE]", help=only)
    start = "do this stage and all after it again, leaving those before as they are"
    which.add_argument("--from", dest="start", metavar="STAGE", help=start)
    add("--force", action="store_true", help="do stages again though nothing changed; with --only these alone")
    add("--dry-run", action="store_true", help="print what would run, and why, and each command; do nothing")
    check = (
        "make the data, then set up every command that trains, tests or predicts, without weights and without a step: "
        "limits on lengths, adapters' shapes, free disk; all problems are told together"
    )
    add("--check", action="store_true", help=check)
    isolate = "run each command in a Python of its own (some seconds more each); training on several devices needs it"
    add("--isolate", action="store_true", help=isolate)
    jobs = (
        "run up to N stages side by side where none needs the other, each in Pythons of its own with its share of the "
        "cores and GPUs; output goes to RUN/logs/<stage>.log (default: 1)"
    )
    add("--jobs", "-j", type=positive, default=1, metavar="N", help=jobs)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"NAME=VALUE was expected, as in samples=16, found '{text}'")
    return name, value


def main(args: argparse.Namespace, execute: Execute) -> int:
    """Runs the stages, or prints what would be run; `execute` runs one command line in this process."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        # Lightning's DDP starts the other ranks with this process's own command line, which must be the stage's.
        raise InputError("`run` was started again as another rank of a command", remedy="add --isolate to `run`")
    run, plans = _plans(args)
    if args.check:  # only of the first seed: the others have the same data and sizes
        check: Any = import_module("dust2gold.commands.check")  # heavy: `--help` need not wait for it
        return int(check.check(plans[0], args, execute, len(plans)))
    children = Children()
    execute = children.execute if args.isolate else children.unless_stopped(execute)
    runners = [Runner(plan, args, execute, children) for plan in plans]
    # A run of some stages only, such as `--only data`, may have nothing to report yet.
    reports = bool(args.seeds) and any("report" in stage.verbs for stage in runners[0].stages)
    headings = [f"seed {seed}: {runner.plan.run}" for seed, runner in zip(args.seeds, runners, strict=False)]
    if args.dry_run:
        for heading, runner in zip_longest(headings, runners):
            if heading:
                say(heading)
            for note in runner.plan.check(runner.stages):
                say(f"note: {note}")
            runner.plan.show(runner.stages, redo=runner.redo)
        if reports:
            say(f"all seeds: {as_typed(['report', str(run)])}")
        return 0
    try:
        with children.signals:
            if args.seeds and runners[0].redo:
                for runner in runners:  # before the first begins: an interrupted `--force` carries on without it
                    runner.ask_anew()
            for heading, runner in zip_longest(headings, runners):
                if heading:
                    say(heading)
                runner.run()
            if reports and (status := exit_status(execute, ["report", str(run)])):
                return status
    except KeyboardInterrupt:
        print(f"\ninterrupted; carry on with `{runners[0].resuming}`", file=sys.stderr)
        return 130
    if not args.seeds and any("report" in stage.verbs for stage in runners[0].skipped):
        show(run)  # nothing is new, but whoever asks wants to see it
    return 0


def _plans(args: argparse.Namespace) -> tuple[Path, list[Plan]]:
    """The run directory, and the plan of each seed, or the only one."""
    if args.seeds and "seed" in dict(args.settings):
        raise InputError("--seeds and --set seed=... are both given", remedy="leave one of them out")
    kind, stages = _own_stages(args.stages)
    settings = load_settings(args.config, dict(args.settings), kind)
    settings = settings if args.run is None else replace(settings, run=args.run)
    run = Path(settings.run)
    seeded = [replace(settings, seed=seed, run=str(run / f"seed-{seed}")) for seed in args.seeds]
    plans = [Plan(stages(each), Path(each.run)) for each in seeded or [settings]]
    for stage in plans[0].stages:
        for words in stage.words:
            check_command(words, Path(args.config), f"stage {stage.name}")
    return run, plans


def _own_stages(file: str | None) -> tuple[type[RunSettings], Stages]:
    """The class of the settings and the function that makes the stages: ours, or those of a user's Python file."""
    if file is None:
        return RunSettings, run_stages
    spec = spec_from_file_location("own_stages", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        remedy = "name a Python file, as examples/own_stage.py"
        raise InputError("no such file of Python", file=file, field="--stages", remedy=remedy)
    module = module_from_spec(spec)
    sys.modules["own_stages"] = module  # where dataclasses look for their types
    spec.loader.exec_module(module)
    if not callable(getattr(module, "stages", None)):
        remedy = "define `def stages(settings): return [*run_stages(settings), Stage(...)]`"
        raise InputError("defines no function `stages`", file=file, remedy=remedy)
    return getattr(module, "Settings", RunSettings), module.stages

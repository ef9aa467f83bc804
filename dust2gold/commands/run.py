"""The command `run`: a whole pipeline."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dust2gold.core.errors import InputError
from dust2gold.core.text import spelled
from dust2gold.report.shown import show
from dust2gold.run.children import Children
from dust2gold.run.config import load_pipeline
from dust2gold.run.plan import Planner, show_plan
from dust2gold.run.runner import Execute, Runner
from dust2gold.run.seeds import SeedRuns, parse_seeds
from dust2gold.run.selection import Request, selected
from dust2gold.run.side_by_side import runner_for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `run`."""
    parser.description = (
        "Run a pipeline: each stage whose inputs, config or code changed since it was last done; the others are "
        "skipped, an interrupted one resumes."
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the pipeline file, as configs/demo.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="give one of the file's variables another value; may be repeated",
    )
    parser.add_argument("--run", metavar="DIR", help="the run directory, instead of the file's")
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=(),
        metavar="SEED[,SEED]",
        help="run the whole once per seed, as RUN/seed-<k>, and report mean and spread; the data stay the same",
    )
    stages = parser.add_mutually_exclusive_group()
    stages.add_argument(
        "--only",
        type=_names,
        default=(),
        metavar="STAGE[,STAGE]",
        help="these stages alone; what they need must be done",
    )
    stages.add_argument(
        "--from",
        dest="start",
        metavar="STAGE",
        help="do this stage and all after it again, leaving those before as they are",
    )
    parser.add_argument(
        "--force", action="store_true", help="do stages again though nothing changed; with --only these alone"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would run, and why, and each command; do nothing"
    )
    parser.add_argument(
        "--isolate",
        action="store_true",
        help="run each command in a Python of its own (some seconds more each); training on several devices needs it",
    )
    parser.add_argument(
        "--jobs",
        "-j",
        type=_jobs,
        default=1,
        metavar="N",
        help="run up to N stages side by side where none needs the other, each in Pythons of its own with its share of "
        "the cores and GPUs; output goes to RUN/logs/<stage>.log (default: 1)",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 was expected, found '{text}'")
    return int(text)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return parse_seeds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(args: argparse.Namespace, execute: Execute) -> int:
    """Runs a pipeline, or prints its plan.

    Args:
        args: What `add_arguments` parsed.
        execute: Runs one command line in this process, given without `python cli.py`.

    Returns:
        The exit status: 0, or 130 if the user stopped it.

    Raises:
        InputError: If the pipeline, a selection or a command's input cannot be used.
    """
    _refuse_second_rank()
    request = Request(
        config=args.config,
        settings=_settings(args.settings),
        run=args.run,
        only=args.only,
        start=args.start,
        force=args.force,
        isolate=args.isolate,
        jobs=args.jobs,
        seeds=args.seeds,
    )
    children = Children()
    run_it: Execute = children.execute if args.isolate else execute
    if request.seeds:
        return _run_seeds(SeedRuns(request, run_it, _tell, children), args.dry_run)
    pipeline = load_pipeline(Path(args.config), request.settings, None if args.run is None else Path(args.run))
    planner = Planner(pipeline)
    if args.dry_run:
        stages = selected(pipeline, request)
        for note in planner.check(stages):
            _tell(f"note: {note}")
        show_plan(planner, stages, redo=request.redo, tell=_tell)
        return 0
    runner = runner_for(planner, request, run_it, _tell, children)
    status = _until_interrupted(runner)
    for command in (command for stage in runner.skipped for command in stage.commands):
        if status == 0 and command[0] == "report":  # nothing is new, but whoever asks wants to see it
            show(Path(command[1]))
    return status


def _run_seeds(runs: SeedRuns, dry_run: bool) -> int:
    if dry_run:
        runs.show()
        return 0
    return _until_interrupted(runs)


def _until_interrupted(runner: Runner | SeedRuns) -> int:
    try:
        runner.run()
    except KeyboardInterrupt:
        print(f"\ninterrupted; carry on with `{runner.resuming}`", file=sys.stderr)
        return 130
    return 0


def _tell(line: str) -> None:
    print(spelled(line), flush=True)


def _refuse_second_rank() -> None:
    """Lightning's DDP starts the other ranks with this process's own command line, which must then be the stage's."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        raise InputError("`run` was started again as another rank of a command", remedy="add --isolate to `run`")


def _settings(items: list[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise InputError(f"--set {item}: NAME=VALUE was expected", remedy="as in --set samples=16")
        settings[name] = value
    return settings

"""`run --seeds`: the pipeline once per seed, each in a run directory of its own, then one report over all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dust2gold.core.errors import InputError
from dust2gold.run.children import Children
from dust2gold.run.config import Pipeline, load_pipeline
from dust2gold.run.plan import Planner, show_plan
from dust2gold.run.runner import Execute, check_ending
from dust2gold.run.selection import Request, selected
from dust2gold.run.side_by_side import runner_for
from dust2gold.run.stage import as_typed

SEED = "seed"
"""The variable that a pipeline hands to whatever is random in training and sampling."""


class SeedRuns:
    """One pipeline under several seeds: `RUN/seed-<k>` for each, and the combined report in RUN.

    Args:
        request: What the user asked for; `seeds` are not empty.
        execute: Runs one command line.
        tell: Prints a line for the user.
        children: Commands in Pythons of their own, for stages side by side.

    Raises:
        InputError: If the pipeline cannot be used or has no variable `seed`, or `--set` gives it too.
    """

    def __init__(self, request: Request, execute: Execute, tell: Callable[[str], None], children: Children) -> None:
        run = None if request.run is None else Path(request.run)
        whole = load_pipeline(Path(request.config), request.settings, run)
        if SEED not in whole.variables:
            problem = "--seeds: the pipeline has no variable `seed`"
            raise InputError(
                problem,
                file=whole.file,
                field="variables",
                remedy="give it one (`seed: 0`) and hand it to its commands, as --seed_everything {seed}",
            )
        if SEED in request.settings:
            raise InputError("--seeds and --set seed=... are both given", remedy="leave one of them out")
        self.run_directory = whole.run
        self._request = request
        self._execute = execute
        self._tell = tell
        self._planners = {seed: Planner(self._pipeline(seed)) for seed in request.seeds}
        self._runners = {
            seed: runner_for(planner, request, execute, tell, children) for seed, planner in self._planners.items()
        }
        # A run of some stages only, such as `--only data`, may have nothing to report yet.
        commands = (command for stage in selected(whole, request) for command in stage.commands)
        self._report = ["report", str(whole.run)] if any(command[0] == "report" for command in commands) else None

    def _pipeline(self, seed: int) -> Pipeline:
        settings = {**self._request.settings, SEED: str(seed)}
        return load_pipeline(Path(self._request.config), settings, self.run_directory / f"seed-{seed}")

    @property
    def resuming(self) -> str:
        """The command that carries on from here."""
        return next(iter(self._runners.values())).resuming

    def run(self) -> None:
        """Runs the pipeline for each seed, then writes the combined report.

        Raises:
            InputError: As `Runner.run`; what is done for other seeds stays.
            KeyboardInterrupt: If the user stops it.
        """
        if self._request.redo:  # for all seeds before the first begins: an interrupted `--force` carries on without it
            for runner in self._runners.values():
                runner.ask_anew()
        for seed, runner in self._runners.items():
            self._tell(f"seed {seed}: {self._planners[seed].pipeline.run}")
            runner.run()
        if self._report is not None:
            check_ending(self._execute(self._report))

    def show(self) -> None:
        """Prints what `run` would do, and changes nothing."""
        for seed, planner in self._planners.items():
            stages = selected(planner.pipeline, self._request)
            self._tell(f"seed {seed}: {planner.pipeline.run}")
            for note in planner.check(stages):
                self._tell(f"note: {note}")
            show_plan(planner, stages, redo=self._request.redo, tell=self._tell)
        if self._report is not None:
            self._tell(f"all seeds: {as_typed(self._report)}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Reads `0,1,2`.

    Raises:
        ValueError: If it is no list of different whole numbers from 0.
    """
    parts = [part.strip() for part in text.split(",")]
    seeds = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(set(seeds)) != len(parts):
        raise ValueError(f"different whole numbers such as 0,1,2 were expected, found '{text}'")
    return seeds

"""Stages that do not need each other, side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from dust2gold.run.children import Children, places
from dust2gold.run.manifest import Manifest
from dust2gold.run.plan import Planner
from dust2gold.run.runner import Execute, Runner
from dust2gold.run.selection import Request
from dust2gold.run.stage import Stage


@dataclass(frozen=True)
class _Job:
    stage: Stage
    manifest: Manifest
    place: dict[str, str]


class SideBySideRunner(Runner):
    """Runs up to `request.jobs` stages at a time, each in Pythons of its own that write to `<run>/logs/<stage>.log`.

    A stage begins when those it needs are done. One that is alone has the terminal and the whole machine, as with
    `Runner`. After a failure no other stage begins; those under way end first.

    Args:
        planner: Decides what must run.
        request: What the user asked for.
        execute: Runs one command line on the terminal.
        tell: Prints a line for the user.
        children: The commands in Pythons of their own.

    Raises:
        InputError: If there are GPUs, but fewer than jobs.
    """

    def __init__(
        self, planner: Planner, request: Request, execute: Execute, tell: Callable[[str], None], children: Children
    ) -> None:
        super().__init__(planner, request, execute, tell)
        self._children = children
        self._places = places(request.jobs)
        self._jobs: dict[Future[None], _Job] = {}
        self._waiting: list[Stage] = []

    def _settle_all(self) -> None:
        self._waiting = list(self._stages)
        with ThreadPoolExecutor(self._request.jobs) as pool:
            while self._waiting or self._jobs:
                ready = self._ready()
                if len(ready) == 1 and not self._jobs:
                    self._settle(ready[0])
                    self._leave(ready[0])
                    continue
                try:
                    with self._children.forwarding():
                        self._start(pool, ready)
                        self._end_some()
                except BaseException:
                    self._end_all()
                    raise

    def _start(self, pool: ThreadPoolExecutor, ready: list[Stage]) -> None:
        """Begins stages that are ready, as far as there is a place for them."""
        for stage in ready[: len(self._places)]:
            manifest = self._opened(stage)
            if manifest is None:
                self._leave(stage)
                continue
            self._waiting.remove(stage)
            job = _Job(stage, manifest, self._places.pop(0))
            log = self._planner.pipeline.run / "logs" / f"{stage.name}.log"
            self._tell(f"    its output: {log}")
            execute = partial(self._children.execute, log=log, place=job.place)
            self._jobs[pool.submit(self._carry_out, stage, manifest, execute)] = job

    def _ready(self) -> list[Stage]:
        unsettled = set(self._remaining)
        return [stage for stage in self._waiting if unsettled.isdisjoint(stage.needs)]

    def _leave(self, stage: Stage) -> None:
        self._waiting.remove(stage)
        self._remaining.remove(stage.name)

    def _end_some(self) -> None:
        """Waits until at least one job has ended.

        Raises:
            BaseException: What one of them raised.
        """
        if not self._jobs:
            return
        names = ", ".join(job.stage.name for job in self._jobs.values())
        done = len(self._stages) - len(self._remaining)
        with tqdm(total=len(self._stages), initial=done, desc=names, unit="stage", leave=False, disable=None) as bar:
            while not (ended := wait(self._jobs, timeout=1, return_when=FIRST_COMPLETED).done):
                bar.refresh()
        for future in ended:
            self._end(future)

    def _end(self, future: Future[None]) -> None:
        job = self._jobs.pop(future)
        self._places.append(job.place)
        future.result()
        self._closed(job.stage, job.manifest)
        self._remaining.remove(job.stage.name)

    def _end_all(self) -> None:
        """Waits for the jobs under way, so that what they complete is recorded; the first failure is told already."""
        if self._jobs:
            self._tell(f"waiting for {', '.join(job.stage.name for job in self._jobs.values())}")
        with self._children.forwarding():
            for future in list(self._jobs):
                wait([future])
                if future.exception() is None:
                    self._end(future)
                self._jobs.pop(future, None)


def runner_for(
    planner: Planner, request: Request, execute: Execute, tell: Callable[[str], None], children: Children
) -> Runner:
    """The runner that does as many stages at a time as were asked for; arguments as `SideBySideRunner`."""
    if request.jobs > 1:
        return SideBySideRunner(planner, request, execute, tell, children)
    return Runner(planner, request, execute, tell)

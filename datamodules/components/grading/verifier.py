"""math-verify in worker processes, each answer under a hard time limit.

math-verify needs the main thread of a process, and some answers keep sympy busy for minutes, in C code that no Python
signal handler interrupts. Each worker is therefore a process of its own: after `time_limit` seconds of processor time
for one answer the kernel ends it (a timer whose signal has no handler); after thirty times as long on the clock the
parent does. Either way a new worker takes its place. Processor time, so that a busy machine grades as an idle one does.
A worker's memory is bounded as well, because `9^{9^{9^9}}` is a short answer.

Most of a comparison's time goes into parsing LaTeX, so each worker gets the answers to one gold answer one after the
other and keeps what it has parsed.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from datamodules.components.grading.guards import as_asked, is_whole
from dust2gold.core.errors import InputError

Pair = tuple[str, str]
"""A gold answer and an answer, in math-verify's order: its comparison is not symmetric."""

Outcome = Literal["equal", "different", "unreadable gold", "time limit", "worker died"]
"""What came of comparing an answer with a gold answer; the last three decide nothing."""

_STALL = 30.0  # clock time over processor time at which a worker is given up
_START = 600.0  # seconds a worker has for importing sympy, on a very busy machine too
_MEMORY = 4 << 30  # bytes of address space of a worker
_CHUNK = 16  # answers sent to a worker together
_PARSED = 4096  # expressions a worker remembers


class Verifier:
    """A pool of math-verify workers, by default one a usable core, to be closed at the end.

    Each has so many seconds of processor time for one answer (`time_limit`).

    Raises:
        InputError: If math-verify is not installed or its workers do not start.
    """

    def __init__(self, workers: int | None = None, time_limit: float = 5.0) -> None:
        self.count = workers or len(os.sched_getaffinity(0))
        self.time_limit = time_limit
        self._workers: list[_Worker] = []

    def compare(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Outcome]]:
        """Compares (gold, answer) pairs; yields (index, outcome) as each is decided, in no particular order."""
        pending = deque(sorted(range(len(pairs)), key=lambda index: pairs[index]))  # a gold's answers side by side
        while len(self._workers) < min(self.count, len(pairs)):
            self._workers.append(_Worker(self.time_limit))
        try:
            while pending or any(worker.tasks for worker in self._workers):
                for worker in self._workers:
                    if pending and worker.started and not worker.tasks:
                        size = min(_CHUNK, 1 + len(pending) // (4 * self.count))  # smaller towards the end
                        tasks = [pending.popleft() for _ in range(size)]
                        worker.send(tasks, [pairs[index] for index in tasks])
                yield from self._replies(pending)
        finally:
            if any(worker.tasks for worker in self._workers):  # stopped early: nobody reads the replies to come
                self.close()

    def _replies(self, pending: deque[int]) -> Iterator[tuple[int, Outcome]]:
        """Waits for a worker's reply, start, death or deadline; replaces a dead one, whose other tasks stay pending."""
        busy = [worker for worker in self._workers if worker.tasks or not worker.started]
        patience = min(worker.deadline for worker in busy) - time.monotonic()
        replied = wait([worker.connection for worker in busy], timeout=max(0.0, patience))
        for worker in busy:
            if worker.connection not in replied and time.monotonic() < worker.deadline:
                continue
            task = worker.tasks.popleft() if worker.tasks else None
            outcome = worker.receive() if worker.connection in replied else worker.end("time limit")
            if not worker.alive:
                pending.extendleft(reversed(worker.tasks))
                self._workers[self._workers.index(worker)] = _Worker(self.time_limit)
            if task is not None and outcome is not None:
                yield task, outcome

    def close(self) -> None:
        """Ends all workers. A later `compare` starts new ones."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()


class _Worker:
    """A worker process as its parent sees it: starting, idle, busy with `tasks[0]` until `deadline`, or dead."""

    def __init__(self, time_limit: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, time_limit), daemon=True)
        self.process.start()
        theirs.close()
        self.tasks: deque[int] = deque()
        self.started = False
        self.alive = True
        self.deadline = time.monotonic() + _START
        self._patience = _STALL * time_limit

    def send(self, tasks: Sequence[int], pairs: Sequence[Pair]) -> None:
        self.tasks.extend(tasks)
        self.deadline = time.monotonic() + self._patience
        with contextlib.suppress(OSError):  # that it died meanwhile shows when its reply is awaited
            self.connection.send(pairs)

    def receive(self) -> Outcome | None:
        """The outcome of the task at hand; None if the worker reports that it has started."""
        try:
            outcome: Outcome | None = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(1.0)
            return self.end("time limit" if self.process.exitcode == -signal.SIGPROF else "worker died")
        self.started = True
        self.deadline = time.monotonic() + self._patience
        return outcome

    def end(self, outcome: Outcome) -> Outcome:
        """Ends the worker, which accounts for the outcome of the task at hand."""
        self.kill()
        if not self.started:
            remedy = "check `python -c 'import math_verify'`, or use --grader string"
            raise InputError("the math-verify workers do not start", field="--grader", remedy=remedy)
        return outcome

    def kill(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, time_limit: float) -> None:
    """The life of a worker: sends None once it has started, then an outcome for each (gold, answer) pair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):  # the hard limit is lower already
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    compare = load_comparison()
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        connection.send(None)
        while True:
            for gold, answer in connection.recv():
                signal.setitimer(signal.ITIMER_PROF, time_limit)  # its SIGPROF, without a handler, ends the process
                outcome = compare(gold, answer)
                signal.setitimer(signal.ITIMER_PROF, 0)
                connection.send(outcome)


def load_comparison() -> Callable[[str, str], Outcome]:
    """The comparison by math-verify, whose import takes a second or two."""
    from math_verify import parse, verify  # type: ignore[import-untyped]

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    @lru_cache(maxsize=_PARSED)
    def parsed(latex: str) -> Any:
        # The limit is ours, around the whole: math-verify's own starts anew in each of its steps.
        return parse(f"${latex}$", parsing_timeout=None)

    def compare(gold: str, answer: str) -> Outcome:
        gold, answer = as_asked(gold), as_asked(answer)
        if not parsed(gold):
            return "unreadable gold"
        if not verify(parsed(gold), parsed(answer), timeout_seconds=None):
            return "different"
        whole = is_whole(answer, parsed(answer), gold) and is_whole(gold, parsed(gold), answer)
        return "equal" if whole else "different"

    return compare

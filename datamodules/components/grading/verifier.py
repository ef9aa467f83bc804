"""math-verify in worker processes, each answer under a hard time limit.

math-verify needs the main thread of a process and now and then meets an answer that keeps sympy busy for minutes, in C
code that no Python signal handler interrupts. Each worker is therefore a process of its own under three limits:

- after `time_limit` seconds of processor time an alarm ends the comparison, and the worker goes on with the next;
- a second later, where the alarm was not heard, the kernel ends the worker;
- after thirty times as long on the clock the parent does.

Processor time, so that a busy machine grades as an idle one does. A worker's memory is bounded as well, because
`9^{9^{9^9}}` is a short answer. A worker that was ended is replaced.

Most of a comparison's time goes into reading LaTeX, so each worker gets answers to the same gold one after the other
and keeps what it has read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any, Literal

from datamodules.components.grading.sympy_values import Values, apart, values_of
from dust2gold.core.errors import InputError

Outcome = Literal["equal", "different", "unreadable gold", "time limit", "worker died"]
"""What came of comparing an answer with a gold answer; the last three settle nothing."""

_GRACE = 1.0  # seconds of processor time between the alarm and the worker's end
_STALL = 30.0  # clock time over processor time at which a worker is given up
_START = 600.0  # seconds a worker has for importing sympy, on a very busy machine too
_MEMORY = 4 << 30  # bytes of address space of a worker
_CHUNK = 16  # answers sent to a worker together
_KEPT = 4096  # expressions a worker remembers
_OVERRAN = getattr(signal, "SIGXCPU", 0)  # what the kernel ends a worker with that used up its processor time


class Verifier:
    """A pool of math-verify workers. Use it as a context manager, or call `close`.

    Args:
        workers: How many processes; the number of usable cores if None.
        time_limit: Seconds of processor time for one answer.

    Raises:
        InputError: If math-verify is not installed or its workers do not start.
    """

    def __init__(self, workers: int | None = None, time_limit: float = 5.0) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise InputError(
                "math-verify is not installed",
                field="--grader",
                remedy="pip install math-verify, or use --grader string",
            )
        if not time_limit > 0:
            raise InputError(f"{time_limit} s is no time limit", field="--time-limit", remedy="give a number above 0")
        self.count = workers or _usable_cores()
        self.time_limit = time_limit
        self._workers: list[_Worker] = []

    def compare(self, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[int, Outcome]]:
        """Compares (gold, answer) pairs; yields (index, outcome) as each is settled, in no particular order."""
        pending = deque(sorted(range(len(pairs)), key=lambda index: pairs[index]))  # a gold's answers side by side
        while len(self._workers) < min(self.count, len(pairs)):
            self._workers.append(_Worker(self.time_limit))
        try:
            while pending or self._busy():
                for worker in self._workers:
                    if pending and worker.idle:
                        chunk = min(_CHUNK, 1 + len(pending) // (4 * self.count))  # smaller ones towards the end
                        tasks = [pending.popleft() for _ in range(chunk)]
                        worker.send(tasks, [pairs[index] for index in tasks])
                yield from self._collect(pending)
        finally:
            if self._busy():  # left early: the replies still to come are nobody's
                self.close()

    def _busy(self) -> bool:
        return any(worker.tasks for worker in self._workers)

    def _collect(self, pending: deque[int]) -> Iterator[tuple[int, Outcome]]:
        """Waits until a worker replies, starts, dies or overruns; replaces one that did the last two.

        What such a worker had not begun yet is pending again.
        """
        busy = [worker for worker in self._workers if not worker.idle]
        patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
        replied = wait([worker.connection for worker in busy], timeout=patience)
        for worker in busy:
            task, late = worker.tasks[0] if worker.tasks else None, worker.deadline <= time.monotonic()
            if worker.connection in replied:
                outcome = worker.receive()
            elif late:
                outcome = worker.give_up("time limit")
            else:
                continue
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

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """One worker process as its parent sees it: starting, idle, busy with `tasks[0]` until `deadline`, or dead."""

    def __init__(self, time_limit: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, time_limit), daemon=True)
        self.process.start()
        theirs.close()
        self.time_limit = time_limit
        self.tasks: deque[int] = deque()
        self.started = False
        self.alive = True
        self.deadline = time.monotonic() + _START

    @property
    def idle(self) -> bool:
        return self.alive and self.started and not self.tasks

    def send(self, tasks: Sequence[int], pairs: Sequence[tuple[str, str]]) -> None:
        self.tasks.extend(tasks)
        self._begin_task()
        with contextlib.suppress(OSError):  # a worker that died meanwhile shows when its reply is awaited
            self.connection.send(pairs)

    def _begin_task(self) -> None:
        self.deadline = time.monotonic() + _STALL * (self.time_limit + _GRACE)

    def receive(self) -> Outcome | None:
        """The outcome of the first task, now done; None if the worker reports that it has started."""
        try:
            outcome: Outcome | None = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(_GRACE)
            return self.give_up("time limit" if self.process.exitcode == -_OVERRAN else "worker died")
        self._end_task()
        self.started = True
        self._begin_task()
        return outcome

    def _end_task(self) -> None:
        if self.tasks:
            self.tasks.popleft()

    def give_up(self, why: Outcome) -> Outcome:
        self.kill()
        self._end_task()
        if not self.started:
            raise InputError(
                "the math-verify workers do not start",
                field="--grader",
                remedy="check `python -c 'import math_verify'`, or use --grader string",
            )
        return why

    def kill(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Overrun(BaseException):
    """Raised by the alarm; no Exception, for sympy catches many of those."""


def _raise_overrun(number: int, frame: FrameType | None) -> None:
    raise _Overrun


def _serve(connection: Connection, time_limit: float) -> None:
    """The life of a worker: says None once it has started, then sends an outcome for each (gold, answer) pair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bound_memory()
    compare = _load_comparison()
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        connection.send(None)
        while True:
            for gold, answer in connection.recv():
                connection.send(_within(time_limit, compare, gold, answer))


def _bound_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, most))


def _bound_time(seconds: float) -> None:
    """Lets the kernel end this process once it has used so much more processor time."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), most))


def _within(seconds: float, compare: Callable[[str, str], Outcome], gold: str, answer: str) -> Outcome:
    if not hasattr(signal, "setitimer"):
        return compare(gold, answer)
    _bound_time(seconds + _GRACE)
    signal.signal(signal.SIGPROF, _raise_overrun)
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            return compare(gold, answer)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _Overrun:
        return "time limit"


def _load_comparison() -> Callable[[str, str], Outcome]:
    """The comparison by math-verify, whose import takes a second or two."""
    from math_verify import parse, verify  # type: ignore[import-untyped]

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    @lru_cache(maxsize=_KEPT)
    def read(latex: str) -> Any:
        # The limit is ours, around the whole: math-verify's own starts anew in each of its steps.
        return parse(f"${latex}$", parsing_timeout=None)

    @lru_cache(maxsize=_KEPT)
    def values(latex: str) -> Values | None:
        found = read(latex)
        return values_of(found[0]) if found and "%" not in latex else None  # 50% may equal 50 as well as 0.5

    def compare(gold: str, answer: str) -> Outcome:
        if not read(gold):
            return "unreadable gold"
        if apart(values(gold), values(answer)):
            return "different"  # without the algebra that would show it
        return "equal" if verify(read(gold), read(answer), timeout_seconds=None) else "different"

    return compare

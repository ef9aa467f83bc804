"""SIGTERM and SIGUSR1, by which schedulers announce that a job is about to be ended."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_received: list[int] = []
"""All that listeners of this process have received, in order."""


class Preempted(SystemExit):
    """Ends the process with the status that a shell gives to one ended by the signal, e.g. 143 after SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class SignalListener:
    """Receives `SIGNALS` while it listens. Listeners nest: the last one hears, and stops first.

    Args:
        react: Called with a signal's number; without it a signal is noted and nothing else.

    Attributes:
        received: The first signal.
    """

    def __init__(self, react: Callable[[int], object] | None = None) -> None:
        self.received: int | None = None
        self._react = react
        self._before: list[tuple[int, Any]] = []

    def listen(self) -> None:
        """Replaces the present handlers; in other threads than the main one signals stay where they are."""
        if not self._before and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before.append((number, signal.signal(number, self._receive)))

    def stop(self) -> None:
        """Restores the handlers."""
        while self._before:
            number, handler = self._before.pop()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not one of Python's

    def __enter__(self) -> SignalListener:
        self.listen()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        _received.append(number)
        self.received = self.received or number
        if self._react is not None:
            self._react(number)


@contextlib.contextmanager
def signals_as_exit() -> Iterator[None]:
    """Lets a signal end the block as an exception does, so that nothing half written is left; a second one kills.

    One that was held back within the block, or whose exception was lost there, ends the process after the block.
    """

    def end(number: int) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Preempted(number)

    before = len(_received)
    with SignalListener(end):
        yield
    if _received[before:]:
        raise Preempted(_received[before])

"""SIGTERM and SIGUSR1, by which schedulers announce that a job is about to be ended."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(SystemExit):
    """Ends the process with the status that a shell gives to one ended by the signal, e.g. 143 after SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class SignalListener:
    """Records the first of `SIGNALS` that arrives while it listens, and does nothing else about any of them."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Replaces the present handlers: Lightning's would save or stop in the middle of a step."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._before = {number: signal.signal(number, self._record) for number in SIGNALS}

    def stop(self) -> None:
        """Restores the handlers."""
        for number, handler in self._before.items():
            with contextlib.suppress(TypeError, ValueError):  # one that Python did not install cannot be set again
                signal.signal(number, handler)
        self._before = {}

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number

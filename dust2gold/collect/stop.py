"""Why collecting ends before its time: a signal, the budget, an error that no repetition mends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from dust2gold.core.errors import InputError

GRACE = 20.0
"""Seconds that requests under way have to arrive after a signal: they are paid. SLURM kills 30 s after SIGTERM."""


class Stop:
    """Set once, by whatever comes first.

    Attributes:
        signal: The signal's number.
        error: What no repetition mends.
        budget_spent: Whether the budget ended it.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.signal: int | None = None
        self.error: InputError | None = None
        self.budget_spent = False

    @property
    def is_set(self) -> bool:
        """Whether no more requests should begin."""
        return self._event.is_set()

    def set(self, *, signal: int | None = None, error: InputError | None = None, budget_spent: bool = False) -> None:
        """Ends collecting: nothing new begins, what is under way arrives."""
        if not self.is_set:
            self.signal, self.error, self.budget_spent = signal, error, budget_spent
            self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Sleeps so long, or until it is set."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)

    @contextlib.contextmanager
    def on_signals(self, tell: Callable[[str], None], give_up: Callable[[], object]) -> Iterator[None]:
        """Makes Ctrl-C and SIGTERM set it while the block runs; in a thread signals stay where they are.

        Args:
            tell: Shows the user a line.
            give_up: Called at the second signal, or when requests under way are not there after `GRACE`.
        """
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.TimerHandle] = []

        def receive(number: int) -> None:
            if self.signal is not None:
                give_up()
                return
            tell(f"stopping; requests under way have {GRACE:g} s to arrive (again: give them up)")
            self.set(signal=number)
            self.signal = number  # also if an error or the budget was first: the user wants the terminal back
            waiting.append(loop.call_later(GRACE, give_up))

        before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                handler = signal.getsignal(number)
                loop.add_signal_handler(number, receive, number)
                before[number] = handler
        try:
            yield
        finally:
            for timer in waiting:
                timer.cancel()
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                if handler is not None:  # else it was not Python's
                    signal.signal(number, handler)

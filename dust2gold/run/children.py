"""Command lines in Pythons of their own: one on the terminal, or several at a time with a log each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dust2gold.core.errors import InputError
from dust2gold.core.files import open_in_place
from dust2gold.core.signals import SignalListener
from dust2gold.run.sources import CODE_ROOT
from dust2gold.run.stage import as_typed

_LINES_SHOWN = 12


class Children:
    """The commands under way. The lock of the run directory, which is inheritable, is theirs too.

    Attributes:
        signals: While it listens, signals are sent on to them, and no command begins after one.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self.signals = SignalListener(self._forward)

    @property
    def stopped(self) -> int | None:
        """The exit status of a command that shall not begin, after a signal."""
        return None if self.signals.received is None else 128 + self.signals.received

    def unless_stopped(self, execute: Callable[[list[str]], int | None]) -> Callable[[list[str]], int | None]:
        """Another way to run a command line, that begins none after a signal."""
        return lambda words: self.stopped or execute(words)

    def execute(self, command: Sequence[str], log: Path | None = None, share: Mapping[str, str] | None = None) -> int:
        """Runs one command line and returns its exit status, negative for the signal that killed it.

        With a log its output is appended there, and of a failure the last lines are shown; `share` is one of `shares`.
        """
        if self.stopped is not None:
            return self.stopped
        words = [sys.executable, str(CODE_ROOT / "cli.py"), *command]
        environment = {**os.environ, **(share or {})}
        if log is None:
            return self._wait(subprocess.Popen(words, env=environment, close_fds=False))
        log.parent.mkdir(parents=True, exist_ok=True)
        with open_in_place(log, "ab") as out:
            out.write(f"$ {as_typed(command)}\n".encode())
            out.flush()
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(words, env=environment, stdin=quiet, stdout=out, stderr=out, close_fds=False)
            status = self._wait(process)
        if status:
            print(_ending(log), file=sys.stderr)
        return status

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        self._running.add(process)
        if self.signals.received is not None:  # it came while the process began
            process.send_signal(self.signals.received)
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal sent it Ctrl-C too: it stops in its own way
            process.wait()
            raise
        finally:
            self._running.discard(process)

    def _forward(self, number: int) -> None:
        for process in list(self._running):
            process.send_signal(number)


def shares(jobs: int) -> list[dict[str, str]]:
    """Environment variables that share this machine among `jobs` commands at a time: its cores and GPUs.

    A command gets its share of the cores for computing, unless OMP_NUM_THREADS says otherwise, and its share of
    CUDA_VISIBLE_DEVICES, or of all GPUs.

    Raises:
        InputError: If there are GPUs, but fewer than jobs.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // jobs))
    devices = _gpus()
    if devices and len(devices) < jobs:
        remedy = f"give --jobs {len(devices)} or less, or CUDA_VISIBLE_DEVICES= to compute on the CPU"
        raise InputError(f"{jobs} stages at a time have only {len(devices)} GPUs", field="--jobs", remedy=remedy)
    visible = [{"CUDA_VISIBLE_DEVICES": ",".join(devices[job::jobs])} if devices else {} for job in range(jobs)]
    return [{"OMP_NUM_THREADS": threads, **own} for own in visible]


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _ending(log: Path) -> str:
    """The last lines of a log; of a progress bar, what it showed last."""
    lines = [line.rpartition("\r")[2] for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return "\n".join([f"the end of {log}:", *(f"  {line}" for line in lines[-_LINES_SHOWN:])])

"""Command lines in processes forked from this one, which has loaded all libraries and computed nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

LIMIT = 180.0


def start(words: list[str], home: Path) -> int:
    """Starts a command line and returns its process id."""

    def work() -> int:
        from dust2gold import cli

        return cli.main(words)

    return fork(work, home)


def fork(work: Callable[[], int | None], home: Path) -> int:
    """Starts `work` in a process, with `home` as its directory and `home/log` for what it says; returns the id."""
    if threading.active_count() > 1:
        raise RuntimeError(f"a fork would lose threads: {threading.enumerate()}")
    sys.stdout.flush()
    sys.stderr.flush()
    if (process := os.fork()) != 0:
        with contextlib.suppress(OSError):  # in both processes: whoever comes first
            os.setpgid(process, process)
        return process
    code = 70
    try:
        os.setpgid(0, 0)
        log = os.open(home / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # pytest's own write elsewhere
        os.chdir(home)
        code = work() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 71
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(words: list[str], home: Path) -> int:
    """Runs a command line to its end and returns its exit code; one that hangs is ended after `LIMIT` seconds."""
    return ending(start(words, home))


def ending(process: int) -> int:
    """Waits for a process and returns its exit code; one that hangs is ended after `LIMIT` seconds."""
    last = time.monotonic() + LIMIT
    while time.monotonic() < last:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(words: list[str], home: Path, when: Callable[[], bool], delay: float = 0.0) -> bool:
    """Kills a command line, and whatever processes it started, some seconds after `when` first holds.

    Returns:
        False if it was done before.
    """
    process, last = start(words, home), time.monotonic() + LIMIT
    while not when() and time.monotonic() < last:
        time.sleep(0.001)
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
    time.sleep(delay)
    if os.waitpid(process, os.WNOHANG)[0]:
        return False
    os.killpg(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def last_words(home: Path) -> str:
    """The end of what the last process said."""
    lines = (home / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(lines[-3:])

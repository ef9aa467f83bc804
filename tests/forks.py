"""Command lines in processes forked from this one, which has loaded all libraries and computed nothing."""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

LIMIT = 180.0
"""Seconds after which a process that hangs is killed."""


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


def _command(words: list[str]) -> int:
    from dust2gold import cli

    return cli.main(words)


def finish(words: list[str], home: Path) -> int:
    """Runs a command line to its end and returns its exit code."""
    return ending(fork(partial(_command, words), home))


def ending(process: int) -> int:
    """Waits for a process and returns its exit code."""
    code = _wait(process, lambda: False)
    return _kill(process) if code is None else code


def killed(words: list[str], home: Path, when: Callable[[], bool], delay: float = 0.0) -> bool:
    """Kills a command line and its processes `delay` seconds after `when` first holds; False if it was done before."""
    process = fork(partial(_command, words), home)
    if _wait(process, when) is not None:
        return False
    time.sleep(delay)
    if os.waitpid(process, os.WNOHANG)[0]:
        return False
    return _kill(process) == -signal.SIGKILL


def _wait(process: int, when: Callable[[], bool]) -> int | None:
    """The exit code, or None as soon as `when` holds or the time is up."""
    last = time.monotonic() + LIMIT
    while not when() and time.monotonic() < last:
        time.sleep(0.001)
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
    return None


def _kill(process: int) -> int:
    os.killpg(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def log_of(home: Path) -> str:
    """What the last process in `home` said."""
    return (home / "log").read_text(encoding="utf-8", errors="replace")


def last_words(home: Path) -> str:
    """The end of that."""
    return " / ".join(log_of(home).strip().splitlines()[-3:])

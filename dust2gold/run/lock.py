"""One run at a time in a run directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from dust2gold.core.errors import InputError
from dust2gold.core.files import open_in_place
from dust2gold.core.locks import hold


@contextlib.contextmanager
def only_run_in(run: Path) -> Iterator[None]:
    """Holds the run directory's lock file while the block runs.

    The kernel drops the lock with the last process that held it, `run` or a command it started, so a file left by dead
    ones is simply taken over.

    Raises:
        InputError: If another process holds it, or the directory cannot be written.
    """
    path = run / ".stages" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open_in_place(path, "a+")
    except OSError as error:
        remedy = "choose another run directory with --run DIR"
        raise InputError(f"cannot write ({error.strerror or error})", file=path, remedy=remedy) from error
    with stream:
        try:
            hold(stream)
        except BlockingIOError as error:
            stream.seek(0)
            raise InputError(
                f"another run is at work in {run} (process {stream.read().strip() or 'unknown'})",
                file=path,
                remedy="wait for it, stop it, or choose another directory with --run DIR",
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        os.set_inheritable(stream.fileno(), True)  # a command that outlives a killed `run` keeps the next one out
        yield

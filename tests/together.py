"""Runs a function in several processes that form a group as torchrun would start them, forked from this one."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import tqdm

from tests.forks import ending, fork


def together(work: Callable[[], int | None], home: Path, processes: int = 2) -> list[int]:
    """Runs `work` in so many processes of one machine and returns their exit codes; logs are `home/<rank>/log`."""
    port = free_port()
    end_monitors()
    started = []
    for rank in range(processes):
        (home / str(rank)).mkdir(parents=True, exist_ok=True)
        started.append(fork(_placed(work, rank, processes, port), home / str(rank)))
    codes = [ending(process) for process in started]
    for rank in (rank for rank, code in enumerate(codes) if code):
        log = (home / str(rank) / "log").read_text(encoding="utf-8", errors="replace")
        print(log[-4000:])  # shown if the test fails
    return codes


def _placed(work: Callable[[], int | None], rank: int, processes: int, port: int) -> Callable[[], int | None]:
    def placed() -> int | None:
        os.environ.update(dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
        os.environ.update(dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes)))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        return work()

    return placed


def end_monitors() -> None:
    """Ends the threads that watch over progress bars: a fork would lose them."""
    tqdm.tqdm.monitor_interval = 0
    for thread in threading.enumerate():
        if isinstance(thread, tqdm.TMonitor):
            thread.exit()  # type: ignore[no-untyped-call]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

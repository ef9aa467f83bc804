import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from datamodules.components.grading import verifier
from datamodules.components.grading.verifier import Verifier
from dust2gold.core.errors import InputError

TOWER = "9^{9^{9^{9}}}"


@pytest.fixture
def started() -> Iterator[Callable[[float], Verifier]]:
    """Makes a pool of one worker, which has compared something."""
    with ExitStack() as stack:

        def start(time_limit: float = 5.0) -> Verifier:
            pool = stack.enter_context(closing(Verifier(workers=1, time_limit=time_limit)))
            assert dict(pool.compare([("1", "1.0")])) == {0: "equal"}
            return pool

        yield start


def test_a_worker_that_hangs_is_killed(started: Callable[[float], Verifier], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_STALL", 1.0)
    pool = started(3.0)
    os.kill(pool._workers[0].process.pid or 0, signal.SIGSTOP)
    assert dict(pool.compare([("1", "1.0")])) == {0: "time limit"}
    assert dict(pool.compare([("1", "1.0")])) == {0: "equal"}


def test_the_kernel_ends_an_answer_that_no_signal_handler_could(
    started: Callable[[float], Verifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "_STALL", 500.0)  # the parent would wait for minutes
    began, pool = time.monotonic(), started(0.5)
    assert dict(pool.compare([("2", TOWER), ("3", "4.0")])) == {0: "time limit", 1: "different"}
    assert time.monotonic() - began < 200
    os.kill(pool._workers[0].process.pid or 0, signal.SIGPROF)
    assert dict(pool.compare([("1", "1.0"), ("1", "2.0")])) == {0: "time limit", 1: "different"}


def test_a_worker_that_dies_costs_one_answer_at_most(started: Callable[..., Verifier]) -> None:
    """What it had not begun (several answers are sent together) is compared by the next worker."""
    pool = started()
    pool._workers[0].process.kill()
    outcomes = dict(pool.compare([(str(value), f"{value}.0") for value in range(9)]))
    assert outcomes == {0: "worker died", **dict.fromkeys(range(1, 9), "equal")}
    process = pool._workers[0].process
    process.kill()
    process.join()
    assert dict(pool.compare([("1", "1.0"), ("1", "2.0")])) == {0: "worker died", 1: "different"}


def test_leaving_early_leaves_no_stale_replies() -> None:
    with closing(Verifier(workers=2, time_limit=5.0)) as pool:
        next(pool.compare([("1", "1.0"), ("1", "2.0"), ("1", "3.0")]))
        assert dict(pool.compare([("7", "8.0"), ("7", "7.0")])) == {0: "different", 1: "equal"}


def test_workers_that_do_not_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_START", 0.0)
    with closing(Verifier(workers=1)) as pool, pytest.raises(InputError, match="do not start"):
        list(pool.compare([("1", "2")]))

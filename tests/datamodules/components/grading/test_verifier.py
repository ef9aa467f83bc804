"""math-verify's workers: what hangs, dies, overruns or does not start."""

from __future__ import annotations

import os
import signal
import time

import pytest

from datamodules.components.grading import verifier
from datamodules.components.grading.verifier import Verifier
from dust2gold.core.errors import InputError

TOWER = "9^{9^{9^{9}}}"


def test_a_worker_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_STALL", 1.0)
    with Verifier(workers=1, time_limit=3.0) as pool:
        assert dict(pool.compare([("1", "1.0")])) == {0: "equal"}
        os.kill(pool._workers[0].process.pid or 0, signal.SIGSTOP)
        assert dict(pool.compare([("1", "1.0")])) == {0: "time limit"}
        assert dict(pool.compare([("1", "1.0")])) == {0: "equal"}


def test_the_kernel_ends_an_answer_that_no_signal_handler_could(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_STALL", 500.0)  # the parent would wait for minutes
    began = time.monotonic()
    with Verifier(workers=1, time_limit=0.5) as pool:
        outcomes = dict(pool.compare([("1", "1.0"), ("2", TOWER), ("3", "4.0")]))
        assert outcomes == {0: "equal", 1: "time limit", 2: "different"}
        assert time.monotonic() - began < 200
        os.kill(pool._workers[0].process.pid or 0, signal.SIGPROF)
        assert dict(pool.compare([("1", "1.0"), ("1", "2.0")])) == {0: "time limit", 1: "different"}


def test_a_worker_that_dies_costs_one_answer_at_most() -> None:
    with Verifier(workers=1, time_limit=5.0) as pool:
        assert dict(pool.compare([("1", "1.0")])) == {0: "equal"}
        process = pool._workers[0].process
        process.kill()
        process.join()
        assert dict(pool.compare([("1", "1.0"), ("1", "2.0")])) == {0: "worker died", 1: "different"}


def test_what_a_dead_worker_had_not_begun_is_compared_by_the_next() -> None:
    with Verifier(workers=1, time_limit=5.0) as pool:
        assert dict(pool.compare([("1", "1.0")])) == {0: "equal"}
        pool._workers[0].process.kill()
        outcomes = dict(pool.compare([(str(value), f"{value}.0") for value in range(9)]))  # several are sent together
        assert outcomes == {0: "worker died", **dict.fromkeys(range(1, 9), "equal")}


def test_leaving_early_leaves_no_stale_replies() -> None:
    with Verifier(workers=2, time_limit=5.0) as pool:
        next(pool.compare([("1", "1.0"), ("1", "2.0"), ("1", "3.0")]))
        assert dict(pool.compare([("7", "8.0"), ("7", "7.0")])) == {0: "different", 1: "equal"}


def test_workers_that_do_not_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_START", 0.0)
    with Verifier(workers=1) as pool, pytest.raises(InputError, match="do not start"):
        list(pool.compare([("1", "2")]))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_time_limit_is_above_zero(seconds: float) -> None:
    with pytest.raises(InputError, match="time limit"):
        Verifier(time_limit=seconds)

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from dust2gold.core.locks import Lock, hold


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first = Lock(tmp_path / "lock")
    assert first.free
    second = Lock(tmp_path / "lock")
    assert not second.free
    second.release()  # gives up nothing
    assert not Lock(tmp_path / "lock").free
    first.release()
    first.release()
    assert list(tmp_path.iterdir()) == []
    assert Lock(tmp_path / "lock").free


def test_a_killed_holder_holds_it_no_longer(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        Lock(tmp_path / "lock")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "lock").exists()
    assert Lock(tmp_path / "lock").free


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_it_goes_on_and_says_so_once(
    tmp_path: Path, no_locks: list[int], number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    no_locks[0] = number
    with (tmp_path / "f").open("a") as one, (tmp_path / "f").open("a") as other:
        assert not hold(one)
        assert not hold(other, wait=True)
    assert Lock(tmp_path / "lock").free
    assert capsys.readouterr().err.count("the file system has no locks") == 1


def test_another_failure_is_one(tmp_path: Path, no_locks: list[int]) -> None:
    no_locks[0] = errno.EIO
    with (tmp_path / "f").open("a") as stream, pytest.raises(OSError, match="Input/output"):
        hold(stream)

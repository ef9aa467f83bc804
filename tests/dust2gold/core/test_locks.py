from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from dust2gold.core.errors import InputError
from dust2gold.core.locks import Lock


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


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("dust2gold.core.locks.fcntl.flock", flock)
    with pytest.raises(InputError, match=r"cannot be locked \(No locks available\)") as caught:
        Lock(tmp_path / "lock")
    assert "option flock" in str(caught.value)
    assert caught.value.file == str(tmp_path / "lock")

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from dust2gold.core.errors import InputError
from dust2gold.core.locks import release, take


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_one_holder_at_a_time(file: Path) -> None:
    first = take(file)
    assert first is not None
    assert take(file) is None
    release(first)
    assert not file.exists()
    assert take(file) is not None


def test_a_killed_holder_holds_it_no_longer(file: Path) -> None:
    if (child := os.fork()) == 0:
        take(file)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert file.exists()
    assert take(file) is not None


def test_a_file_system_without_locks_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("dust2gold.core.locks.fcntl.flock", flock)
    with pytest.raises(InputError, match=r"lock: cannot be locked \(No locks available\)\n.*option flock"):
        take(file)

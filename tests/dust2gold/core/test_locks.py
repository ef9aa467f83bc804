import errno
import os
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest

from dust2gold.core.errors import InputError
from dust2gold.core.locks import release, take


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first = take(file := tmp_path / "lock")
    assert first is not None
    assert take(file) is None
    release(first)
    assert not file.exists()
    assert take(file) is not None


def test_a_killed_holder_holds_it_no_longer(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    if (child := os.fork()) == 0:
        take(file)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert file.exists()
    assert take(file) is not None


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = Mock(side_effect=OSError(errno.ENOLCK, "No locks available"))
    monkeypatch.setattr("dust2gold.core.locks.fcntl.flock", flock)
    with pytest.raises(InputError, match=r"lock: cannot be locked \(No locks available\)\n.*option flock"):
        take(tmp_path / "lock")

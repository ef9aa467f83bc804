from __future__ import annotations

import os
import signal
from pathlib import Path

from foundation.locks import Lock


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

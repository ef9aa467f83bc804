"""Files and directories that are written whole or not at all, by processes that are killed in the middle."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from dust2gold.core import files
from dust2gold.core.errors import InputError
from dust2gold.core.files import write_atomically, write_directory_atomically

REPOSITORY = Path(__file__).parents[3]
HEAD = """
import os, signal, sys
from pathlib import Path
from dust2gold.core.files import write_atomically, write_directory_atomically
def kill(): os.kill(os.getpid(), signal.SIGKILL)
"""
IN_A_FILE = """
with write_atomically(Path(sys.argv[1])) as stream:
    stream.write("half")
    stream.flush()
    kill()
"""
IN_A_DIRECTORY = """
with write_directory_atomically(Path(sys.argv[1])) as directory:
    (directory / "file").write_text("half")
    kill()
"""
AT_A_RENAME = """
rename, calls = Path.rename, []
def until(one, other):
    calls.append(one)
    kill() if len(calls) == {number} else rename(one, other)
Path.rename = until
with write_directory_atomically(Path(sys.argv[1])) as directory:
    (directory / "file").write_text("new")
"""


def killed(code: str, path: Path) -> None:
    """Runs code that calls `kill()`."""
    done = subprocess.run([sys.executable, "-c", HEAD + code, str(path)], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL


def write(path: Path, text: str) -> None:
    """Writes a directory with a file in it."""
    with write_directory_atomically(path) as directory:
        (directory / "file").write_text(text)


def write_file(path: Path, text: str) -> None:
    with write_atomically(path) as stream:
        stream.write(text)


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


@pytest.mark.parametrize(("code", "rewrite"), [(IN_A_FILE, write_file), (IN_A_DIRECTORY, write)])
def test_what_a_killed_process_left_is_removed_by_the_next_writing(
    tmp_path: Path, code: str, rewrite: Callable[[Path, str], None]
) -> None:
    path = tmp_path / "a[1].jsonl"
    killed(code, path)
    killed(code, path)
    assert [each.suffix for each in tmp_path.iterdir()] == [".part"]  # the second has removed the first one's
    rewrite(path, "whole")
    assert names(tmp_path) == ["a[1].jsonl"]
    assert (path / "file" if path.is_dir() else path).read_text() == "whole"


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    others = [".a.jsonl.abcd1234.part", ".a.mine.part", "a.abcd1234.part", ".a.abcd1234.other"]
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    write_file(tmp_path / "a", "")
    assert names(tmp_path) == sorted([*others, "a"])


def test_what_somebody_is_writing_is_not_removed(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "a") as slow, write_directory_atomically(tmp_path / "d") as slow_directory:
        slow.write("slow")
        (slow_directory / "file").write_text("slow")
        write_file(tmp_path / "a", "fast")
        write(tmp_path / "d", "fast")
        assert (tmp_path / "a").read_text() == "fast"
    assert (tmp_path / "a").read_text() == "slow"
    assert (tmp_path / "d" / "file").read_text() == "slow"
    assert names(tmp_path) == ["a", "d"]


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unknown whether the writer lives."""
    killed(IN_A_FILE, tmp_path / "a")
    (left,) = tmp_path.iterdir()

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("dust2gold.core.files.fcntl.flock", flock)
    write_file(tmp_path / "a", "whole")
    write(tmp_path / "d", "whole")
    assert names(tmp_path) == sorted([left.name, "a", "d"])


def test_what_is_not_yet_locked_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes while the temporary directory is made, before and after its lock file is opened."""
    flock, calls = fcntl.flock, list[int]()

    def interrupted(stream: IO[Any], operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            files.recover(tmp_path / "a")
        flock(stream, operation)

    monkeypatch.setattr("dust2gold.core.files.fcntl.flock", interrupted)
    write(tmp_path / "a", "whole")
    assert calls == [fcntl.LOCK_EX]
    assert (tmp_path / "a" / "file").read_text() == "whole"


@pytest.mark.parametrize(("number", "remains"), [(1, "old"), (2, "old"), (3, None)])
def test_a_kill_while_a_directory_is_replaced_loses_nothing(tmp_path: Path, number: int, remains: str | None) -> None:
    """Killed at the lock file's rename, at that of the old directory, and between it and that of the new one."""
    path = tmp_path / "adapter"
    write(path, "old")
    killed(AT_A_RENAME.format(number=number), path)
    assert (path / "file").read_text() == remains if remains else not path.exists()
    with pytest.raises(ZeroDivisionError), write_directory_atomically(path):
        raise ZeroDivisionError
    assert (path / "file").read_text() == "old"
    write(path, "newer")
    assert (path / "file").read_text() == "newer"
    assert [each.name for each in tmp_path.iterdir() if not (each / "unlocked").exists()] == ["adapter"]


def test_an_old_directory_comes_back_if_the_new_one_cannot_be_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "adapter", Path.rename
    write(path, "old")

    def fails(one: Path, other: Path) -> Path:
        if one.name == "new":
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return rename(one, other)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(InputError, match="Disk quota exceeded"):
        write(path, "new")
    assert (path / "file").read_text() == "old"
    assert names(tmp_path) == ["adapter"]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "old")
    (tmp_path / "adapter").symlink_to("elsewhere")
    write(tmp_path / "adapter", "new")
    assert (tmp_path / "elsewhere" / "file").read_text() == "old"
    assert not (tmp_path / "adapter").is_symlink()
    assert names(tmp_path) == ["adapter", "elsewhere"]

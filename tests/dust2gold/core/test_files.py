"""Files and directories that are written whole or not at all, by processes that are killed in the middle."""

import errno
import fcntl
import itertools
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any
from unittest.mock import Mock

import pytest

from dust2gold.core import files
from dust2gold.core.errors import InputError
from dust2gold.core.files import write_atomically, write_directory_atomically

Patch = pytest.MonkeyPatch


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work: Callable[[], None]) -> None:
    """Does some work in a process of its own, which it does not outlive."""
    if (child := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def write_file(path: Path, text: str, then: Callable[[], None] = lambda: None) -> None:
    with write_atomically(path) as stream:
        stream.write(text)
        stream.flush()
        then()


def write(path: Path, text: str, then: Callable[[], None] = lambda: None) -> None:
    """Writes a directory with a file in it."""
    with write_directory_atomically(path) as directory:
        (directory / "file").write_text(text)
        then()


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


@pytest.mark.parametrize("rewrite", [write_file, write])
def test_what_a_killed_process_left_is_removed(tmp_path: Path, rewrite: Callable[..., None]) -> None:
    path = tmp_path / "a[1].jsonl"
    killed(partial(rewrite, path, "half", kill))
    killed(partial(rewrite, path, "half", kill))
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


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: Patch) -> None:
    """It is unknown whether the writer lives."""
    killed(partial(write_file, tmp_path / "a", "half", kill))
    (left,) = tmp_path.iterdir()
    flock = Mock(side_effect=OSError(errno.ENOLCK, "No locks available"))
    monkeypatch.setattr("dust2gold.core.files.fcntl.flock", flock)
    write_file(tmp_path / "a", "whole")
    write(tmp_path / "d", "whole")
    assert names(tmp_path) == sorted([left.name, "a", "d"])


def test_what_is_not_yet_locked_is_not_removed(tmp_path: Path, monkeypatch: Patch) -> None:
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
def test_a_kill_while_replacing(tmp_path: Path, monkeypatch: Patch, number: int, remains: str | None) -> None:
    """Killed at the lock file's rename, at that of the old directory, and between it and that of the new one."""
    path = tmp_path / "adapter"
    write(path, "old")
    rename, calls = Path.rename, itertools.count(1)

    def until_killed(one: Path, other: Path) -> Path:
        if next(calls) == number:
            kill()
        return rename(one, other)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", until_killed)
        killed(partial(write, path, "new"))
    assert (path / "file").read_text() == remains if remains else not path.exists()
    with pytest.raises(ZeroDivisionError), write_directory_atomically(path):
        raise ZeroDivisionError
    assert (path / "file").read_text() == "old"
    write(path, "newer")
    assert (path / "file").read_text() == "newer"
    assert [each.name for each in tmp_path.iterdir() if not (each / "unlocked").exists()] == ["adapter"]


def test_an_old_directory_comes_back_if_the_new_one_cannot_be_put_there(tmp_path: Path, monkeypatch: Patch) -> None:
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

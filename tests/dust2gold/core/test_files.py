"""Files and directories that are written whole or not at all, by processes that are killed in the middle."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dust2gold.core import files
from dust2gold.core.files import write_atomically, write_directory_atomically

REPOSITORY = Path(__file__).parents[3]
KILLED_IN_A_FILE = """
with write_atomically(Path(sys.argv[1])) as stream:
    stream.write("half")
    stream.flush()
    kill()
"""
KILLED_IN_A_DIRECTORY = """
with write_directory_atomically(Path(sys.argv[1])) as directory:
    (directory / "file").write_text("half")
    kill()
"""
KILLED_AT_THE_EXCHANGE = """
exchanged = files._exchanged
files._exchanged = lambda one, other: (kill() if {before} else exchanged(one, other) and kill())
with write_directory_atomically(Path(sys.argv[1])) as directory:
    (directory / "file").write_text("new")
"""
KILLED_BETWEEN_TWO_STEPS = """
files._exchanged = lambda one, other: False
replace = Path.replace
Path.replace = lambda one, other: kill() if one.suffix == ".part" else replace(one, other)
with write_directory_atomically(Path(sys.argv[1])) as directory:
    (directory / "file").write_text("new")
"""


def killed(code: str, path: Path) -> None:
    """Runs code that calls `kill()`."""
    head = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom dust2gold.core import files\n"
        "from dust2gold.core.files import write_atomically, write_directory_atomically\n"
        "def kill(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", head + code, str(path)], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL


def write(path: Path, text: str) -> None:
    """Writes a directory with a file in it."""
    with write_directory_atomically(path) as directory:
        (directory / "file").write_text(text, encoding="utf-8")


def test_what_a_killed_process_left_of_a_file_is_removed_by_the_next_writing(tmp_path: Path) -> None:
    path = tmp_path / "a[1].jsonl"
    killed(KILLED_IN_A_FILE, path)
    killed(KILLED_IN_A_FILE, path)
    assert [each.suffix for each in tmp_path.iterdir()] == [".part"]  # the second has removed the first one's
    with write_atomically(path) as stream:
        stream.write("whole")
    assert [each.name for each in tmp_path.iterdir()] == ["a[1].jsonl"]
    assert path.read_text(encoding="utf-8") == "whole"


def test_what_a_killed_process_left_of_a_directory_is_removed_by_the_next_writing(tmp_path: Path) -> None:
    killed(KILLED_IN_A_DIRECTORY, tmp_path / "adapter")
    assert [each.suffix for each in tmp_path.iterdir()] == [".part"]
    write(tmp_path / "adapter", "whole")
    assert [each.name for each in tmp_path.iterdir()] == ["adapter"]


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    others = [".a.jsonl.abcd1234.part", ".a.mine.part", "a.abcd1234.part", ".a.abcd1234.other"]
    for name in others:
        (tmp_path / name).touch()
    with write_atomically(tmp_path / "a"):
        pass
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([*others, "a"])


def test_what_somebody_is_writing_is_not_removed(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "a") as slow, write_directory_atomically(tmp_path / "d") as slow_directory:
        slow.write("slow")
        (slow_directory / "file").write_text("slow", encoding="utf-8")
        with write_atomically(tmp_path / "a") as stream:
            stream.write("fast")
        write(tmp_path / "d", "fast")
        assert (tmp_path / "a").read_text(encoding="utf-8") == "fast"
    assert (tmp_path / "a").read_text(encoding="utf-8") == "slow"
    assert (tmp_path / "d" / "file").read_text(encoding="utf-8") == "slow"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "d"]


def test_where_there_are_no_locks_nothing_is_removed(tmp_path: Path, no_locks: list[int]) -> None:
    """Who knows whether its writer lives?"""
    killed(KILLED_IN_A_FILE, tmp_path / "a")
    (left,) = tmp_path.iterdir()
    with write_atomically(tmp_path / "a") as stream:
        stream.write("whole")
    write(tmp_path / "d", "whole")
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([left.name, "a", "d"])


@pytest.mark.parametrize("made", ["mkstemp", "mkdtemp"])
def test_what_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    make, calls = getattr(tempfile, made), list[Any]()

    def swept_once(**place: Any) -> Any:
        calls.append(result := make(**place))
        if len(calls) == 1:
            files._sweep_one(Path(result[1] if made == "mkstemp" else result))
        return result

    monkeypatch.setattr(tempfile, made, swept_once)
    if made == "mkstemp":
        with write_atomically(tmp_path / "a"):
            pass
    else:
        write(tmp_path / "a", "whole")
    assert len(calls) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("before", [True, False])
def test_a_directory_is_never_missing_where_the_file_system_can_exchange(tmp_path: Path, before: bool) -> None:
    path = tmp_path / "adapter"
    write(path, "old")
    (probe := tmp_path / "probe").mkdir()
    if not files._exchanged(probe, path):
        pytest.skip("this file system cannot exchange two paths")
    files._exchanged(probe, path)
    probe.rmdir()
    killed(KILLED_AT_THE_EXCHANGE.format(before=before), path)
    assert (path / "file").read_text(encoding="utf-8") == ("old" if before else "new")
    write(path, "newer")
    assert (path / "file").read_text(encoding="utf-8") == "newer"
    assert [each.name for each in tmp_path.iterdir()] == ["adapter"]


def test_where_it_cannot_the_older_directory_is_kept_until_there_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    write(path, "old")
    killed(KILLED_BETWEEN_TWO_STEPS, path)
    assert not path.exists()
    (kept,) = tmp_path.glob(".adapter.*.old")
    with pytest.raises(ZeroDivisionError), write_directory_atomically(path):
        raise ZeroDivisionError
    assert (kept / "adapter" / "file").read_text(encoding="utf-8") == "old"
    write(path, "newer")
    assert [each.name for each in tmp_path.iterdir()] == ["adapter"]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "old")
    (tmp_path / "adapter").symlink_to("elsewhere")
    write(tmp_path / "adapter", "new")
    assert (tmp_path / "elsewhere" / "file").read_text(encoding="utf-8") == "old"
    assert not (tmp_path / "adapter").is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["adapter", "elsewhere"]

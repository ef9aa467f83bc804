import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from dust2gold import cli
from dust2gold.core.errors import InputError
from dust2gold.core.locks import claim
from tests.words import stage_words


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with claim(file, "", ""), pytest.raises(InputError, match=f"a run is at work here: process {os.getpid()} on"):
        claim(file, "a run", "")
    claim(file, "", "").close()


def test_a_killed_holder_holds_it_no_longer(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    if (child := os.fork()) == 0:
        claim(file, "", "")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert f"process {child} on" in file.read_text()
    claim(file, "", "").close()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = Mock(side_effect=OSError(errno.ENOLCK, "No locks available"))
    monkeypatch.setattr("dust2gold.core.locks.fcntl.flock", flock)
    with pytest.raises(InputError, match=r"lock: cannot be locked \(No locks available\)\n.*option flock"):
        claim(tmp_path / "lock", "", "")


@pytest.mark.parametrize("verb", cli.TRAINER_VERBS)
def test_one_command_of_the_trainer_at_a_time_in_a_directory(
    tmp_path: Path, tiny_student: Path, complaint: Callable[..., str], verb: str
) -> None:
    root = tmp_path / "not" / "yet there"
    holder = claim(root / ".lock", "", "")
    words = stage_words(verb, "neg", tiny_student, root, "--data.train nowhere.jsonl")
    says = complaint(*words)
    assert f"{root}/.lock: another command is at work here: process {os.getpid()} on " in says
    assert "\n  wait for it or stop it, or choose another --trainer.default_root_dir" in says
    assert [path.name for path in root.iterdir()] == [".lock"]
    if verb == "fit":
        assert "nowhere.jsonl" in complaint(*words, "--trainer.fast_dev_run", "true")  # writes nothing
        with pytest.raises(SystemExit, match="0"):
            cli.main([*words, "--print_config"])
    holder.close()
    assert "another command" not in complaint(*words)

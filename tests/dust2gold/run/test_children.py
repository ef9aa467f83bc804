import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dust2gold.commands.run
from dust2gold.core.errors import InputError
from dust2gold.run.children import Children, shares
from dust2gold.run.sources import CODE_ROOT
from dust2gold.run.stage import Stage
from tests.dust2gold.run.conftest import World
from tests.own_stages import write_stages

DIAMOND = """
from dust2gold.run.stage import Stage

def stages(settings):
    run, join = settings.run, "join --config conf/fit.yaml"
    return [
        Stage("data", "", (f"join {run}/data.txt source.txt",), inputs=("source.txt",), outputs=("data.txt",)),
        Stage("left", "", (f"join {run}/left.txt {run}/data.txt",), needs=("data",), outputs=("left.txt",)),
        Stage("right", "", (f"join {run}/right.txt {run}/data.txt",), needs=("data",), outputs=("right.txt",)),
        Stage("both", "", (f"{join} {run}/both.txt {run}/left.txt {run}/right.txt",), needs=("left", "right")),
    ]
"""


class Beside(Children):
    """Carries the commands out in this process, each after all that must meet have come."""

    def __init__(self, world: World, meet: Callable[[], object]) -> None:
        super().__init__()
        self.world = world
        self.meet = meet
        self.logs: list[str] = []

    def execute(self, command: Any, log: Path | None = None, share: Any = None) -> Any:
        self.logs.append(str(log))
        self.meet()
        return self.world.execute(command)


@pytest.fixture
def beside(world: World, monkeypatch: pytest.MonkeyPatch) -> Beside:
    (world.root / "own.py").write_text(DIAMOND)
    barrier = threading.Barrier(2)
    children = Beside(world, lambda: barrier.wait(30))  # breaks, and fails the test, if one runs without the other
    monkeypatch.setattr(dust2gold.commands.run, "Children", lambda: children)
    return children


def test_independent_stages_run_together(world: World, beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    targets = world.run("--jobs", "2")
    assert [targets[0], *sorted(targets[1:3]), *targets[3:]] == ["data.txt", "left.txt", "right.txt", "both.txt"]
    assert Path("runs/t/both.txt").read_text() == "source+source+lr: 1"
    assert sorted(beside.logs) == ["runs/t/logs/left.log", "runs/t/logs/right.log"]  # the lone ones: on the terminal
    told = capsys.readouterr().out
    assert told.index("[3/4] right:  - run") < told.index("[2/4] left: done")
    assert world.run("--jobs", "2") == world.run() == []
    world.forget()
    assert world.run() == ["data.txt", "left.txt", "right.txt", "both.txt"]


def test_after_a_failure_the_others_end_and_only_the_rest_is_repeated(world: World, beside: Beside) -> None:
    world.trouble["runs/t/left.txt"] = lambda: 3
    error = str(world.fails("--jobs", "2"))
    assert "stage 'left', command 1 of 1 ended with exit status 3" in error
    assert "run --config run.yaml --stages own.py --jobs 2" in error
    assert (world.record("left")["state"], world.record("right")["state"]) == ("running", "done")
    world.trouble.clear()
    beside.meet = lambda: None
    assert world.run("--jobs", "2") == ["left.txt", "both.txt"]


def test_the_stages_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(7)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert shares(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert shares(16)[0] == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5, 6")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert shares(2) == [
        {"OMP_NUM_THREADS": "5", "CUDA_VISIBLE_DEVICES": "4,6"},
        {"OMP_NUM_THREADS": "5", "CUDA_VISIBLE_DEVICES": "5"},
    ]
    with pytest.raises(InputError, match=r"4 stages at a time have only 3 GPUs\n.*--jobs 3"):
        shares(4)


def _start(root: Path, **counts: str) -> subprocess.Popen[str]:
    """Starts a run, two stages at a time, that generate so many problems."""
    command = "generate --train-questions {} --test-questions 2 --samples 1 --output {{run}}/{}"
    stages = [Stage(name, name, (command.format(count, name),), outputs=(name,)) for name, count in counts.items()]
    words = [sys.executable, str(CODE_ROOT / "cli.py"), "run", *write_stages(root / "own.py", *stages), "--jobs", "2"]
    return subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_real_command_lines_have_logs_and_a_failure_shows_its_end(tmp_path: Path) -> None:
    running = _start(tmp_path, good="3", bad="many")
    out, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "[1/2] good: done" in out
    assert re.search(r"(?s)the end of run/logs/bad\.log.*invalid int value: 'many'", err)
    assert "Traceback" not in err
    assert (tmp_path / "run/logs/good.log").read_text().startswith("$ python cli.py generate --train-questions 3")


def test_a_scheduler_s_signal_reaches_the_commands(tmp_path: Path) -> None:
    running = _start(tmp_path, one="100000000", two="100000000")
    end = time.monotonic() + 30
    while not all((tmp_path / f"run/logs/{name}.log").exists() for name in ("one", "two")):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.5)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 143
    assert "was stopped by a signal; carry on with" in err


def test_a_command_that_outlives_a_killed_run_keeps_the_next_one_out(tmp_path: Path) -> None:
    running = _start(tmp_path, one="100000000", two="3")
    assert running.stdout is not None
    assert any("two: done" in line for line in running.stdout)
    running.kill()
    running.wait()
    again = _start(tmp_path, one="100000000", two="3")
    _, err = again.communicate(timeout=60)
    for process in Path("/proc").glob("[0-9]*"):  # the orphan
        with contextlib.suppress(OSError):
            if (process / "cwd").resolve() == tmp_path.resolve():
                os.kill(int(process.name), signal.SIGKILL)
    assert (again.returncode, "run/.stages/lock: another run is at work here" in err) == (1, True)


def test_nothing_begins_after_a_signal(tmp_path: Path) -> None:
    children = Children()
    with children.signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert children.execute(["--help"]) == 138
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL

import json
import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from dust2gold.core.errors import InputError
from dust2gold.run.runner import only_run_in
from dust2gold.run.sources import CODE_ROOT
from dust2gold.run.stage import Stage
from tests.dust2gold.run.conftest import ALL, FIT, World, install, raising
from tests.own_stages import write_stages

Patch = pytest.MonkeyPatch

Capture = pytest.CaptureFixture[str]
CARRY_ON = "carry on with `python cli.py run --config run.yaml --stages own.py"


def test_runs_everything_once_then_skips(world: World, capsys: Capture) -> None:
    assert world.run() == ALL
    assert Path("runs/t/table.txt").read_text() == "source+lr: 1+hello there+lr: 1+lr: 1"
    told = capsys.readouterr().out
    assert "[2/3] fit: fits - run (not done yet)" in told
    assert "[2/3] fit: done in 0 s" in told
    assert world.run() == []
    told = capsys.readouterr().out
    assert "[1/3] data: makes the data - skipped (unchanged)" in told
    assert "3 stages in 0 s" in told


@pytest.mark.parametrize("place", FIT)
def test_crash_resumes_at_the_command_that_failed(world: World, capsys: Capture, place: str) -> None:
    world.trouble[place] = raising(RuntimeError("boom"))
    # fit/1.txt is an input of the second command too; only the first that writes or reads it fails.
    with pytest.raises(RuntimeError, match="boom"):
        world.status()
    stopped = world.targets[-1]
    assert "python cli.py join --config conf/fit.yaml" in capsys.readouterr().err
    kept = Path("runs/t/fit/checkpoint.ckpt")
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("half way")
    world.trouble.clear()
    assert world.run() == [*FIT[FIT.index(stopped) :], "table.txt"]
    assert kept.exists(), "the stage's directory is left in place for its commands to resume from"
    assert "resume (interrupted" in capsys.readouterr().out
    assert world.run() == []


def _interrupted(world: World, lr: str) -> None:
    """Leaves the stage `fit` in the middle, with a checkpoint."""
    Path("conf/fit.yaml").write_text(f"lr: {lr}\n")
    world.trouble["fit/2.txt"] = raising(InputError("no"))
    world.fails()
    world.trouble.clear()
    Path("runs/t/fit/checkpoint.ckpt").write_text(f"of {lr}")


def test_what_a_stage_made_before_is_kept_aside_and_said_where(world: World, capsys: Capture) -> None:
    world.run()
    old, record = Path("runs/t/fit/3.txt").read_text(), world.record("fit")
    _interrupted(world, "2")
    Path("conf/fit.yaml").write_text("lr: 3\n")
    assert world.run() == [*FIT, "table.txt"]
    assert not Path("runs/t/fit/checkpoint.ckpt").exists()
    first, second = (Path(f"runs/t/.stale/fit-{k}") for k in (1, 2))
    assert (first / "fit/3.txt").read_text() == old
    assert json.loads((first / "record.json").read_text()) == record
    assert (second / "fit/checkpoint.ckpt").read_text() == "of 2"
    told = capsys.readouterr().out
    assert f"what it made before: {first}\n" in told
    assert f"what it made before: {second}\n" in told
    Path("runs/t/fit").rename("elsewhere")  # a change taken back: by hand
    (first / "fit").rename("runs/t/fit")
    (first / "record.json").rename(world.record_file("fit"))
    Path("conf/fit.yaml").write_text("lr: 1\n")
    assert world.run() == ["table.txt"]


@pytest.mark.parametrize("step", range(1, 5))
def test_a_kill_while_work_is_moved_aside_loses_nothing(world: World, monkeypatch: Patch, step: int) -> None:
    world.edit('"fits", fit', '"fits", fit, directories=("fit", "more")')
    world.run()
    Path("runs/t/more").mkdir()
    Path("runs/t/more/of-1").touch()
    Path("conf/fit.yaml").write_text("lr: 2\n")
    rename, left = Path.rename, iter(range(step - 1, -1, -1))

    def until_killed(path: Path, target: Path) -> Path:
        if next(left, None) == 0:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", until_killed)
    world.status()
    monkeypatch.setattr(Path, "rename", rename)
    world.status()
    assert world.run() == []
    assert Path("runs/t/fit/3.txt").read_text() == "source+lr: 2+hello there+lr: 2+lr: 2"
    assert len(list(Path("runs/t/.stale").rglob("of-1"))) == len(list(Path("runs/t/.stale").rglob("fit/3.txt"))) == 1


@pytest.mark.parametrize("change", ["code", "config", "input"])
def test_interrupted_training_stays_where_it_is(world: World, monkeypatch: Patch, capsys: Capture, change: str) -> None:
    world.edit("join", "fit")
    _interrupted(world, "1")
    if change == "code":
        install(monkeypatch, "another")
    elif change == "config":
        Path("conf/fit.yaml").write_text("lr: 1  # a remark\n")
    else:
        Path("source.txt").write_text("other")
    assert world.run()[-4:] == [*FIT, "table.txt"]
    assert Path("runs/t/fit/checkpoint.ckpt").read_text() == "of 1"
    assert "; interrupted: its commands go on from what still fits)" in capsys.readouterr().out


def test_seconds_add_up_over_attempts(world: World, monkeypatch: Patch) -> None:
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr("dust2gold.run.runner.time.monotonic", lambda: float(next(clock)))
    _interrupted(world, "1")
    world.run()
    assert [record["seconds"] for record in world.record("fit")["commands"]] == [5.0, 10.0, 5.0]


def test_force_and_from(world: World) -> None:
    world.run()
    assert world.run("--force") == ALL
    assert world.run("--only", "fit", "--force") == FIT
    assert world.run() == []
    assert world.run("--from", "fit") == [*FIT, "table.txt"]
    world.forget()
    assert "is not done" in str(world.fails("--from", "fit"))


@pytest.mark.parametrize(
    ("flags", "then"),
    [
        (["--set", "greeting=hi you", "--from", "data"], ["--set", "greeting=hi you", "--only", "fit,table"]),
        (["--force"], []),
    ],
)
def test_interrupted_force_carries_on(world: World, capsys: Capture, flags: list[str], then: list[str]) -> None:
    world.run()
    world.trouble["fit/2.txt"] = raising(KeyboardInterrupt())
    assert world.status(*flags) == 130
    assert f"{' '.join([CARRY_ON, *then])}`".replace("greeting=hi you", "'greeting=hi you'") in capsys.readouterr().err
    world.trouble.clear()
    assert world.run(*then) == ["fit/2.txt", "fit/3.txt", "table.txt"]


@pytest.mark.parametrize("happen", [lambda: 130, lambda: -signal.SIGINT, raising(SystemExit(130))])
def test_every_form_of_interruption_is_one(world: World, happen: Callable[[], int | None]) -> None:
    world.trouble["fit/2.txt"] = happen
    assert world.status() == 130
    assert world.record("fit")["state"] == "running"


@pytest.mark.parametrize("happen", [lambda: 3, raising(SystemExit(3))])
def test_failing_status_names_stage_and_command(world: World, happen: Callable[[], int | None]) -> None:
    world.trouble["fit/2.txt"] = happen
    error = str(world.fails())
    assert "stage 'fit', command 2 of 3 ended with exit status 3" in error
    assert "`python cli.py join --config conf/fit.yaml runs/t/fit/2.txt" in error
    assert f"{CARRY_ON}`" in error
    assert world.record("data")["state"] == "done"


@pytest.mark.parametrize("happen", [lambda: -signal.SIGTERM, raising(SystemExit(143)), raising(SystemExit(138))])
def test_a_scheduler_s_signal_is_passed_on(world: World, capsys: Capture, happen: Callable[[], int | None]) -> None:
    world.trouble["fit/2.txt"] = happen
    with pytest.raises(SystemExit, match=r"143|138"):
        world.status()
    assert CARRY_ON in capsys.readouterr().err
    world.trouble.clear()
    assert world.run() == ["fit/2.txt", "fit/3.txt", "table.txt"]


def test_exit_with_zero_is_success(world: World) -> None:
    world.run()
    world.trouble["table.txt"] = raising(SystemExit(0))
    assert world.run("--only", "table", "--force") == ["table.txt"]
    assert world.run() == []


def test_input_error_keeps_its_place(world: World) -> None:
    world.trouble["data/a.txt"] = raising(InputError("bad", file="f.jsonl", line=3, field="gold", remedy="mend it"))
    problem = "f.jsonl:3: field 'gold': bad (stage 'data', command 1 of 2)\n  mend it; repeat it alone"
    assert str(world.fails()).startswith(problem)


def test_missing_output_is_an_error_and_nothing_counts_as_done(world: World) -> None:
    world.trouble["fit/3.txt"] = lambda: 0
    assert "stage 'fit': completed without writing runs/t/fit/3.txt" in str(world.fails())
    world.trouble.clear()
    assert world.run() == [*FIT, "table.txt"]


def _hold(run: Path, ready: Event, release: Event) -> None:
    with only_run_in(run):
        ready.set()
        release.wait(30)


def test_two_runs_at_once_are_refused_and_a_dead_lock_is_taken_over(world: World) -> None:
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(Path("runs/t"), ready, release))
    other.start()
    assert ready.wait(30)
    try:
        assert f"lock: another run is at work here: process {other.pid} on" in str(world.fails())
    finally:
        other.kill()
        other.join()
    assert Path("runs/t/.stages/lock").exists()
    assert world.run() == ALL


@pytest.mark.parametrize("flags", [[], ["--isolate"]])
def test_real_command_line_runs_skips_and_fails_cleanly(tmp_path: Path, flags: list[str]) -> None:
    def run(count: str) -> subprocess.CompletedProcess[str]:
        command = f"generate --train-questions {count} --test-questions 2 --samples 1 --output {{run}}/raw"
        options = write_stages(tmp_path / "own.py", Stage("raw", "raw", (command,), outputs=("raw",)))
        words = [sys.executable, str(CODE_ROOT / "cli.py"), "run", *options, *flags]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    first, second, wrong = run("3"), run("3"), run("many")
    assert first.returncode == 0, first.stderr
    assert "skipped (unchanged)" in second.stdout
    assert wrong.returncode == 1
    assert "stage 'raw', command 1 of 1 ended with exit status 2" in wrong.stderr
    assert "Traceback" not in wrong.stderr

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from dust2gold.core.errors import InputError
from dust2gold.run.record import duration
from dust2gold.run.runner import only_run_in
from dust2gold.run.sources import CODE_ROOT
from dust2gold.run.stage import Stage
from tests.dust2gold.run.conftest import World, install
from tests.own_stages import write_stages

DATA = ["data/a.txt", "data/b.txt"]
FIT = ["fit/1.txt", "fit/2.txt", "fit/3.txt"]
ALL = [*DATA, *FIT, "table.txt"]


def _raise(error: BaseException) -> Callable[[], int | None]:
    def happen() -> int:
        raise error

    return happen


def test_runs_everything_once_then_skips(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run() == ALL
    assert Path("runs/t/table.txt").read_text() == "source+lr: 1+hello there+lr: 1+lr: 1"
    told = capsys.readouterr().out
    assert "[2/3] fit: fits - run (not done yet)" in told
    assert "[2/3] fit: done in 0 s" in told
    assert world.run() == []
    told = capsys.readouterr().out
    assert "[1/3] data: makes the data - skipped (unchanged)" in told
    assert "3 stages in 0 s" in told


def test_record_says_what_made_what_from_what(world: World) -> None:
    world.run()
    record, data = world.record("fit"), world.record("data")
    assert record["state"] == "done"
    assert record["commands"][0]["command"].startswith("join --config conf/fit.yaml")
    assert all(command["done"] and command["seconds"] >= 0 for command in record["commands"])
    facts = record["made_from"]
    assert {name for name in facts if name.startswith("config ")} == {"config conf/fit.yaml"}
    assert {name: facts[f"input {name}"] for name in data["outputs"]} == data["outputs"]
    assert facts["stage data"] == data["key"]
    assert set(record["outputs"]) == {"runs/t/fit/3.txt"}
    assert facts["version of torch"] == "2.0"


@pytest.mark.parametrize("place", ["fit/1.txt", "fit/2.txt", "fit/3.txt"])
def test_crash_resumes_at_the_command_that_failed(world: World, capsys: pytest.CaptureFixture[str], place: str) -> None:
    world.trouble[place] = _raise(RuntimeError("boom"))
    # fit/1.txt is an input of the second command too; only the first that writes or reads it fails.
    with pytest.raises(RuntimeError, match="boom"):
        world.status()
    stopped = world.targets[-1]
    assert "python cli.py join --config conf/fit.yaml" in capsys.readouterr().err
    assert world.record("fit")["state"] == "running"
    kept = Path("runs/t/fit/checkpoint.ckpt")
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("half way")
    world.trouble.clear()
    assert world.run() == [*FIT[FIT.index(stopped) :], "table.txt"]
    assert kept.exists(), "the stage's directory is left in place for its commands to resume from"
    assert "resume (interrupted" in capsys.readouterr().out
    assert world.run() == []


def test_seconds_add_up_over_attempts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr("dust2gold.run.runner.time.monotonic", lambda: float(next(clock)))
    world.trouble["fit/2.txt"] = _raise(InputError("no"))
    world.fails()
    world.trouble.clear()
    world.run()
    assert [record["seconds"] for record in world.record("fit")["commands"]] == [5.0, 10.0, 5.0]


@pytest.mark.parametrize(
    ("change", "reason", "redone"),
    [
        (lambda world: Path("conf/fit.yaml").write_text("lr: 2"), "changed: config conf/fit.yaml", [*FIT, "table.txt"]),
        (lambda world: Path("source.txt").write_text("other"), "changed: input source.txt", ALL),
        (lambda world: world.edit("hello there", "good bye"), "changed: command 2", ALL),
        (lambda world: Path("runs/t/fit/3.txt").unlink(), "output missing: runs/t/fit/3.txt", FIT),
        (lambda world: Path("runs/t/fit/3.txt").write_text("x"), "output changed since: runs/t/fit/3.txt", FIT),
        (lambda world: Path("runs/t/data/extra").write_text("x"), "output changed since: runs/t/data", DATA),
        (lambda world: world.edit('("table.txt",)', '("logs",)'), "output not recorded", ["table.txt"]),
    ],
    ids=["config", "input", "command", "deleted", "tampered", "added", "declared"],
)
def test_change_redoes_what_depends_on_it(
    world: World, capsys: pytest.CaptureFixture[str], change: Callable[[World], object], reason: str, redone: list[str]
) -> None:
    world.run()
    Path("runs/t/logs").mkdir()
    change(world)
    capsys.readouterr()
    world.status("--dry-run")
    assert reason in capsys.readouterr().out
    assert world.run() == redone
    assert reason in capsys.readouterr().out
    assert world.run() == []


def test_code_change_redoes_everything(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run()
    install(monkeypatch, "another")
    assert world.run() == ALL
    assert "run (changed: code in package)" in capsys.readouterr().out


def test_another_library_redoes_everything(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run()
    install(monkeypatch, torch="2.1")
    assert world.run() == ALL
    assert "run (changed: version of torch (2.0, now 2.1))" in capsys.readouterr().out


def test_a_student_counts_by_what_its_directory_holds(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.edit('"fits", fit', '"fits", fit, students=("owner/model", "models/mine", "embedded")')
    Path("models/mine").mkdir(parents=True)
    Path("models/mine/config.json").write_text("{}")
    world.run()
    facts = world.record("fit")["made_from"]
    assert {"input models/mine", "input embedded"} < set(facts)
    assert "input owner/model" not in facts
    assert world.run() == []
    Path("models/mine/model.safetensors").write_text("trained on")
    capsys.readouterr()
    assert world.run() == [*FIT, "table.txt"]
    assert "run (changed: input models/mine)" in capsys.readouterr().out
    world.edit("models/mine", "./none")
    assert "no Hugging Face model directory" in str(world.fails())
    assert world.executed == []


def test_change_after_a_crash_starts_afresh_without_stale_files(world: World) -> None:
    world.trouble["fit/3.txt"] = _raise(InputError("no"))
    world.fails()
    Path("runs/t/fit/checkpoint.ckpt").write_text("of the old config")
    Path("conf/fit.yaml").write_text("lr: 2\n")
    world.trouble.clear()
    assert world.run() == [*FIT, "table.txt"]
    assert not Path("runs/t/fit/checkpoint.ckpt").exists()


def test_finished_work_is_kept_aside_until_the_stage_is_done_again(world: World) -> None:
    world.run()
    old = Path("runs/t/fit/3.txt").read_text()
    Path("conf/fit.yaml").write_text("lr: 2\n")
    world.trouble["fit/2.txt"] = _raise(InputError("no"))
    world.fails()
    Path("conf/fit.yaml").write_text("lr: 3\n")
    world.fails()
    assert [path.read_text() for path in Path("runs/t/.stale/fit").rglob("3.txt")] == [old]
    world.trouble.clear()
    assert world.run() == ["fit/2.txt", "fit/3.txt", "table.txt"]
    assert not Path("runs/t/.stale/fit").exists()


def test_change_taken_back_brings_the_finished_work_back(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    old = Path("runs/t/fit/3.txt").read_text()
    Path("conf/fit.yaml").write_text("lr: a typo")
    world.trouble["fit/2.txt"] = _raise(InputError("no"))
    world.fails()
    Path("conf/fit.yaml").write_text("lr: 1\n")
    world.status("--dry-run")
    assert "restore: what it made before fits again" in capsys.readouterr().out
    assert world.run() == []
    assert Path("runs/t/fit/3.txt").read_text() == old
    assert "[2/3] fit: fits - skipped (unchanged)" in capsys.readouterr().out
    assert [path.name for path in Path("runs/t/.stale").rglob("*.txt")] == ["1.txt"], "the attempt with the typo"


def _method(around: Callable[..., Any], do: Callable[..., Any]) -> Callable[..., Any]:
    return lambda path, *args, **more: around(do, path, *args, **more)


def _interrupted(world: World, lr: str, at: str = "fit/2.txt") -> None:
    """Leaves the stage `fit` in the middle, with a checkpoint."""
    Path("conf/fit.yaml").write_text(f"lr: {lr}\n")
    world.trouble[at] = _raise(InputError("no"))
    world.fails()
    world.trouble.clear()
    Path("runs/t/fit/checkpoint.ckpt").write_text(f"of {lr}")


@pytest.mark.parametrize("change", ["code", "config", "input"])
def test_interrupted_training_stays_where_it_is_for_fit_to_judge(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str
) -> None:
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


def test_interrupted_training_that_would_take_any_checkpoint_begins_afresh(world: World) -> None:
    world.edit("{run}/fit/3.txt {run}/fit/2.txt", "{run}/fit/3.txt {run}/fit/2.txt --ckpt_path last")
    world.edit("join", "fit")
    Path("--ckpt_path").write_text("")
    Path("last").write_text("")
    _interrupted(world, "1")
    Path("conf/fit.yaml").write_text("lr: 2\n")
    assert world.run() == [*FIT, "table.txt"]
    assert not Path("runs/t/fit/checkpoint.ckpt").exists()


@pytest.mark.parametrize("verb", ["join", "fit"])
def test_attempts_are_all_kept_until_one_of_them_is_done(world: World, verb: str) -> None:
    world.edit("join", verb)
    world.run()
    done = Path("runs/t/fit/3.txt").read_text()
    _interrupted(world, "2")
    Path("conf/fit.yaml").write_text("lr: 1\n")
    assert world.run() == []
    assert Path("runs/t/fit/3.txt").read_text() == done
    assert not Path("runs/t/fit/checkpoint.ckpt").exists()
    _interrupted(world, "3")
    Path("conf/fit.yaml").write_text("lr: 2\n")
    assert world.run() == ["fit/2.txt", "fit/3.txt", "table.txt"]
    assert Path("runs/t/fit/checkpoint.ckpt").read_text() == "of 2"
    assert not Path("runs/t/.stale/fit").exists()


@pytest.mark.parametrize("step", range(1, 8))
def test_a_kill_while_work_is_brought_back_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    world.edit('"fits", fit', '"fits", fit, directories=("fit", "more")')
    world.run()
    Path("runs/t/more").mkdir()
    Path("runs/t/more/of-1").touch()
    _interrupted(world, "2")
    Path("runs/t/more").mkdir()
    Path("runs/t/more/of-2").touch()
    Path("conf/fit.yaml").write_text("lr: 1\n")
    left = iter(range(step - 1, -1, -1))

    def until_killed(do: Callable[..., Any], path: Path, *args: Any, **more: Any) -> Any:
        if next(left, None) == 0:
            raise KeyboardInterrupt
        return do(path, *args, **more)

    for name in ("replace", "unlink"):  # moves of directories, manifests written and forgotten
        monkeypatch.setattr(Path, name, _method(until_killed, getattr(Path, name)))
    world.status()
    monkeypatch.undo()
    monkeypatch.chdir(world.root)
    install(monkeypatch)
    assert world.run() == []
    assert [path.name for path in Path("runs/t/more").iterdir()] == ["of-1"]
    Path("conf/fit.yaml").write_text("lr: 2\n")
    assert world.run() == ["fit/2.txt", "fit/3.txt", "table.txt"]
    assert Path("runs/t/fit/checkpoint.ckpt").read_text() == "of 2"
    assert [path.name for path in Path("runs/t/more").iterdir()] == ["of-2"]


def test_finished_work_that_was_damaged_is_not_brought_back(world: World) -> None:
    world.run()
    Path("conf/fit.yaml").write_text("lr: a typo")
    world.trouble["fit/2.txt"] = _raise(InputError("no"))
    world.fails()
    world.trouble.clear()
    Path("conf/fit.yaml").write_text("lr: 1\n")
    next(Path("runs/t/.stale/fit").rglob("3.txt")).write_text("damaged")
    assert world.run() == FIT


def test_only_needs_what_comes_before(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    error = world.fails("--only", "fit")
    assert "stage 'fit': needs 'data': is not done" in str(error)
    assert "--only data,fit" in str(error)
    assert world.executed == []
    assert world.run("--only", "data") == DATA
    assert world.run("--only", "fit") == FIT
    assert world.run("--only", "data,fit") == []
    Path("source.txt").write_text("other")
    capsys.readouterr()
    assert world.run("--only", "fit") == []
    assert "note: 'data' is used as it stands (changed: input source.txt)" in capsys.readouterr().out
    Path("runs/t/data/b.txt").unlink()
    assert "output changed since" in str(world.fails("--only", "fit"))


def test_force_and_from(world: World) -> None:
    world.run()
    assert world.run("--force") == ALL
    assert world.run("--only", "fit", "--force") == FIT
    assert world.run() == []
    assert world.run("--from", "fit") == [*FIT, "table.txt"]
    world.forget()
    assert "is not done" in str(world.fails("--from", "fit"))


def test_interrupted_force_carries_on_without_repeating(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    world.trouble["fit/2.txt"] = _raise(KeyboardInterrupt())
    world.executed.clear()
    assert world.status("--from", "data", "--set", "greeting=hi you") == 130
    told = capsys.readouterr().err
    assert (
        "carry on with `python cli.py run --config run.yaml --stages own.py --set 'greeting=hi you' --only fit,table`"
        in told
    )
    world.trouble.clear()
    assert world.run("--set", "greeting=hi you", "--only", "fit,table") == ["fit/2.txt", "fit/3.txt", "table.txt"]
    world.trouble["fit/2.txt"] = _raise(KeyboardInterrupt())
    assert world.status("--force") == 130
    assert "`python cli.py run --config run.yaml --stages own.py`" in capsys.readouterr().err
    world.trouble.clear()
    assert world.run() == ["fit/2.txt", "fit/3.txt", "table.txt"]


def _lightning_interrupt() -> int:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise SystemExit(1)  # noqa: B904 - as Lightning's trainer does, without `from`


@pytest.mark.parametrize("happen", [_lightning_interrupt, lambda: 130, lambda: -signal.SIGINT])
def test_every_form_of_interruption_is_one(world: World, happen: Callable[[], int | None]) -> None:
    world.trouble["fit/2.txt"] = happen
    assert world.status() == 130
    assert world.record("fit")["state"] == "running"


@pytest.mark.parametrize("happen", [lambda: 3, _raise(SystemExit(3))])
def test_failing_status_names_stage_and_command(world: World, happen: Callable[[], int | None]) -> None:
    world.trouble["fit/2.txt"] = happen
    error = world.fails()
    assert "stage 'fit', command 2 of 3 ended with exit status 3" in str(error)
    assert "`python cli.py join --config conf/fit.yaml runs/t/fit/2.txt" in str(error)
    assert "carry on with `python cli.py run --config run.yaml --stages own.py`" in str(error)
    assert world.record("data")["state"] == "done"


@pytest.mark.parametrize("happen", [lambda: -signal.SIGTERM, _raise(SystemExit(143)), _raise(SystemExit(138))])
def test_a_scheduler_s_signal_is_passed_on(
    world: World, capsys: pytest.CaptureFixture[str], happen: Callable[[], int | None]
) -> None:
    world.trouble["fit/2.txt"] = happen
    with pytest.raises(SystemExit) as stopped:
        world.status()
    assert stopped.value.code in (143, 138)
    assert "carry on with `python cli.py run --config run.yaml --stages own.py" in capsys.readouterr().err
    assert world.record("fit")["state"] == "running"
    world.trouble.clear()
    assert world.run() == ["fit/2.txt", "fit/3.txt", "table.txt"]


def test_exit_with_zero_is_success(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = world.execute

    def leave(command: list[str]) -> int | None:
        execute(command)
        raise SystemExit(0)

    monkeypatch.setattr(world, "execute", leave)
    world.run()
    assert world.run() == []


def test_input_error_keeps_its_place(world: World) -> None:
    world.trouble["data/a.txt"] = _raise(InputError("bad", file="f.jsonl", line=3, field="gold", remedy="mend it"))
    error = world.fails()
    assert (error.file, error.line, error.field) == ("f.jsonl", 3, "gold")
    assert str(error).startswith(
        "f.jsonl:3: field 'gold': bad (stage 'data', command 1 of 2)\n  mend it; repeat it alone"
    )


def test_missing_output_is_an_error_and_nothing_counts_as_done(world: World) -> None:
    world.trouble["fit/3.txt"] = lambda: 0
    error = world.fails()
    assert "stage 'fit': completed without writing runs/t/fit/3.txt" in str(error)
    world.trouble.clear()
    assert world.run() == [*FIT, "table.txt"]


def test_missing_config_is_found_before_any_work(world: World) -> None:
    Path("conf/fit.yaml").unlink()
    assert "stage 'fit': config 'conf/fit.yaml' does not exist" in str(world.fails())
    assert world.executed == []


def test_unreadable_record_counts_as_not_done(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    for damage in (
        "{",
        "[]",
        '{"schema": 1}',
        world.record_file("fit").read_text().replace('"command 1"', '"command 9"'),
    ):
        world.record_file("fit").write_text(damage)
        assert world.run() == FIT
        assert "fit.json: unreadable" in capsys.readouterr().err


def test_dry_run_changes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.status("--dry-run")
    told = capsys.readouterr().out
    assert not Path("runs").exists()
    assert world.executed == []
    assert "python cli.py write runs/t/data/b.txt 'hello there'" in told
    assert "run: after data" in told
    assert "3 of 3 stages would run" in told
    world.trouble["fit/2.txt"] = _raise(InputError("no"))
    world.fails()
    world.status("--dry-run")
    told = capsys.readouterr().out
    assert "skip: unchanged" in told
    assert "resume: interrupted, 1 of 3 commands completed" in told
    assert "# completed: python cli.py join --config conf/fit.yaml runs/t/fit/1.txt" in told
    before = world.record("data")
    world.status("--dry-run", "--force")
    assert "run: asked for anew" in capsys.readouterr().out
    assert world.record("data") == before


def test_flags_are_checked(world: World) -> None:
    assert "--only nofit: no such stage\n  stages: data, fit, table" in str(world.fails("--only", "nofit"))
    assert "--from x: no such stage" in str(world.fails("--from", "x"))
    assert "did you mean 'greeting'?" in str(world.fails("--set", "greting=1"))
    for wrong in (["--only", "fit", "--from", "fit"], ["--set", "greeting"]):
        with pytest.raises(SystemExit):
            world.status(*wrong)


def test_run_directory_override(world: World) -> None:
    world.run("--run", "elsewhere/x")
    assert Path("elsewhere/x/table.txt").exists()
    assert not Path("runs").exists()


def test_second_rank_of_a_command_does_not_run_the_pipeline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert "add --isolate" in str(world.fails())
    assert world.executed == []


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
        error = world.fails()
        assert f"another run is at work in runs/t (process {other.pid})" in str(error)
    finally:
        other.kill()
        other.join()
    assert Path("runs/t/.stages/lock").exists()
    assert world.run() == ALL


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3720, "1 h 02 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("flags", [[], ["--isolate"]])
def test_real_command_line_runs_skips_and_fails_cleanly(tmp_path: Path, flags: list[str]) -> None:
    def run(count: str) -> subprocess.CompletedProcess[str]:
        command = f"generate --train-questions {count} --test-questions 2 --samples 1 --output {{run}}/raw"
        options = write_stages(tmp_path / "own.py", Stage("raw", "raw", (command,), outputs=("raw",)))
        words = [sys.executable, str(CODE_ROOT / "cli.py"), "run", *options, *flags]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    first = run("3")
    assert first.returncode == 0, first.stderr
    assert any((tmp_path / "run" / "raw").iterdir())
    second, wrong = run("3"), run("many")
    assert "skipped (unchanged)" in second.stdout
    assert wrong.returncode == 1
    assert "stage 'raw', command 1 of 1 ended with exit status 2" in wrong.stderr
    assert "Traceback" not in wrong.stderr

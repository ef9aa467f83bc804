from pathlib import Path
from typing import Any

import pytest

from dust2gold.core.errors import InputError
from tests.dust2gold.run.conftest import ALL, DATA, FIT, World, install, raising

Patch = pytest.MonkeyPatch

Capture = pytest.CaptureFixture[str]


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
def test_a_change_redoes_dependents(world: World, capsys: Capture, change: Any, reason: str, redone: list[str]) -> None:
    world.run()
    Path("runs/t/logs").mkdir()
    change(world)
    capsys.readouterr()
    world.status("--dry-run")
    assert reason in capsys.readouterr().out
    assert world.run() == redone
    assert reason in capsys.readouterr().out
    assert world.run() == []


@pytest.mark.parametrize(
    ("installed", "reason"),
    [({"code": "another"}, "code in package"), ({"torch": "2.1"}, "version of torch (2.0, now 2.1)")],
)
def test_other_code_or_library(world: World, capsys: Capture, monkeypatch: Patch, installed: Any, reason: str) -> None:
    world.run()
    install(monkeypatch, **installed)
    assert world.run() == ALL
    assert f"run (changed: {reason})" in capsys.readouterr().out


def test_a_student_counts_by_what_its_directory_holds(world: World, capsys: Capture) -> None:
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


@pytest.mark.parametrize("line", ["prompt: conf/own.txt  # ours", 'data: {init_args: {prompt: "conf/own.txt"}}'])
def test_a_prompt_counts_by_what_its_file_holds(world: World, capsys: Capture, line: str) -> None:
    Path("conf/fit.yaml").write_text(line)
    Path("conf/own.txt").write_text("Q: {question}")
    world.run()
    Path("conf/own.txt").write_text("Question: {question}")
    assert world.run() == [*FIT, "table.txt"]
    assert "run (changed: input conf/own.txt)" in capsys.readouterr().out


def test_only_needs_what_comes_before(world: World, capsys: Capture) -> None:
    assert "stage 'fit': what it needs is not there: 'data' is not done\n  add data to --only" in str(
        world.fails("--only", "fit")
    )
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


def test_missing_config_is_found_before_any_work(world: World) -> None:
    Path("conf/fit.yaml").unlink()
    assert "stage 'fit': config 'conf/fit.yaml' does not exist" in str(world.fails())
    assert world.executed == []


def test_dry_run_changes_nothing(world: World, capsys: Capture) -> None:
    def told(*flags: str) -> str:
        world.status("--dry-run", *flags)
        return capsys.readouterr().out

    first = told()
    assert not Path("runs").exists()
    assert world.executed == []
    for line in ("python cli.py write runs/t/data/b.txt 'hello there'", "run: after data", "3 of 3 stages would run"):
        assert line in first
    world.trouble["fit/2.txt"] = raising(InputError("no"))
    world.fails()
    capsys.readouterr()
    second = told()
    assert "skip: unchanged\n    # completed: python cli.py join runs/t/data/a.txt" in second
    assert "resume: interrupted, 1 of 3 commands completed\n    # completed: python cli.py join" in second
    assert second.count("# completed") == 3
    before = world.record("data")
    assert "run: asked for anew\n    python cli.py join" in told("--force")
    assert world.record("data") == before


def test_flags_are_checked(world: World) -> None:
    assert "--only nofit: no such stage\n  stages: data, fit, table" in str(world.fails("--only", "nofit"))
    assert "--from x: no such stage" in str(world.fails("--from", "x"))
    assert "did you mean 'greeting'?" in str(world.fails("--set", "greting=1"))
    for wrong in (["--only", "fit", "--from", "fit"], ["--set", "greeting"]):
        with pytest.raises(SystemExit):
            world.status(*wrong)

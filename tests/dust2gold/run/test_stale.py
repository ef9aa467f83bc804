from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dust2gold.core.errors import InputError
from tests.dust2gold.run.conftest import FIT, World, install, raising


def _method(around: Callable[..., Any], do: Callable[..., Any]) -> Callable[..., Any]:
    return lambda path, *args, **more: around(do, path, *args, **more)


def _interrupted(world: World, lr: str, at: str = "fit/2.txt") -> None:
    """Leaves the stage `fit` in the middle, with a checkpoint."""
    Path("conf/fit.yaml").write_text(f"lr: {lr}\n")
    world.trouble[at] = raising(InputError("no"))
    world.fails()
    world.trouble.clear()
    Path("runs/t/fit/checkpoint.ckpt").write_text(f"of {lr}")


def test_change_after_a_crash_starts_afresh_without_stale_files(world: World) -> None:
    world.trouble["fit/3.txt"] = raising(InputError("no"))
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
    world.trouble["fit/2.txt"] = raising(InputError("no"))
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
    world.trouble["fit/2.txt"] = raising(InputError("no"))
    world.fails()
    Path("conf/fit.yaml").write_text("lr: 1\n")
    world.status("--dry-run")
    assert "restore: what it made before fits again" in capsys.readouterr().out
    assert world.run() == []
    assert Path("runs/t/fit/3.txt").read_text() == old
    assert "[2/3] fit: fits - skipped (unchanged)" in capsys.readouterr().out
    assert [path.name for path in Path("runs/t/.stale").rglob("*.txt")] == ["1.txt"], "the attempt with the typo"


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
    world.trouble["fit/2.txt"] = raising(InputError("no"))
    world.fails()
    world.trouble.clear()
    Path("conf/fit.yaml").write_text("lr: 1\n")
    next(Path("runs/t/.stale/fit").rglob("3.txt")).write_text("damaged")
    assert world.run() == FIT

"""`run --seeds` on the copying stages of conftest.py, to which a seed and a stage that reports are added."""

import argparse

import pytest

from dust2gold.commands.arguments import seeds
from tests.dust2gold.run.conftest import World, raising


@pytest.fixture
def seeded(world: World) -> World:
    world.edit("'{settings.greeting}'", "'{settings.greeting} {settings.seed}'")
    stage = "Stage('end', 'reports', (f'report {run}',), needs=('*',), outputs=('report.md',))"
    world.edit("    ]\n", f"        {stage},\n    ]\n")
    return world


def test_each_seed_has_its_own_run_and_all_have_one_report(seeded: World, capsys: pytest.CaptureFixture[str]) -> None:
    seeded.run("--seeds", "0,3")
    for seed in (0, 3):
        assert (seeded.root / f"runs/t/seed-{seed}/data/b.txt").read_text() == f"hello there {seed}"
    assert seeded.reported == ["runs/t/seed-0", "runs/t/seed-3", "runs/t"]
    told = capsys.readouterr().out
    assert told.index("seed 0: runs/t/seed-0") < told.index("seed 3: runs/t/seed-3")
    assert seeded.run("--seeds", "0,3") == []
    assert len(seeded.run("--seeds", "0,1")) == 6
    assert len(seeded.run("--run", "elsewhere", "--seeds", "4", "--set", "greeting=hi")) == 6
    assert (seeded.root / "elsewhere/seed-4/data/b.txt").read_text() == "hi 4"


def test_without_the_report_stage_nothing_is_reported(seeded: World) -> None:
    seeded.run("--seeds", "0,1", "--only", "data")
    assert seeded.reported == []


def test_dry_run_prints_each_plan_and_the_last_report(seeded: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert seeded.run("--seeds", "0,1", "--dry-run") == []
    told = capsys.readouterr().out
    assert "write runs/t/seed-1/data/b.txt 'hello there 1'" in told
    assert told.endswith("all seeds: python cli.py report runs/t\n")
    assert not (seeded.root / "runs").exists()


def test_interrupted_seeds_carry_on_and_repeat_nothing(seeded: World, capsys: pytest.CaptureFixture[str]) -> None:
    seeded.run("--seeds", "0,1")
    seeded.trouble["seed-1/fit/2.txt"] = raising(KeyboardInterrupt())
    assert seeded.status("--seeds", "0,1", "--from", "fit") == 130
    command = "python cli.py run --config run.yaml --stages own.py --seeds 0,1 --only fit,table,end"
    assert f"carry on with `{command}`" in capsys.readouterr().err
    seeded.trouble.clear()
    rest = [f"seed-1/{file}" for file in ("fit/2.txt", "fit/3.txt", "table.txt")]
    assert seeded.run("--seeds", "0,1", "--only", "fit,table,end") == rest
    assert seeded.reported[-2:] == ["runs/t/seed-1", "runs/t"]


def test_seeds_are_given_once(seeded: World) -> None:
    assert "both given" in str(seeded.fails("--seeds", "0", "--set", "seed=1"))


@pytest.mark.parametrize("text", ["", "a", "1,", "1,-2", "1,1", "1.5", "1;2"])
def test_seeds_are_different_whole_numbers(text: str) -> None:
    assert seeds("0, 12") == (0, 12)
    with pytest.raises(argparse.ArgumentTypeError, match="were expected"):
        seeds(text)


def test_second_rank_of_a_command_does_not_run_the_stages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert "add --isolate" in str(world.fails())
    assert world.executed == []

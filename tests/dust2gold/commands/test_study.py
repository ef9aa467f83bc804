"""`study` on arms that only write answers: records, resuming from them, other settings, tables; then on real stages."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import dust2gold.run.plan
import dust2gold.study.cells
from dust2gold import cli
from dust2gold.commands.study import add_arguments, main
from dust2gold.core.errors import InputError
from dust2gold.run.settings import RunSettings
from dust2gold.run.stage import Stage
from tests.words import REPOSITORY

STUDY: dict[str, Any] = {
    "run": "runs/s",
    "records": "kept",
    "seeds": [0, 3],
    "settings": {"train_questions": 40, "test_questions": 12},
    "cells": {"slips": {}},
    "contrasts": [["nat", "mix"]],
    "secondary": [["asc", "sc"]],
}
RIGHT = {"mix": 9, "neg": 2, "nat": 6, "sc": 7, "asc": 8}
ALL = ["data", "neg", "nat", "mix", "votes"]


def stages(settings: RunSettings) -> list[Stage]:
    """Arms like ours; `neg` is what nat needs, `report` what a study leaves out."""
    run = settings.run

    def arm(name: str, *needs: str, methods: str = "") -> Stage:
        answers = f"{name}/predictions.jsonl"
        command = f"answer {run}/{answers} {settings.seed} {settings.test_questions} {methods or name}"
        return Stage(name, name, (command,), ("data", *needs), outputs=(answers,))

    data = (f"make {run}/data/file {settings.data_seed} {settings.train_questions} --config size.yaml",)
    return [
        Stage("data", "data", data, outputs=("data",)),
        arm("neg"),
        arm("nat", "neg"),
        arm("mix"),
        arm("votes", methods="sc asc"),
        Stage("report", "report", (f"report {run}",), ("*",), outputs=("report.md",)),
    ]


class World:
    def __init__(self, root: Path) -> None:
        self.root, self.done = root, list[str]()
        self.trouble: Callable[[str], None] = lambda name: None
        self.write(**STUDY)

    def write(self, **changes: Any) -> None:
        Path("size.yaml").write_text("lr: 1\n")
        Path("study.yaml").write_text(yaml.safe_dump(STUDY | changes))

    def execute(self, words: list[str]) -> int | None:
        verb, target, seed, number, *methods = words
        file = Path(target)
        self.trouble(name := f"{file.parts[-3]}/{file.parent.name}")
        self.done.append(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            {"method": m, "dataset": "t", "question_id": f"{seed}-{k:02}", "subject": "", "level": f"Level {1 + k % 3}"}
            | {"correct": 0.5 if (m, k) == ("sc", 11) else float(k < RIGHT[m] - int(seed) // 3)}
            for m in methods
            if verb == "answer"
            for k in reversed(range(int(number)))
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return None

    def run(self, *flags: str, status: int = 0) -> list[str]:
        self.done.clear()
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        assert main(parser.parse_args(["--config", "study.yaml", *flags]), self.execute) == status
        return self.done

    def fails(self, *flags: str) -> str:
        with pytest.raises(InputError) as caught:
            self.run(*flags)
        return str(caught.value)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        dust2gold.run.plan, "facts_of", lambda verbs: {"code in package": "fixed", "version of torch": "2.0"}
    )
    monkeypatch.setattr(dust2gold.study.cells, "run_stages", stages)
    return World(tmp_path)


def of(*seeds: int) -> list[str]:
    return [f"seed-{seed}/{name}" for seed in seeds for name in ALL]


def interrupt_at(name: str) -> Callable[[str], None]:
    def happen(reached: str) -> None:
        if reached == name:
            raise KeyboardInterrupt

    return happen


def test_study_runs_interrupted_and_goes_on_elsewhere_from_records_alone(world: World, capsys: Any) -> None:
    world.trouble = interrupt_at("seed-3/nat")
    assert sorted(world.run(status=130)) == sorted([*of(0), "seed-3/data", "seed-3/neg"])
    assert "carry on with `python cli.py study --config study.yaml`" in capsys.readouterr().err
    world.trouble = lambda name: None
    shutil.rmtree("runs")
    assert world.run("--dry-run") == []
    assert capsys.readouterr().out.splitlines() == [
        "slips, seed 0: 4 of 4 records",
        "slips, seed 3: 1 of 4 records; would run: data, neg, nat, mix, votes",
    ]
    assert sorted(world.run()) == sorted(of(3))  # neg again, as nat needs it
    shutil.rmtree("runs")
    assert world.run() == []
    assert "Complete: 8 records" in capsys.readouterr().out


def test_record_says_what_was_answered_and_how_it_was_made(world: World) -> None:
    world.run("--seeds", "3")
    record = json.loads(Path("kept/slips/seed-3/votes.json").read_text())
    assert (record["cell"], record["seed"], record["stage"]) == ("slips", 3, "votes")
    assert record["levels"] == "123" * 4
    assert record["correct"] == {"asc": "1" * 7 + "0" * 5, "sc": [1.0] * 6 + [0.0] * 5 + [0.5]}
    made = record["made"]
    assert made["commands"] == ["answer RUN_DIR/votes/predictions.jsonl 3 12 sc asc"]
    assert list(made["from_stages"]) == ["data", "votes"]
    assert made["machine"]["cores"] > 0
    assert made["versions"].keys() >= {"torch", "transformers", "peft", "lightning", "dust2gold"}
    assert not Path("kept/slips/seed-3/data.json").exists()


@pytest.mark.parametrize("change", ["setting", "config"])
def test_record_of_other_settings_is_refused(world: World, change: str) -> None:
    world.run()
    if change == "setting":
        world.write(settings={"train_questions": 41, "test_questions": 12})
    else:
        Path("size.yaml").write_text("lr: 2\n")
    before = {file: file.read_bytes() for file in Path("kept").rglob("*.json")}
    said = world.fails()
    assert "kept/slips/seed-0/neg.json: was made with other settings (those of data differ)" in said
    assert "move the record away, or name another `records` directory" in said
    assert world.done == []
    assert before == {file: file.read_bytes() for file in Path("kept").rglob("*.json")}


def test_code_versions_and_comments_leave_records_valid(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run()
    Path("size.yaml").write_text("# slow\nlr: 1\n")
    monkeypatch.setattr(dust2gold.run.plan, "facts_of", lambda verbs: {"code in package": "x", "version of torch": "3"})
    assert world.run() == []


def test_missing_record_of_a_finished_stage_is_written_without_running_it(world: World) -> None:
    world.run()
    written = Path("kept/slips/seed-0/nat.json")
    before = json.loads(written.read_text())
    written.unlink()
    assert world.run() == []
    after = json.loads(written.read_text())
    assert {**after["made"], "date": ""} == {**before["made"], "date": ""}
    assert after["correct"] == before["correct"]


def test_records_that_another_process_wrote_meanwhile_count(world: World) -> None:
    def other(name: str) -> None:
        if name == "seed-0/votes" and not Path("kept/slips/seed-3").exists():
            world.run("--seeds", "3")
            world.done.clear()

    world.trouble = other
    assert set(world.run()) <= set(of(0))
    assert "Complete: 8 records" in Path("kept/table.md").read_text()


def test_selection(world: World) -> None:
    world.write(cells={"a": {}, "b": {"train_questions": 80}}, arms=["mix", "nat"])
    assert sorted(world.run("--cells", "b", "--seeds", "3")) == [
        "seed-3/data",
        "seed-3/mix",
        "seed-3/nat",
        "seed-3/neg",
    ]
    assert [str(file) for file in sorted(Path("kept").rglob("seed-*/*"))] == [
        "kept/b/seed-3/mix.json",
        "kept/b/seed-3/nat.json",
    ]
    assert "NOT COMPLETE: 2 of 8 records" in Path("kept/table.md").read_text()
    assert "--cells c: not of this study\n  choose of a, b" in world.fails("--cells", "c")
    assert "--seeds 1: not of this study" in world.fails("--seeds", "1")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cells": {"slips": {"train_question": 3}}}, "study.yaml:3: field 'train_question': no such option"),
        ({"cells": {"slips": {"votes": "many"}}}, "study.yaml:3: field 'votes': int was expected"),
        ({"cells": {"slips": {"seed": 1}}}, "field 'seed': the study sets it"),
        ({"cells": {"a/b": {}}}, "field 'cells': 'a/b' cannot be a directory's name"),
        ({"seeds": [1, 1]}, "field 'seeds': a seed comes twice"),
        ({"arms": ["data"]}, "field 'arms': 'data' answers no test questions"),
        ({"contrast": []}, "field 'contrast': no such option"),
    ],
)
def test_mistakes_in_the_file(world: World, changes: dict[str, Any], said: str) -> None:
    world.write(**changes)
    assert said in world.fails()


def test_tables_come_from_the_records_alone(world: World, capsys: Any) -> None:
    world.write(cells={"few": {}, "many": {"train_questions": 80}, "less": {"train_questions": 20}})
    world.run()
    shown = capsys.readouterr().out
    made = {name: Path("kept", name).read_bytes() for name in ("table.md", "results.json", "questions-1.png")}
    shutil.rmtree("runs")
    world.run()
    assert made == {name: Path("kept", name).read_bytes() for name in made}
    assert "| nat − mix " in shown
    contrast = json.loads(made["results.json"])["cells"]["few"]["contrasts"][0]
    assert contrast["difference"]["mean"] == pytest.approx(-0.25)
    assert contrast["seeds"] == [0, 3]


@pytest.mark.filterwarnings("ignore")
def test_real_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = yaml.safe_load((REPOSITORY / "configs/demo/student.yaml").read_text(encoding="utf-8"))
    sizes["trainer"] |= {"max_steps": 2, "limit_val_batches": 1, "enable_progress_bar": False}
    sizes["model"]["init_args"]["sampling"]["max_new_tokens"] = 8
    Path("sizes").mkdir()
    Path("sizes/student.yaml").write_text(yaml.safe_dump(sizes))
    values = {"configs": "sizes", "train_questions": 12, "test_questions": 6}
    study = STUDY | {"seeds": [0, 1], "settings": values, "arms": ["cot-kd"], "contrasts": [], "secondary": []}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert cli.main(["study", "--config", "study.yaml"]) == 0
    assert "Complete: 2 records" in capsys.readouterr().out
    shutil.rmtree("runs")
    assert cli.main(["study", "--config", "study.yaml", "--jobs", "2"]) == 0
    assert not Path("runs").exists()

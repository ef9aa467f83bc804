"""What the Trainer's commands leave in `<root>/<verb>/`, as TensorBoard reads it."""

import json
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer  # type: ignore[import-untyped]

from datamodules.components.records.records import write_rationales
from dust2gold import cli
from dust2gold.core.machine import machine, versions
from tests.datamodules.test_votes import SAMPLES
from tests.records import write_asked, write_held, write_positive
from tests.words import CPU, REPOSITORY, stage_words

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("elsewhere")]


def steps(directory: Path, tag: str) -> list[int]:
    return [event.step for event in EventAccumulator(str(directory)).Reload().Scalars(tag)]


def run(student: Path, home: Path, verb: str, more: str) -> None:
    """A verb in `home/run` on 12 rationales: 6 batches an epoch."""
    data = f"--data.train {write_positive(home / 't.jsonl', 12)} --data.validation {write_held(home / 'v.jsonl', 3, 1)}"
    if verb != "fit":
        data = f"--data.questions {write_asked(home / 'q.jsonl', 3)} --model.sampling.max_new_tokens 4"
    words = f"--data.verdicts positive --data.batch_size 4 --trainer.log_every_n_steps 1 {data} {more}"
    assert cli.main(stage_words(verb, "neg", student, home / "run", words)) == 0


def test_a_run_is_called_by_its_verb_and_goes_on_in_one_curve(tiny_student: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    run(tiny_student, tmp_path, "fit", "--trainer.max_epochs 1")
    lost = TensorBoardLogger(tmp_path, "run", "fit")  # of an attempt that got further than its checkpoint
    lost.log_metrics({"train/loss": 9.0}, 8)
    lost.finalize("failed")
    run(tiny_student, tmp_path, "fit", "--trainer.max_epochs 2 --ckpt_path last")
    assert steps(root / "fit", "train/loss") == list(range(12))
    run(tiny_student, tmp_path, "fit", "--trainer.max_epochs 1 --ckpt_path none")
    assert steps(root / "fit", "train/loss") == list(range(6)), "begun anew"
    for _ in range(2):
        run(tiny_student, tmp_path, "test", f"--model.adapter {root}/adapter")
    assert len(steps(root / "test", "test/accuracy")) == 1
    shown = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload().Runs()
    assert {name for name, tags in shown.items() if tags["scalars"]} == {"run/fit", "run/test"}
    for verb in ("fit", "test"):
        assert "model" in yaml.safe_load((root / verb / "config.yaml").read_text())


def test_what_the_settings_do_not_say(tiny_student: Path, tmp_path: Path) -> None:
    run(tiny_student, tmp_path, "fit", "--trainer.max_epochs 1 --trainer.logger false --model.lora.r 2")
    facts = json.loads((tmp_path / "run/fit/training.json").read_text())
    assert (facts["schema"], facts["steps"], facts["processes"]) == (1, 6, 1)
    assert 0 < facts["trained_parameters"] < facts["frozen_parameters"]
    assert (facts["versions"], facts["machine"]) == (versions(), machine())


def test_a_logger_of_the_users_own_stays_where_it_is(tiny_student: Path, tmp_path: Path) -> None:
    own = f"--trainer.logger TensorBoardLogger --trainer.logger.save_dir {tmp_path} --trainer.logger.name mine"
    run(tiny_student, tmp_path, "fit", f"--trainer.max_epochs 1 {own}")
    assert steps(tmp_path / "mine/version_0", "train/loss") == list(range(6))
    assert not list((tmp_path / "run/fit").glob("events.*"))


def test_votes_are_logged(tmp_path: Path) -> None:
    write_rationales(tmp_path / "scored.jsonl", SAMPLES)
    words = f"test --config {REPOSITORY}/configs/vote.yaml --data.samples {tmp_path}/scored.jsonl {CPU}"
    more = f"--data.samples_per_question null --trainer.default_root_dir {tmp_path}/votes"
    assert cli.main(f"{words} {more}".split()) == 0
    logged = EventAccumulator(str(tmp_path / "votes/test")).Reload()
    metrics = json.loads((tmp_path / "votes/metrics.json").read_text())
    for method in ("sc", "ws", "asc"):
        [event] = logged.Scalars(f"test/{method}/accuracy")
        assert event.value == pytest.approx(metrics[f"test/{method}/accuracy"])

"""Lightning's own callbacks, loggers and odd settings: a result or a sentence, no traceback, no silent nothing."""

import csv
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from callbacks.checkpoint_files import read_checkpoint
from dust2gold import cli
from lightning_modules.negative import NegativeModel
from tests.records import write_asked, write_held, write_positive
from tests.weights import check_same, weights
from tests.words import REPOSITORY, stage_words

Capture = pytest.CaptureFixture[str]
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("elsewhere")]

Words = Callable[..., list[str]]
UNVALIDATED = "--data.validation [] --data.validation_fraction 0"


class Elsewhere(Logger):
    """Notes metrics and nothing else, as a service's logger; its directory is the service's."""

    metrics: list[str] = []  # noqa: RUF012  # read by the test
    name, version, save_dir = "service", "0", "service"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.metrics.extend(metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Takes them."""


@pytest.fixture
def words(tiny_student: Path, tmp_path: Path) -> Words:
    def make(root: str, more: str = "", *exact: str) -> list[str]:
        train, held = write_positive(tmp_path / "t.jsonl", 12), write_held(tmp_path / "v.jsonl", 3, 1)
        data = f"--data.train {train} --data.validation {held} --data.verdicts positive --data.batch_size 4"
        return stage_words("fit", "neg", tiny_student, tmp_path / root, f"--trainer.max_epochs 1 {data} {more}", *exact)

    return make


def callback(name: str, **options: object) -> str:
    return " ".join([f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{k}={v}" for k, v in options.items())])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (callback("EMAWeightAveraging"), "EMAWeightAveraging changes a copy of the whole student"),
        (callback("StochasticWeightAveraging", swa_lrs=0.1), "the adapter would not have it"),
        (callback("BatchSizeFinder"), "BatchSizeFinder changes the number of batches"),
        (f"{UNVALIDATED} {callback('EarlyStopping', monitor='val/loss')}", "EarlyStopping waits for val/loss"),
        (f"{UNVALIDATED} {callback('ModelCheckpoint', monitor='val/loss')}", "ModelCheckpoint waits for val/loss"),
        (f"--trainer.limit_val_batches 0 {callback('EarlyStopping', monitor='val/loss')}", "nothing is validated"),
        (callback("EarlyStopping", monitor="loss"), "conditioned on metric `loss` which is not available"),
        ("--model.lora.dropout 1.0", "must be at least 0 and below 1, found 1.0"),
        ("--model.lora.dropout -0.1", "must be at least 0 and below 1, found -0.1"),
    ],
)
def test_what_cannot_work_is_refused(words: Words, complaint: Callable[..., str], more: str, said: str) -> None:
    assert said in complaint(*words("run", more))


@pytest.mark.parametrize("more", ["--trainer.max_epochs 0", "--trainer.max_steps 0", "--trainer.limit_train_batches 0"])
def test_a_run_without_a_step_says_so(words: Words, capsys: Capture, more: str) -> None:
    assert cli.main(words("run", more)) == 0
    assert "nothing was trained: max_epochs, max_steps or limit_train_batches leave no step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ("", r"adapter: .*/run/adapter \(val/loss \d\.\d{4}, the best\); .*/run/adapter-last: step 6 \(\d\.\d{4}\)"),
        (UNVALIDATED, r"adapter: .*/run/adapter \(of the last step, 6; without validation nobody knows .*\)"),
    ],
)
def test_fit_ends_with_where_the_adapter_is(words: Words, capsys: Capture, more: str, end: str) -> None:
    assert cli.main(words("run", more)) == 0
    assert re.search(rf"{end}\n\Z", capsys.readouterr().err)


@pytest.mark.parametrize("more", ["--trainer.logger false", "--trainer.fast_dev_run true"])
def test_without_a_logger(words: Words, tmp_path: Path, more: str) -> None:
    assert cli.main(words("run", more)) == 0
    assert (tmp_path / "run/adapter").is_dir()


def test_a_learning_rate_that_was_found_is_trained_with(words: Words, tmp_path: Path) -> None:
    find = callback("LearningRateFinder", num_training_steps=20)
    assert cli.main(words("found", f"--trainer.max_epochs 5 {find}")) == 0
    rate = read_checkpoint(tmp_path / "found/checkpoints/last.ckpt")["lr_schedulers"][0]["base_lrs"][0]
    assert rate != 3e-4
    assert cli.main(words("given", f"--trainer.max_epochs 5 --model.optimizer.init_args.lr {rate!r}")) == 0
    check_same(tmp_path / "given", tmp_path / "found")


def test_a_learning_rate_is_not_searched_for_in_a_run_that_goes_on(words: Words, complaint: Callable[..., str]) -> None:
    assert cli.main(words("run")) == 0
    found = complaint(*words("run", f"--trainer.max_epochs 2 --ckpt_path last {callback('LearningRateFinder')}"))
    assert "LearningRateFinder would train from the checkpoint's weights" in found


def loggers() -> dict[str, str]:
    """The lines of docs/operations.md."""
    text = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    return dict(
        re.findall(r"^ {4}trainer: \{logger: (\{class_path: (?:CSV|MLFlow|Wandb)Logger.*\})\} *# (\w+)$", text, re.M)
    )


@pytest.mark.parametrize("library", ["csv", "mlflow", "wandb"])
def test_each_logger_is_a_line(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaint: Callable[..., str], library: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    line = {name: line for line, name in loggers().items()}[library]
    config = tmp_path / "logger.yaml"
    config.write_text(f"trainer: {{logger: {line}}}\n", encoding="utf-8")
    command = words("run", f"--config {config} --trainer.log_every_n_steps 1")
    if importlib.util.find_spec(library) is None:
        assert f"pip install -U '{library}" in complaint(*command)
        return
    assert cli.main(command) == 0
    if library == "csv":
        rows = list(csv.DictReader((tmp_path / "runs/mine/lightning_logs/version_0/metrics.csv").open()))
        assert {"train/loss", "val/loss", "lr-AdamW"} <= rows[0].keys()


def test_a_logger_of_a_service(words: Words, tmp_path: Path) -> None:
    assert (
        cli.main(words("run", "--trainer.log_every_n_steps 1 --trainer.logger tests.test_lightning_manners.Elsewhere"))
        == 0
    )
    assert {"train/loss", "val/loss", "lr-AdamW"} <= set(Elsewhere.metrics)
    assert (tmp_path / "run/fit/config.yaml").is_file()
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


def test_the_lines_of_the_readme(tiny_student: Path, tmp_path: Path, words: Words) -> None:
    assert cli.main(words("runs/mine/neg")) == 0
    write_positive(tmp_path / "runs/mine/data/positive.jsonl", 12)
    write_asked(tmp_path / "runs/mine/test/questions.jsonl", 3)
    lines = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.S)[0]
    assert len(lines.strip().splitlines()) <= 12
    names: dict[str, Any] = {"STUDENT": str(tiny_student)}
    exec(lines, names)
    assert (tmp_path / "runs/mine/nat/adapter").is_dir()
    assert names["accuracy"] in (0, 1 / 3, 2 / 3, 1)
    assert len(names["texts"]) == 3 * names["model"].sampling.samples
    assert all(isinstance(text, str) for text in names["texts"])


def test_a_checkpoint_of_the_command_line_builds_its_module(words: Words, tmp_path: Path) -> None:
    assert cli.main(words("run", "--model.optimizer AdamW --model.optimizer.lr 0.02")) == 0
    module = NegativeModel.load_from_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert module.make_optimizer().param_groups[0]["lr"] == 0.02
    state = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())


def test_the_page_of_hyperparameters_shows_the_accuracy(tiny_student: Path, tmp_path: Path) -> None:
    asked = write_asked(tmp_path / "asked.jsonl", 3)
    words = stage_words("test", "neg", tiny_student, tmp_path / "run", f"--data.questions {asked}")
    assert cli.main(words) == 0
    [file] = (tmp_path / "run").rglob("events.*")
    logged = EventAccumulator(str(file)).Reload()
    assert [event.value for event in logged.Scalars("hp_metric")][-1] == logged.Scalars("test/accuracy")[-1].value
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(logged.summary_metadata)


def test_completion_and_name(capsys: Capture, complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        cli.main(["fit", "--help"])
    assert capsys.readouterr().out.startswith("usage: dust2gold")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(cli, "_own_packages_first", lambda: None)
    assert "shell completion needs shtab, which is not installed" in complaint("--print_completion=shtab-bash")

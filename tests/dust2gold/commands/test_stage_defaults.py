"""What stages have without saying so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from dust2gold import cli
from dust2gold.core.errors import InputError
from lightning_modules.negative import NegativeModel
from tests.commands import parse

pytestmark = pytest.mark.filterwarnings("ignore")

Fit = Callable[..., Namespace]
TRAINING = ["AdapterWriter", "RunCheckpoint", "RandomStateCheckpoint", "FiniteGuard", "TokenThroughput"]
SAMPLING = ["SampleWriter", "AnswerAccuracy"]


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Parses `fit` with the given words, in a directory that has no configs."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Namespace:
        parsed = parse(["fit", *words])
        assert parsed is not None
        config: Namespace = parsed.config.fit
        return config

    return run


class OwnStage(NegativeModel):
    """A stage that is not among ours."""


def names(config: Namespace) -> list[str]:
    return [callback.class_path.rpartition(".")[2] for callback in config.trainer.callbacks]


@pytest.mark.parametrize(
    ("stage", "callbacks"),
    [
        ("neg", [*TRAINING, *SAMPLING, "LearningRateMonitor"]),
        ("nat", [*TRAINING, *SAMPLING, "LearningRateMonitor", "GateMonitor"]),
        ("rank", [*TRAINING, "LearningRateMonitor", "ScoreMonitor", "ScoreWriter"]),
        ("vote", ["PredictionWriter"]),
    ],
)
def test_callbacks_by_the_kind_of_stage(fit: Fit, stage: str, callbacks: list[str]) -> None:
    assert names(fit("--config", f"configs/{stage}.yaml")) == callbacks


def test_a_callback_replaces_the_default_of_its_class(fit: Fit) -> None:
    words = ["--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.every_n_train_steps=1"]
    config = fit("--config", "configs/nat.yaml", *words)
    assert names(config) == names(fit("--config", "configs/nat.yaml"))
    assert config.trainer.callbacks[1].init_args.every_n_train_steps == 1


def test_default_callbacks_can_be_left_out(fit: Fit) -> None:
    config = fit("--config", "configs/neg.yaml", "--without_callbacks", "[SampleWriter, FiniteGuard]")
    left = [
        name for name in [*TRAINING, *SAMPLING, "LearningRateMonitor"] if name not in ("SampleWriter", "FiniteGuard")
    ]
    assert names(config) == left
    with pytest.raises(InputError, match="no default callback 'GateMonitor'"):
        fit("--config", "configs/nat.yaml", "--without_callbacks", "[GateMonitor]")


ENCODER = ["--model.backbone", "EncoderSettings", "--model.backbone.path", "t5"]


@pytest.mark.parametrize(
    ("stage", "words", "tokenizer"),
    [
        ("neg", [], "embedded"),
        ("neg", ["--model.student", "a/b"], "a/b"),
        ("neg", ["--model.student", "a/b", "--data.tokenizer", "c/d"], "c/d"),
        ("neg", ["--model.student", "a/b", "--data.tokenizer", "embedded"], "embedded"),
        ("rank", ["--model.backbone.init_args.student", "a/b"], "a/b"),
        ("rank", ENCODER, "t5"),
        ("rank", [*ENCODER, "--data.tokenizer", "c/d"], "c/d"),
    ],
)
def test_the_tokenizer_is_the_students(fit: Fit, stage: str, words: list[str], tokenizer: str) -> None:
    assert fit("--config", f"configs/{stage}.yaml", *words).data.init_args.tokenizer == tokenizer


def test_a_stage_of_ones_own_gets_them_too(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    config: dict[str, Any] = {
        "model": {"class_path": f"{__name__}.OwnStage"},
        "data": {"class_path": "RationaleDataModule"},
        "trainer": {"callbacks": [{"class_path": "GateMonitor"}]},
    }
    Path("own.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.main(["fit", "--config", "own.yaml", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    kinds = [callback["class_path"].rpartition(".")[2] for callback in shown["trainer"]["callbacks"]]
    assert kinds == [*TRAINING, *SAMPLING, "LearningRateMonitor", "GateMonitor"]
    assert shown["trainer"]["max_epochs"] == 3

"""What stages have without saying so."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dust2gold import cli
from dust2gold.commands.resumption import fit_provenance
from dust2gold.core.errors import InputError
from lightning_modules.negative import NegativeModel
from tests.commands import parse

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("elsewhere")]

TRAINING = ["AdapterWriter", "RunCheckpoint", "RandomStateCheckpoint", "FiniteGuard", "TokenThroughput"]
STUDENT = [*TRAINING, "SampleWriter", "AnswerAccuracy", "LearningRateMonitor"]
NAT = [*STUDENT[:-1], "GateWriter", "LearningRateMonitor", "GateMonitor"]


def fit(stage: str, *words: str) -> Any:
    """The config of a `fit` of a stage of ours."""
    parsed: Any = parse(["fit", "--config", f"configs/{stage}.yaml", *words])
    return parsed.config.fit


class OwnStage(NegativeModel):
    """A stage that is not among ours."""


def names(config: Any) -> list[str]:
    return [callback.class_path.rpartition(".")[2] for callback in config.trainer.callbacks]


@pytest.mark.parametrize(
    ("stage", "callbacks"),
    [
        ("neg", STUDENT),
        ("nat", NAT),
        ("nce", [*STUDENT[:-1], "BetaWriter", "LearningRateMonitor", "CalibrationMonitor"]),
        ("rank", [*TRAINING, "LearningRateMonitor", "ScoreMonitor", "ScoreWriter"]),
        ("vote", ["PredictionWriter"]),
    ],
)
def test_callbacks_by_the_kind_of_stage(stage: str, callbacks: list[str]) -> None:
    assert names(fit(stage)) == callbacks


def test_a_callback_replaces_the_default_of_its_class() -> None:
    config = fit("nat", "--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.every_n_train_steps=1")
    assert names(config) == NAT
    assert config.trainer.callbacks[1].init_args.every_n_train_steps == 1


def test_default_callbacks_can_be_left_out() -> None:
    left = [name for name in STUDENT if name not in ("SampleWriter", "FiniteGuard")]
    assert names(fit("neg", "--without_callbacks", "[SampleWriter, FiniteGuard]")) == left
    with pytest.raises(InputError, match="no default callback 'GateMonitor'"):
        fit("nat", "--without_callbacks", "[GateMonitor]")


WRITER = ["--trainer.callbacks+=AdapterWriter", "--trainer.callbacks.monitor"]


def test_the_adapter_is_the_best_or_the_last() -> None:
    for words, monitor in (
        ([], "val/loss"),
        (["--adapter", "last"], None),
        (["--config", "configs/paper/student.yaml"], None),
        (["--config", "configs/paper/student.yaml", "--adapter", "best"], "val/loss"),
        ([*WRITER, "val/accuracy"], "val/accuracy"),
        ([*WRITER, "null", "--adapter", "last"], None),  # as a run's own config.yaml says it
    ):
        config = fit("neg", *words)
        assert names(config)[0] == "AdapterWriter"
        assert config.trainer.callbacks[0].init_args.monitor == monitor
    for words in ([*WRITER, "val/accuracy", "--adapter", "last"], [*WRITER, "null"]):
        with pytest.raises(InputError, match=r"field 'adapter': is '(best|last)', and AdapterWriter's monitor"):
            fit("neg", *words)


def test_another_adapter_is_another_run() -> None:
    made = [fit_provenance(fit("neg", *words).as_dict()) for words in ([], ["--adapter", "last"])]
    assert "adapter" in made[0].differences(made[1].facts)


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
def test_the_tokenizer_is_the_students(stage: str, words: list[str], tokenizer: str) -> None:
    assert fit(stage, *words).data.init_args.tokenizer == tokenizer


@pytest.mark.parametrize(
    ("precision", "given", "dtype"),
    [
        ("32-true", None, "float32"),
        ("bf16-mixed", None, "bfloat16"),
        ("bf16-mixed", "float32", "float32"),
        ("16-mixed", None, "float32"),
    ],
)
def test_the_base_is_half_as_large_where_its_products_are(precision: str, given: str | None, dtype: str) -> None:
    for stage, field in (("neg", "dtype"), ("rank", "backbone.init_args.dtype")):
        words = [] if given is None else [f"--model.init_args.{field}", given]
        assert fit(stage, "--trainer.precision", precision, *words).model.init_args[field] == dtype


def test_the_data_know_how_long_an_answer_may_be() -> None:
    assert fit("nat", "--model.sampling.max_new_tokens", "77").data.init_args.max_new_tokens == 77
    assert fit("nat", "--data.max_new_tokens", "5").data.init_args.max_new_tokens == 5
    assert "max_new_tokens" not in fit("rank").data.init_args


@pytest.mark.parametrize(
    ("stage", "words", "verdicts"),
    [
        ("neg", [], "negative"),
        ("neg", ["--data.verdicts", "positive"], "positive"),
        *[(stage, [], "positive") for stage in ("nat", "nce")],
        *[(stage, [], "both") for stage in ("nt", "ul", "redi", "dpo", "kto", "glow", "cl", "rank")],
        ("neg", ["--model", "lightning_modules.base.StudentModule"], None),  # a loss of one's own
    ],
)
def test_the_verdicts_are_the_stages(stage: str, words: list[str], verdicts: str | None) -> None:
    assert fit(stage, *words).data.init_args.verdicts == verdicts


def test_a_stage_of_ones_own_gets_them_too(capsys: pytest.CaptureFixture[str]) -> None:
    config: dict[str, Any] = {
        "model": {"class_path": f"{__name__}.OwnStage"},
        "data": {"class_path": "RationaleDataModule"},
        "trainer": {"callbacks": [{"class_path": "GateMonitor"}]},
    }
    Path("own.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.main(["fit", "--config", "own.yaml", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert [each["class_path"].rpartition(".")[2] for each in shown["callbacks"]] == [*STUDENT, "GateMonitor"]
    assert shown["max_epochs"] == 3

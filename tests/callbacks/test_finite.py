"""Training stops at a NaN: ids named, batches saved for replay, weights and the best adapter as they were."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from callbacks.collapse import CollapseAlarm
from callbacks.finite import FiniteGuard
from dust2gold import cli
from dust2gold.core.errors import InputError
from tests.lightning_modules.steps import loader, quiet_trainer
from tests.records import write_held, write_positive
from tests.words import stage_words

pytestmark = pytest.mark.filterwarnings("ignore")


class Line(L.LightningModule):
    """Fits y = w x: a batch with x = inf spoils the loss, one with x = 0 under a root the gradient alone."""

    def __init__(self, root: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.root = root

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        y: Tensor = (self.weight[0] * batch["x"]).sum()
        self.last_positive = torch.tensor([-1.0 - 2 * batch_idx])  # for the collapse alarm
        return y.abs().sqrt() if self.root else y

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def batches(*values: float) -> Any:
    pairs = [torch.tensor([value, 1.0 if value else 0.0]) for value in values]
    return loader(*({"x": x, "ids": [f"q{k}/0", f"q{k}/1"]} for k, x in enumerate(pairs)))


@pytest.mark.parametrize(
    ("root", "bad", "scaled", "problem"),
    [
        (False, math.inf, False, "the loss became inf"),
        (True, 0.0, False, "the gradients are not finite"),
        (False, math.inf, True, "the loss became inf"),  # fp16, which scales losses
    ],
)
def test_stops_before_weights_are_spoilt(tmp_path: Path, root: bool, bad: float, scaled: bool, problem: str) -> None:
    module, values = Line(root), [1.0, 2.0, 3.0, bad, 1.0, 1.0]
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))] if scaled else []
    options: dict[str, Any] = {"max_epochs": 1, "accumulate_grad_batches": 2, "plugins": plugins}
    with pytest.raises(InputError, match=problem) as caught:
        quiet_trainer(tmp_path, FiniteGuard(), **options).fit(module, batches(*values))
    assert ("stopped at step 1, at q3/0, q3/1:" in str(caught.value)) == (not root)  # else nobody knows which it was
    expected = Line(root)
    quiet_trainer(tmp_path, **options).fit(expected, batches(*values[:2]))
    assert torch.equal(module.weight, expected.weight)
    saved = torch.load(tmp_path / "stopped/step-1.pt")
    assert [batch["ids"] for batch in saved["batches"]] == [["q2/0", "q2/1"], ["q3/0", "q3/1"]]
    replayed = [float(module.training_step(batch, 0).detach()) for batch in saved["batches"]]
    assert saved["losses"] == replayed


class Logged(Line):
    """Logs its loss, and has a validation."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        y = super().training_step(batch, batch_idx)
        self.log("loss", y)
        return y

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass


class Written(L.Callback):
    """Collects the weights as others would write them."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.weights.append(pl_module.weight.detach().clone())

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.on_save_checkpoint(trainer, pl_module, {})

    on_train_end = on_validation_end


@pytest.mark.parametrize(
    ("number", "options", "begun"),
    [
        (1, {}, 3),
        (1, {"log_every_n_steps": 1}, 2),
        (1, {"val_check_interval": 2}, 2),
        (1, {"enable_checkpointing": True}, 2),
        (3, {}, 4),  # the last
    ],
    ids=["next step", "logged", "validated", "saved", "end"],
)
def test_a_late_answer_comes_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, options: dict[str, Any], begun: int
) -> None:
    """As on a GPU, where the answer is read a step later."""
    monkeypatch.setattr(FiniteGuard, "reads_later", frozenset({"cpu"}))
    written, module, values = Written(), Logged(), [1.0] * 4
    values[number] = math.inf
    saves = [ModelCheckpoint(tmp_path, every_n_train_steps=1)] if "enable_checkpointing" in options else []
    trainer = quiet_trainer(
        tmp_path,
        *[FiniteGuard(), written, *saves],
        **{"max_epochs": 1, "log_every_n_steps": 100, "logger": CSVLogger(tmp_path), **options},
    )
    with pytest.raises(
        InputError, match=f"stopped at step {number}, at q{number}/0, .*: the loss became inf"
    ) as caught:
        trainer.fit(module, batches(*values), batches(1.0))
    assert "the weights stay" not in str(caught.value)
    assert trainer.fit_loop.total_batch_idx + 1 == begun
    assert all(weights.isfinite().all() for weights in written.weights)
    assert not any("inf" in file.read_text() for file in tmp_path.rglob("metrics.csv"))
    saved = torch.load(tmp_path / f"stopped/step-{number}.pt")
    assert (saved["step"], saved["losses"], saved["batches"][0]["ids"]) == (
        number,
        [math.inf],
        [f"q{number}/0", f"q{number}/1"],
    )


def test_finite_numbers_pass(tmp_path: Path) -> None:
    one, other = Line(), Line()
    quiet_trainer(tmp_path, FiniteGuard(), max_epochs=2).fit(one, batches(1.0, -2.0, 3.0))
    quiet_trainer(tmp_path, max_epochs=2).fit(other, batches(1.0, -2.0, 3.0))
    assert torch.equal(one.weight, other.weight)
    assert not (tmp_path / "stopped").exists()


def test_a_collapse_stops_too(tmp_path: Path) -> None:
    alarm = CollapseAlarm(window=1, stop=5.0)
    with pytest.raises(InputError, match=r"at q3/0, q3/1: log P per token of right rationales fell 6.00 nats"):
        quiet_trainer(tmp_path, alarm, max_epochs=1).fit(Line(), batches(*[1.0] * 9))
    assert torch.load(tmp_path / "stopped/step-4.pt")["batches"][0]["ids"] == ["q3/0", "q3/1"]


class Spoil(L.Callback):
    """Makes a weight NaN when the second epoch begins."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            next(p for p in pl_module.parameters() if p.requires_grad).data[0, 0] = math.nan


@pytest.mark.usefixtures("elsewhere")
def test_a_stage_keeps_its_best_adapter(tiny_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, validation = write_positive(tmp_path / "p.jsonl", 8), write_held(tmp_path / "v.jsonl", 2)
    more = f"--data.train {train} --data.validation {validation} --data.verdicts positive --data.batch_size 8"
    words = stage_words("fit", "neg", tiny_student, tmp_path / "run", f"{more} --trainer.max_epochs 3")
    assert cli.main([*words, "--trainer.callbacks+=tests.callbacks.test_finite.Spoil"]) == 1
    said = capsys.readouterr().err
    assert f"error: {tmp_path}/run/stopped/step-2.pt: stopped at step 2, at q" in said
    assert "the loss became nan" in said
    adapter = (tmp_path / "run/adapter/adapter_model.safetensors").read_bytes()
    assert not (tmp_path / "run/adapter-last").exists()
    assert cli.main([*words, "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path / "one")]) == 0
    assert adapter == (tmp_path / "one/adapter/adapter_model.safetensors").read_bytes()

"""Training stops at a NaN: ids named, batches saved for replay, weights and the best adapter as they were."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.collapse import CollapseAlarm
from callbacks.finite import FiniteGuard, read_batches
from dust2gold import cli
from dust2gold.core.errors import InputError
from tests.records import write_positive

pytestmark = pytest.mark.filterwarnings("ignore")

NEG = str(Path(__file__).parents[2] / "configs/neg.yaml")


class Line(L.LightningModule):
    """Fits y = w x: a batch with x = inf spoils the loss, one with x = 0 under a root the gradient alone."""

    def __init__(self, root: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.root = root

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        y: Tensor = (self.weight[0] * batch["x"]).sum()
        return y.abs().sqrt() if self.root else y

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def loader(values: list[float]) -> DataLoader[Any]:
    rows = [
        {"x": torch.tensor([value, 1.0 if value else 0.0]), "ids": [f"q{k}/0", f"q{k}/1"]}
        for k, value in enumerate(values)
    ]
    return DataLoader(rows, batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("root", "bad", "what"), [(False, math.inf, "the loss became inf"), (True, 0.0, "gradients")])
def test_stops_before_the_weights_are_spoilt(
    make_trainer: Callable[..., L.Trainer], tmp_path: Path, root: bool, bad: float, what: str
) -> None:
    module, values = Line(root), [1.0, 2.0, 3.0, bad, 1.0, 1.0]
    with pytest.raises(InputError, match=what) as caught:
        make_trainer(FiniteGuard(), max_epochs=1, accumulate_grad_batches=2, logger=False).fit(module, loader(values))
    assert ("stopped at step 1, at q3/0, q3/1:" in str(caught.value)) == (not root)  # else nobody knows which it was
    expected = Line(root)
    make_trainer(max_epochs=1, accumulate_grad_batches=2, logger=False).fit(expected, loader(values[:2]))
    assert torch.equal(module.weight, expected.weight)
    saved = tmp_path / "run/stopped/step-1"
    batches = read_batches(saved)
    assert [batch["ids"] for batch in batches] == [["q2/0", "q2/1"], ["q3/0", "q3/1"]]
    losses = [float(module.training_step(batch, 0).detach()) for batch in batches]  # the replay
    assert losses == json.loads((saved / "batches.json").read_text())["losses"]


def test_losses_are_told_as_they_were_before_fp16_scaled_them(
    make_trainer: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    module, values = Line(), [1.0, 2.0, 3.0, math.inf]
    fp16 = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(InputError, match="the loss became inf"):
        make_trainer(FiniteGuard(), max_epochs=1, accumulate_grad_batches=2, logger=False, plugins=[fp16]).fit(
            module, loader(values)
        )
    saved = tmp_path / "run/stopped/step-1"
    losses = [float(module.training_step(batch, 0).detach()) for batch in read_batches(saved)]
    assert losses == json.loads((saved / "batches.json").read_text())["losses"]


def test_numbers_pass(make_trainer: Callable[..., L.Trainer], tmp_path: Path) -> None:
    one, other = Line(), Line()
    make_trainer(FiniteGuard(), max_epochs=2, logger=False).fit(one, loader([1.0, -2.0, 3.0]))
    make_trainer(max_epochs=2, logger=False).fit(other, loader([1.0, -2.0, 3.0]))
    assert torch.equal(one.weight, other.weight)
    assert not (tmp_path / "run/stopped").exists()


def test_a_collapse_stops_too(make_trainer: Callable[..., L.Trainer], tmp_path: Path) -> None:
    class Falling(Line):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            self.last_positive = torch.tensor([-1.0 - 2 * batch_idx])
            return super().training_step(batch, batch_idx)

    alarm = CollapseAlarm(window=1, stop=5.0)
    with pytest.raises(InputError, match=r"at q3/0, q3/1: log P per token of right rationales fell 6.00 nats"):
        make_trainer(alarm, max_epochs=1, logger=False).fit(Falling(), loader([1.0] * 9))
    assert read_batches(tmp_path / "run/stopped/step-4")[0]["ids"] == ["q3/0", "q3/1"]


class Spoil(L.Callback):
    """Makes a weight NaN when the second epoch begins."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            next(p for p in pl_module.parameters() if p.requires_grad).data[0, 0] = math.nan


def test_a_stage_keeps_its_best_adapter(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", NEG, "--model.student", str(tiny_student), "--data.tokenizer", str(tiny_student)]
    words += ["--data.train", write_positive(tmp_path / "p.jsonl", 8), "--data.batch_size", "8"]
    words += ["--data.validation", write_positive(tmp_path / "v.jsonl", 2), "--trainer.max_epochs", "3"]
    words += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    words += ["--trainer.default_root_dir", str(tmp_path / "run")]
    assert cli.main([*words, "--trainer.callbacks+=tests.callbacks.test_finite.Spoil"]) == 1
    said = capsys.readouterr().err
    assert f"error: {tmp_path}/run/stopped/step-2: stopped at step 2, at q" in said
    assert "the loss became nan" in said
    adapter = (tmp_path / "run/adapter/adapter_model.safetensors").read_bytes()
    assert not (tmp_path / "run/adapter-last").exists()
    assert cli.main([*words, "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path / "one")]) == 0
    assert adapter == (tmp_path / "one/adapter/adapter_model.safetensors").read_bytes()

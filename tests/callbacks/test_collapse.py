"""The alarm rings when right rationales become unlikely in training, and only then."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.collapse import CollapseAlarm
from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.losses.negatives import NegativeTraining
from lightning_modules.positive_negative import PositiveNegativeModel
from tests.callbacks.conftest import OneWeight
from tests.lightning_modules.steps import loader

Capture = pytest.CaptureFixture[str]


class Scripted(OneWeight):
    """A batch is the log P of its right rationales' targets."""

    last_positive: torch.Tensor | None = None

    def training_step(self, batch: list[float], batch_idx: int) -> torch.Tensor:
        self.last_positive = torch.tensor(batch)
        return super().training_step(batch, batch_idx)


def test_means_are_over_tokens_of_a_window(make_trainer: Any, events: Any) -> None:
    batches = [[-1.0, -2.0, -3.0], [-6.0], [], [-1.0], [-9.0]]  # the last, half a window, is left out
    alarm = CollapseAlarm(window=2, drop=1.5)
    make_trainer(alarm, max_epochs=1).fit(Scripted(), loader(*batches))
    means, fallen = (events().Scalars(f"collapse/{name}") for name in ("positive_logprob", "fallen"))
    assert [(m.step, m.value) for m in means] == [(2, -3.0), (4, -1.0)]
    assert [f.value for f in fallen] == [0.0, 0.0]
    assert alarm.best == -1.0


@pytest.mark.parametrize(
    ("values", "warnings"),
    [
        ([-1.0 - step / 4 for step in range(20)], ["-1.75 over the last 1 batches, -1.00 at the best (step 4)", "14)"]),
        ([-1.0, math.nan], ["nan"]),
        ([-1.0, -math.inf], ["inf"]),
        ([-3.0, -3.4, -2.0, None, -2.4], []),
    ],
)
def test_warns_of_a_fall(make_trainer: Any, capsys: Capture, values: list[float | None], warnings: list[str]) -> None:
    batches = [[] if value is None else [value] for value in values]
    make_trainer(CollapseAlarm(1, 0.5, every=10, stop=None), max_epochs=1).fit(Scripted(), loader(*batches))
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("collapse:")]
    assert len(found) == len(warnings)
    assert all(part in line for part, line in zip(warnings, found, strict=True))


def test_a_resumed_run_remembers_the_best(make_trainer: Any, tmp_path: Path, capsys: Capture) -> None:
    trainer = make_trainer(CollapseAlarm(window=1), max_epochs=1)
    trainer.fit(Scripted(), loader([-1.0]))
    trainer.save_checkpoint(tmp_path / "checkpoint")
    resumed = make_trainer(CollapseAlarm(window=1), max_epochs=2)
    resumed.fit(Scripted(), loader([-4.0]), ckpt_path=tmp_path / "checkpoint", weights_only=False)
    assert "-1.00 at the best" in capsys.readouterr().err


@pytest.mark.parametrize(("weight", "collapses"), [(0.05, False), (20.0, True)])
def test_a_large_weight_collapses(make_trainer: Any, capsys: Capture, weight: float, collapses: bool) -> None:
    torch.manual_seed(0)
    ids = torch.randint(3, 300, (8, 12))
    ids[1::2, :-1] = ids[::2, :-1]  # a wrong rationale shares most of its tokens with a right one
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    batch |= {"positive": torch.arange(8) % 2 == 0, "ids": [str(row) for row in range(8)]}  # type: ignore[dict-item]
    small: dict[str, Any] = {"lora": LoraSettings(r=4), "optimizer": partial(torch.optim.AdamW, lr=1e-2)}
    module = PositiveNegativeModel(NegativeTraining(weight), student="embedded", **small)
    trainer = make_trainer(CollapseAlarm(window=5, stop=None), max_epochs=1, limit_val_batches=0, logger=False)
    trainer.fit(module, loader(*[batch] * 30))
    assert ("collapse:" in capsys.readouterr().err) == collapses


@pytest.mark.parametrize(("name", "value"), [("window", 0), ("drop", 0.0)])
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(InputError) as caught:
        CollapseAlarm(**{name: value})  # type: ignore[arg-type]
    assert caught.value.field == f"CollapseAlarm.{name}"

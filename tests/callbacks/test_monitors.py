"""Throughput, β and rationales as TensorBoard shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.calibration import CalibrationMonitor
from callbacks.tensorboard import show_rationales, writer_of
from callbacks.throughput import TokenThroughput
from tests.records import rationale


class Clocked(L.LightningModule):
    """A step takes as long as told; its β is the step's number over ten."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seconds = seconds
        self.last_beta: torch.Tensor | None = None

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        time.sleep(self.seconds)
        self.last_beta = torch.full((len(batch["attention_mask"]),), batch_idx / 10)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(count: int, seconds: float = 0.0) -> DataLoader[Any]:
    """Batches of 2 rows and 8 positions, of which 10 are real in even batches and 6 in odd ones.

    Each takes as long as told to read.
    """

    def read(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        time.sleep(seconds)
        return batch

    masks = [torch.zeros(2, 8, dtype=torch.int64) for _ in range(count)]
    for number, mask in enumerate(masks):
        mask[0] = 1
        mask[1, :2] = number % 2 == 0
        mask[0, 6:] = number % 2 == 0
    rows: Any = [{"attention_mask": mask} for mask in masks]
    return DataLoader(rows, batch_size=None, collate_fn=read)  # type: ignore[arg-type]  # without a batch size, of a row


@pytest.mark.parametrize(("step", "data"), [(0.02, 0.0), (0.0, 0.03)])
def test_throughput(
    make_trainer: Callable[..., L.Trainer], events: Callable[[], Any], step: float, data: float
) -> None:
    make_trainer(TokenThroughput(every=4), max_epochs=1).fit(Clocked(step), batches(9, data))
    logged = events()
    shares, speeds = (logged.Scalars(f"throughput/{n}") for n in ("real_token_share", "tokens_per_second"))
    assert [share.value for share in shares] == [0.5, 0.5]  # 32 of 64 positions; the ninth batch is not told
    assert [share.step for share in shares] == [4, 8]
    assert len(speeds) == 2
    assert all(0 < speed.value <= 32 / 0.08 for speed in speeds)  # in 4 steps it slept for 0.08 s


def test_throughput_does_not_count_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 100.0, 101.0])  # validation, which ends at 100, between the batches
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    logged: dict[str, float] = {}
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.update(metrics))
    trainer: Any = SimpleNamespace(world_size=3, loggers=[logger], global_step=2)
    module: Any = None
    monitor = TokenThroughput(every=2)
    monitor.on_train_epoch_start(trainer, module)
    monitor.on_train_batch_end(trainer, module, None, {"attention_mask": torch.ones(2, 5)}, 0)
    monitor.on_validation_end(trainer, module)
    half = torch.tensor([[1.0] * 5, [0.0] * 5])
    monitor.on_train_batch_end(trainer, module, None, {"attention_mask": half}, 1)
    assert logged == {"throughput/tokens_per_second": 15 / 2 * 3, "throughput/real_token_share": 15 / 20}


def test_beta_histograms(make_trainer: Callable[..., L.Trainer], events: Callable[[], Any]) -> None:
    make_trainer(CalibrationMonitor(every=3), max_epochs=1).fit(Clocked(), batches(7))
    first, second = events().Histograms("nce/beta")
    assert (first.step, second.step) == (3, 6)
    assert (first.histogram_value.num, second.histogram_value.num) == (6, 6)
    values = [(event.histogram_value.min, event.histogram_value.max) for event in (first, second)]
    assert values == [pytest.approx((0.0, 0.2)), pytest.approx((0.3, 0.5))]


def test_without_a_logger_nothing_is_written(make_trainer: Callable[..., L.Trainer]) -> None:
    trainer = make_trainer(CalibrationMonitor(every=1), TokenThroughput(every=1), logger=False, max_epochs=1)
    trainer.fit(Clocked(), batches(2))
    assert writer_of(trainer) is None
    show_rationales(trainer, "samples", [rationale(0)])


def test_rationales_are_shown_escaped(make_trainer: Callable[..., L.Trainer], events: Callable[[], Any]) -> None:
    evil = "<script>alert('&')</script>![i](http://e.vil)"
    shown = [rationale(0, question=evil, rationale=evil, gold=evil, id=f"{evil}/0"), rationale(1, 1)]
    trainer = make_trainer()
    show_rationales(trainer, "samples", shown)
    trainer.loggers[0].experiment.close()  # type: ignore[attr-defined]
    logged = events()
    first, second = (logged.Tensors(f"samples/{i}/text_summary")[0].tensor_proto.string_val[0].decode() for i in (0, 1))
    assert "<script" not in first
    assert first.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;") == 2
    assert first.count("\\&lt;script\\&gt;alert(&#x27;&amp;&#x27;)\\&lt;/script\\&gt;") == 2
    assert first.partition("<pre>")[0].count("!\\[i\\](http") == 2  # no picture
    assert first.startswith("**positive**")
    assert second.startswith("**negative** · q1/1 · gold 4\n\n<pre>")

"""Throughput, β and rationales as TensorBoard shows them."""

import html
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.plugin_util import markdown_to_safe_html  # type: ignore[import-untyped]

from callbacks.calibration import CalibrationMonitor
from callbacks.tensorboard import show_rationales, writer_of
from callbacks.throughput import TokenThroughput
from tests.callbacks.conftest import OneWeight
from tests.lightning_modules.steps import loader
from tests.records import rationale


class Calibrated(OneWeight):
    """Its β is the step's number over ten."""

    last_beta: torch.Tensor | None = None

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.last_beta = torch.full((2,), batch_idx / 10)
        return super().training_step(batch, batch_idx)


def batches(count: int) -> Any:
    """Batches of 2 rows and 8 positions, of which 10 are real in even batches and 6 in odd ones."""
    masks = [torch.tensor([[1] * 8, [1, 1, *[0] * 6]]), torch.tensor([[1] * 6 + [0, 0], [0] * 8])]
    return loader(*({"attention_mask": masks[number % 2]} for number in range(count)))


def test_throughput(make_trainer: Any, events: Any) -> None:
    make_trainer(TokenThroughput(every=4), max_epochs=1).fit(OneWeight(), batches(9))
    logged = events()
    shares, speeds = (logged.Scalars(f"throughput/{n}") for n in ("real_token_share", "tokens_per_second"))
    assert [(each.step, each.value) for each in shares] == [(4, 0.5), (8, 0.5)]  # 32 of 64; the ninth is left out
    assert [each.step for each in speeds] == [4, 8]


def test_throughput_counts_waiting_for_data_and_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_beta_histograms(make_trainer: Any, events: Any) -> None:
    make_trainer(CalibrationMonitor(every=3), max_epochs=1).fit(Calibrated(), batches(7))
    histograms = [(event.step, event.histogram_value) for event in events().Histograms("nce/beta")]
    found = [(step, each.num, each.min, each.max) for step, each in histograms]
    assert found == [pytest.approx((3, 6, 0.0, 0.2)), pytest.approx((6, 6, 0.3, 0.5))]


def test_without_a_logger_nothing_is_written(make_trainer: Any) -> None:
    trainer = make_trainer(CalibrationMonitor(every=1), TokenThroughput(every=1), logger=False, max_epochs=1)
    trainer.fit(Calibrated(), batches(2))
    assert writer_of(trainer) is None
    show_rationales(trainer, "samples", [rationale(0)])


def test_rationales_are_shown_as_they_are_and_wrap(make_trainer: Any, events: Any) -> None:
    evil = "<script>alert('&amp;')</script>![i](http://e.vil) $\\\\frac{1}{2}_3$\n# | 1. *no list*\n    no code"
    shown = [rationale(0, question=evil, rationale=evil, gold=evil, id=f"{evil}/0"), rationale(1, 1)]
    trainer = make_trainer()
    show_rationales(trainer, "samples", shown)
    trainer.loggers[0].experiment.close()
    logged = events()
    texts = [logged.Tensors(f"samples/{i}/text_summary")[0].tensor_proto.string_val[0].decode() for i in (0, 1)]
    page = markdown_to_safe_html(texts[0])
    assert set(re.findall(r"</?(\w+)", page)) == {"p", "strong", "br"}  # nothing of theirs; <pre> would not wrap
    lines = [" ".join(line.split()) for line in evil.splitlines()]
    title, *body = html.unescape(re.sub(r"</?(p|strong)>", "", page)).replace("\n", "<br>", 1).split("<br>")
    assert title == f"positive · {' '.join(lines)}/0 · gold {' '.join(lines)}"
    assert body == [*lines, "", *lines]
    assert texts[1].startswith("**negative** · q1&#47;1 · gold 4\n\n")

"""A training step, with the callbacks that stages have, never waits for the GPU: counted on the CPU by what would."""

from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from benchmarks.harness import host_waits
from callbacks.calibration import CalibrationMonitor
from callbacks.finite import FiniteGuard
from callbacks.throughput import TokenThroughput
from datamodules.components.batching.collate import target_positions
from tests.lightning_modules.steps import loader, quiet_trainer

LIBRARIES = {"lightning", "transformers"}
"""Lightning reads what it logs and its step counters, transformers whether rows are packed."""


class Watch(L.Callback):
    """Counts from the start of a step to its end, those of all callbacks before it included, of each step but one."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.found: list[Counter[str]] = []
        self._watching: AbstractContextManager[Counter[str]]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._watching = host_waits()
        self.found.append(self._watching.__enter__())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._watching.__exit__(None, None, None)


@pytest.mark.parametrize("stage", ["negative", "nat", "nce"])
@pytest.mark.parametrize("packed", [False, True])
def test_steps_do_not_wait(
    make_stage: Any, make_batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, packed: bool
) -> None:
    monkeypatch.setattr(FiniteGuard, "reads_later", frozenset({"cpu"}))
    batch = make_batch()
    if packed:
        batch |= {"segments": torch.arange(4)[:, None].expand(4, 12), "position_ids": torch.arange(12).expand(4, 12)}
    counts = {"all": (25.0, 4.0), "positive": (25.0, 4.0), "negative": (0.0, 0.0)}
    batch |= {"targets": target_positions(batch["labels"]), "ids": list("abcd"), "step": counts}
    module, watch, every = make_stage(stage), Watch(4), 4
    guards = [FiniteGuard(), TokenThroughput(every), CalibrationMonitor(every), watch]
    options = {"max_epochs": 1, "log_every_n_steps": every, "gradient_clip_val": 1.0}
    quiet_trainer(tmp_path, *guards, **options).fit(module, loader(*[batch] * 6))
    *_, third, logged, _, last = (
        {k: n for k, n in each.items() if k.partition(".")[0] not in LIBRARIES} for each in watch.found
    )
    arrived = {"callbacks.finite": 1}  # the answer of the step before, which is on the CPU
    assert (third, last) == (arrived, arrived)
    assert logged == {"callbacks.finite": 2, "callbacks.throughput": 1}

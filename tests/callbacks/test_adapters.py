"""Which adapter lies where when a run ends, is resumed, or fails to write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader

from callbacks.adapters import AdapterWriter
from dust2gold.core.errors import InputError


class Scripted(L.LightningModule):
    """Validates with scores from a list; what it writes is the number of the step."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = iter(scores)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.failure: Exception | None = None

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", next(self.scores))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def write_adapter(self, directory: Path) -> None:
        (directory / "step.json").write_text(json.dumps(self.global_step), encoding="utf-8")
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def fit(make_trainer: Callable[..., L.Trainer], tmp_path: Path) -> Callable[..., dict[str, int]]:
    """Trains two steps an epoch, one epoch a score, and returns which step each directory holds."""

    def run(scores: list[float], writer: AdapterWriter | None = None, **kwargs: Any) -> dict[str, int]:
        writer = writer or AdapterWriter()
        loader: DataLoader[Any] = DataLoader([0, 1], batch_size=1)  # type: ignore[arg-type]
        validation = loader if scores else None
        trainer = make_trainer(
            writer, logger=False, **{"max_epochs": len(scores) or 1, "limit_val_batches": 1, **kwargs}
        )
        trainer.fit(Scripted(scores), loader, validation)
        return written(tmp_path / "run")

    return run


def written(root: Path) -> dict[str, int]:
    return {file.parent.name: json.loads(file.read_text()) for file in root.glob("*/step.json")}


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ([3.0, 1.0, 2.0], "min", 4),
        ([3.0, 1.0, 2.0], "max", 2),
        ([1.0, 1.0], "min", 2),
        ([2.0, float("nan")], "min", 2),
        ([float("nan"), 5.0, 6.0], "min", 4),
        ([float("nan")], "min", 2),
    ],
)
def test_best_and_last(fit: Callable[..., dict[str, int]], scores: list[float], mode: str, best: int) -> None:
    assert fit(scores, AdapterWriter(mode=mode)) == {"adapter": best, "adapter-last": 2 * len(scores)}


def test_without_validation_the_last_is_the_best(fit: Callable[..., dict[str, int]]) -> None:
    assert fit([], max_steps=1) == {"adapter": 1, "adapter-last": 1}
    assert fit([]) == {"adapter": 2, "adapter-last": 2}  # also over what an earlier run left


def test_an_earlier_runs_adapter_is_replaced(fit: Callable[..., dict[str, int]]) -> None:
    fit([0.1, 0.2, 0.3])
    assert fit([5.0, 4.0])["adapter"] == 4


def test_a_resumed_run_keeps_the_better_adapter(fit: Callable[..., dict[str, int]]) -> None:
    first = AdapterWriter()
    fit([1.0], first)
    second = AdapterWriter()
    second.load_state_dict(first.state_dict())
    assert fit([3.0, 2.0], second) == {"adapter": 2, "adapter-last": 4}
    third = AdapterWriter()
    third.load_state_dict(second.state_dict())
    assert fit([3.0, 0.5], third) == {"adapter": 4, "adapter-last": 4}


def test_a_resumed_run_puts_back_the_best_adapter(fit: Callable[..., dict[str, int]], tmp_path: Path) -> None:
    """Its process was killed between the two renames that replace the directory."""
    fit([3.0])
    work = tmp_path / "run" / ".adapter.abcd1234.part"
    work.mkdir()
    (work / "lock").touch()
    (tmp_path / "run" / "adapter").rename(work / "old")
    writer = AdapterWriter()
    writer.load_state_dict({"best": 3.0})
    assert fit([4.0, 5.0], writer) == {"adapter": 2, "adapter-last": 4}
    assert not work.exists()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), SafetensorError("No space left")])
def test_a_failed_write_leaves_the_older_adapter(
    fit: Callable[..., dict[str, int]], make_trainer: Callable[..., L.Trainer], tmp_path: Path, failure: Exception
) -> None:
    before = fit([1.0])
    module = Scripted([0.5])
    module.failure = failure
    loader: DataLoader[Any] = DataLoader([0, 1, 2, 3], batch_size=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"run/adapter: cannot write \(No space left.*\n.*free some space"):
        make_trainer(AdapterWriter(), logger=False, max_epochs=1, limit_val_batches=1).fit(module, loader, loader)
    assert written(tmp_path / "run") == before
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["adapter", "adapter-last"]


def test_validation_alone_and_the_sanity_check_write_nothing(
    make_trainer: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    loader: DataLoader[Any] = DataLoader([0, 1], batch_size=1)  # type: ignore[arg-type]
    trainer = make_trainer(AdapterWriter(), logger=False, limit_val_batches=1)
    trainer.validate(Scripted([1.0]), loader, verbose=False)
    assert written(tmp_path / "run") == {}
    trainer = make_trainer(AdapterWriter(), logger=False, num_sanity_val_steps=1, limit_val_batches=1, max_epochs=1)
    trainer.fit(Scripted([0.1, 0.9]), loader, loader)
    assert written(tmp_path / "run") == {"adapter": 2, "adapter-last": 2}


def test_unknown_mode() -> None:
    with pytest.raises(InputError, match="unknown mode 'best'"):
        AdapterWriter(mode="best")

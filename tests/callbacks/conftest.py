"""What the tests of the callbacks share: a Trainer without frills, and a way to read TensorBoard's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.negative import NegativeModel

EVERYTHING = {"scalars": 0, "histograms": 0, "tensors": 0}


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., L.Trainer]:
    """Makes a Trainer on the CPU that writes into `run` and logs into `logs`."""

    def make(*callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
        return L.Trainer(
            **{
                "accelerator": "cpu",
                "callbacks": list(callbacks),
                "logger": TensorBoardLogger(tmp_path, "", "logs"),
                "default_root_dir": tmp_path / "run",
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 1,
                **kwargs,
            }
        )

    return make


@pytest.fixture
def events(tmp_path: Path) -> Callable[[], EventAccumulator]:
    """Reads what was logged."""

    def read() -> EventAccumulator:
        accumulator = EventAccumulator(str(tmp_path / "logs"), EVERYTHING)
        accumulator.Reload()
        return accumulator

    return read


@pytest.fixture
def student_model(tiny_student: Path) -> Callable[..., NegativeModel]:
    """Makes the plain stage on the tiny student."""

    def make(**kwargs: Any) -> NegativeModel:
        lora, sampling = LoraSettings(r=2, alpha=8, dropout=0.1), SamplingSettings(2, max_new_tokens=6)
        settings: dict[str, Any] = {"lora": lora, "sampling": sampling, **kwargs}
        return NegativeModel(str(tiny_student), **settings)

    return make

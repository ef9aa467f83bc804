"""What the tests of the callbacks share: a Trainer without frills, and a way to read TensorBoard's files."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import Tensor

from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.negative import NegativeModel
from tests.lightning_modules.conftest import nat_directory, negative_directory, randomise
from tests.lightning_modules.steps import quiet_trainer

__all__ = ["nat_directory", "negative_directory", "randomise"]

EVERYTHING = {"scalars": 0, "histograms": 0, "tensors": 0}


class OneWeight(L.LightningModule):
    """A module with one parameter, for callbacks that look at something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Any:
    """Makes a Trainer on the CPU that writes into `run` and logs into `logs`."""

    def make(*callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
        root = kwargs.pop("default_root_dir", tmp_path / "run")
        logs = {"logger": TensorBoardLogger(tmp_path, "", "logs"), "log_every_n_steps": 1}
        return quiet_trainer(root, *callbacks, **{**logs, **kwargs})

    return make


@pytest.fixture
def events(tmp_path: Path) -> Any:
    """Reads what was logged."""

    def read() -> EventAccumulator:
        accumulator = EventAccumulator(str(tmp_path / "logs"), EVERYTHING)
        accumulator.Reload()
        return accumulator

    return read


@pytest.fixture
def student_model(tiny_student: Path) -> Any:
    """Makes the plain stage on the tiny student."""

    def make(**kwargs: Any) -> NegativeModel:
        lora, sampling = LoraSettings(r=2, alpha=8, dropout=0.1), SamplingSettings(2, max_new_tokens=6)
        return NegativeModel(str(tiny_student), **{"lora": lora, "sampling": sampling, **kwargs})

    return make

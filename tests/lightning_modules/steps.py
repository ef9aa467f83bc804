"""A stage in a quiet Trainer, and outside one: its losses on a batch without dropout, a few optimizer steps."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_modules.base import StudentModule
from lightning_modules.components.losses.targets import find_targets

OFF = "logger enable_checkpointing enable_progress_bar enable_model_summary use_distributed_sampler"
QUIET: dict[str, Any] = {"accelerator": "cpu", "num_sanity_val_steps": 0, **dict.fromkeys(OFF.split(), False)}


def quiet_trainer(root: Path, *callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
    return L.Trainer(callbacks=list(callbacks), default_root_dir=root, **{**QUIET, **kwargs})


def loader(*batches: Any) -> Any:
    """Gives the batches as they are."""
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


@torch.no_grad()
def held_out_parts(module: StudentModule, batch: dict[str, Any]) -> dict[str, Tensor]:
    module.eval()
    parts = module.loss_parts(batch, find_targets(batch))
    module.train()
    return parts


def train(module: StudentModule, batch: dict[str, Any], steps: int) -> None:
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()

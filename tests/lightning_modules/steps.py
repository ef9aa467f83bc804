"""A stage outside a Trainer: its losses on a batch without dropout, and a few optimizer steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_modules.base import StudentModule
from lightning_modules.components.losses.targets import find_targets


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

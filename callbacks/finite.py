"""Stops training when a loss or a gradient is not finite, before the step that would make the weights NaN."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from dust2gold.core.files import write_bytes_atomically
from lightning_modules.fully_sharded import whole

_IDS_SHOWN = 8


class FiniteGuard(L.Callback):
    """Checks the loss and the gradients before each optimizer step, and stops at the first NaN or infinity.

    The weights are then still those of the step before, and `<root>/adapter` the best of those. The batches of the step
    are saved as `<root>/stopped/step-<n>.pt`: `torch.load(path)["batches"]`, for a `training_step` of any module. With
    fp16 and a gradient scaler, which expects overflows and skips their steps, the gradients are left to it.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the batch until its optimizer step is done."""
        self._batches.append(batch)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Keeps the loss."""
        self._losses.append(loss.detach() * trainer.accumulate_grad_batches)  # Lightning has divided it

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Checks both, waiting for a GPU once; the error names the samples and where the batches are."""
        losses = torch.stack(self._losses).double()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        parameters = [] if scaler is not None else [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms = [whole(norm).double().to(losses.device) for norm in torch._foreach_norm(gradients)] if gradients else []
        if torch.cat([losses, *(norm[None] for norm in norms)]).isfinite().all():
            self._batches, self._losses = [], []
            return
        scale = 1.0 if scaler is None else scaler.get_scale()  # the losses come multiplied by it
        values = (losses / scale).tolist()
        bad = [k for k, loss in enumerate(values) if not math.isfinite(loss)]
        problem = f"the loss became {values[bad[0]]}" if bad else "the gradients are not finite"
        problem += "; the weights stay those of the step before"
        raise stopping(trainer, problem, self._batches, [self._batches[k] for k in bad] or self._batches, values)


def stopping(
    trainer: L.Trainer, problem: str, batches: list[dict[str, Any]], named: list[dict[str, Any]], losses: list[float]
) -> InputError:
    """Saves the batches of an optimizer step and makes the error that stops training.

    The message names the samples of the batches `named`; `losses` are the batches', as far as they are known.
    """
    rank = f"-rank-{trainer.global_rank}" if trainer.world_size > 1 else ""
    path = Path(trainer.default_root_dir) / "stopped" / f"step-{trainer.global_step}{rank}.pt"
    kept = [{name: v.cpu() if isinstance(v, Tensor) else v for name, v in batch.items()} for batch in batches]
    buffer = io.BytesIO()  # torch's own writer reports a full disk as a RuntimeError
    torch.save({"problem": problem, "step": trainer.global_step, "losses": losses, "batches": kept}, buffer)
    write_bytes_atomically(path, buffer.getvalue())
    ids = [name for batch in named for name in batch.get("ids", batch.get("question_ids", []))]
    shown = ", ".join(ids[:_IDS_SHOWN]) + (f" and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else "")
    return InputError(
        f"stopped at step {trainer.global_step}, at {shown or 'samples without ids'}: {problem}",
        file=path,
        remedy="its batches are saved there, the best adapter stays; lower the learning rate or mend these samples",
    )

"""Stops training when a loss or a gradient is not finite, before anything that it has spoilt is written."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from dust2gold.core.files import write_bytes_atomically
from lightning_modules.fully_sharded import whole

_IDS_SHOWN = 8


class _Step(NamedTuple):
    """What one optimizer step was made of, and the answer, perhaps still on its way from the GPU."""

    number: int
    batches: list[dict[str, Any]]
    losses: Tensor  # [batches]
    scale: float
    finite: Tensor  # a truth value, on the CPU
    arrived: torch.cuda.Event | None


class FiniteGuard(L.Callback):
    """Checks the loss and the gradients of each optimizer step, and stops at the first NaN or infinity.

    On a CPU, and with a gradient scaler, that is before the step: the weights are then still those of the step before.
    A GPU would stand idle while the host waits for the answer and then launches the step. There it is read one step
    later, and before anything of the step is logged, validated or saved: weights in memory are spoilt, those in files
    are not. The batches of the step are saved as `<root>/stopped/step-<n>.pt`: `torch.load(path)["batches"]`, for a
    `training_step` of any module. A gradient scaler (fp16) expects overflows and skips their steps: the gradients are
    left to it.
    """

    reads_later = frozenset({"cuda"})
    """Kinds of devices whose answer is read one step later."""

    def __init__(self) -> None:
        self._batches: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []
        self._unread: _Step | None = None

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
        """Asks about both, and reads the answer now, or that of the step before; the error names the samples."""
        self._read(trainer)
        losses = torch.stack(self._losses).double()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        parameters = [] if scaler is not None else [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms = [whole(norm).double().to(losses.device) for norm in torch._foreach_norm(gradients)] if gradients else []
        finite = torch.cat([losses, *(norm[None] for norm in norms)]).isfinite().all()
        finite = finite.to("cpu", non_blocking=losses.is_cuda)
        arrived = torch.cuda.Event() if losses.is_cuda else None
        if arrived is not None:
            arrived.record()
        scale = 1.0 if scaler is None else scaler.get_scale()  # the losses come multiplied by it
        self._unread = _Step(trainer.global_step, self._batches, losses, scale, finite, arrived)
        self._batches, self._losses = [], []
        if scaler is not None or losses.device.type not in self.reads_later:
            self._read(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reads the answer where the Trainer logs the step, which waits for the GPU anyway."""
        if trainer._logger_connector.should_update_logs:
            self._read(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reads the last answer before validation, a checkpoint or the end."""
        self._read(trainer)

    on_validation_start = on_train_epoch_end

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """The same."""
        self._read(trainer)

    def _read(self, trainer: L.Trainer) -> None:
        """Stops training if the step that was asked about last is not finite."""
        step, self._unread = self._unread, None
        if step is None:
            return
        if step.arrived is not None:
            step.arrived.synchronize()
        if step.finite:
            return
        values = (step.losses / step.scale).tolist()
        bad = [k for k, loss in enumerate(values) if not math.isfinite(loss)]
        problem = f"the loss became {values[bad[0]]}" if bad else "the gradients are not finite"
        if step.number == trainer.global_step:
            problem += "; the weights stay those of the step before"
        raise stopping(
            trainer, problem, step.batches, [step.batches[k] for k in bad] or step.batches, values, step.number
        )


def stopping(
    trainer: L.Trainer,
    problem: str,
    batches: list[dict[str, Any]],
    named: list[dict[str, Any]],
    losses: list[float],
    step: int | None = None,
) -> InputError:
    """Saves the batches of an optimizer step (the current one by default) and makes the error that stops training.

    The message names the samples of the batches `named`; `losses` are the batches', as far as they are known.
    """
    step = trainer.global_step if step is None else step
    rank = f"-rank-{trainer.global_rank}" if trainer.world_size > 1 else ""
    path = Path(trainer.default_root_dir) / "stopped" / f"step-{step}{rank}.pt"
    kept = [{name: v.cpu() if isinstance(v, Tensor) else v for name, v in batch.items()} for batch in batches]
    buffer = io.BytesIO()  # torch's own writer reports a full disk as a RuntimeError
    torch.save({"problem": problem, "step": step, "losses": losses, "batches": kept}, buffer)
    write_bytes_atomically(path, buffer.getvalue())
    ids = [name for batch in named for name in batch.get("ids", batch.get("question_ids", []))]
    shown = ", ".join(ids[:_IDS_SHOWN]) + (f" and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else "")
    return InputError(
        f"stopped at step {step}, at {shown or 'samples without ids'}: {problem}",
        file=path,
        remedy="its batches are saved there, the best adapter stays; lower the learning rate or mend these samples",
    )

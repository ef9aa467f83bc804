"""The base of every stage: an optimizer over the part that trains, its logging, and checkpoints of that part alone."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, get_scheduler

from dust2gold.core.errors import InputError, reason
from lightning_modules.components.adapters.base_identity import BaseIdentity
from lightning_modules.components.adapters.stack import shapes_only
from lightning_modules.components.properties import ModuleWithProperties
from lightning_modules.fully_sharded import FullyShardedStrategy, check_sharded, shard_layers

BY_EPOCH = "cosine_by_epoch"
"""The reference's schedule for M_rank, and ours: a cosine that falls at the end of each epoch, down to 2%."""
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine", BY_EPOCH: BY_EPOCH}
"""Learning-rate schedules by the names of `schedule`, and what transformers calls the others."""


class TrainableModule(ModuleWithProperties, L.LightningModule):
    """A module of which a part trains and the rest, the base, is frozen and never saved."""

    verdicts: ClassVar[Literal["positive", "negative", "both"] | None] = None
    """What it trains on, right or wrong rationales or some of each; None: any. The default of `data.verdicts`."""
    adapters_read: ClassVar[tuple[str, ...]] = ()  # attributes with the directories of adapters that a stage was given
    base_name: str  # as the user named it; `configure_model` sets both
    base_identity: BaseIdentity | None  # of the frozen weights; None where there is nothing frozen to check

    def __init__(self, optimizer: OptimizerCallable, schedule: str, warmup_steps: int) -> None:
        super().__init__()
        if schedule not in SCHEDULES:
            remedy = f"choose one of {', '.join(SCHEDULES)}"
            raise InputError(f"unknown schedule '{schedule}'", field="model.schedule", remedy=remedy)
        self._note_settings()
        self.strict_loading = False  # checkpoints hold what was trained, never the base
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.lr: float | None = None  # what LearningRateFinder found; it looks for this name
        self._step_sums: dict[str, Tensor] = {}  # by name, [2] float64: weighted sum and weight of the optimizer step

    def _note_settings(self) -> None:
        """Keeps the constructor's arguments as plain values, for loggers and for `load_from_checkpoint`.

        The command line gives them so, the optimizer too; what Python gives is written the same way, without it.
        """
        self.save_hyperparameters()
        if "_instantiator" in self.hparams:
            return
        given = {name: value for name, value in self.hparams.items() if name != "optimizer"}
        self.hparams.clear()
        self.save_hyperparameters({**_plain(given), "_instantiator": "lightning.pytorch.cli.instantiate_module"})

    def shard(self, transformer: PreTrainedModel, modules: Iterable[nn.Module]) -> None:
        """Shards, where the strategy is FSDP2's, a transformer, as it is called, and trainable modules outside it."""
        strategy = None if self._trainer is None else self._trainer.strategy
        if not isinstance(strategy, ModelParallelStrategy):
            return
        if not isinstance(strategy, FullyShardedStrategy):
            raise InputError(
                "ModelParallelStrategy alone would write the base into every checkpoint",
                field="trainer.strategy",
                remedy="take lightning_modules.fully_sharded.FullyShardedStrategy, as configs/trainer/fsdp2.yaml does",
            )
        if shapes_only():  # there are no processes
            return
        shard_layers(transformer, strategy.mesh)
        for module in modules:  # each as one group; they must be called, their weights not read from outside
            fully_shard(module, mesh=strategy.mesh, reshard_after_forward=True)
        check_sharded(self)

    def log_step(self, parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
        """Logs `train/<name>` of an optimizer step, over its accumulated batches and all ranks, at its last batch.

        Args:
            parts: Scalars of a batch, the same names on every rank.
            weights: What the batch counts for in each mean; 1 where its sums were divided by `step` (`Denominators`).
        """
        if self._trainer is None:
            return
        for name, value in parts.items():
            weighted = torch.stack([value.detach().double(), value.new_ones((), dtype=torch.float64)]) * weights[name]
            self._step_sums[name] = self._step_sums[name] + weighted if name in self._step_sums else weighted
        if self.trainer.fit_loop._should_accumulate():
            return
        # One exchange between the ranks for all names; NaN where nothing counted.
        totals: Tensor = self.trainer.strategy.reduce(torch.stack(list(self._step_sums.values())), reduce_op="sum")
        for name, value in zip(self._step_sums, totals[:, 0] / totals[:, 1], strict=True):
            self.log(f"train/{name}", value.float(), prog_bar=name == "loss", batch_size=1)
        self._step_sums = {}

    def log_validation(self, name: str, value: Tensor, weight: int) -> None:
        """Logs `val/<name>`, the weighted mean over the epoch's batches of all ranks; a weight of 0 leaves one out."""
        ranks = 1 if self._trainer is None else self.trainer.world_size
        # Lightning averages the sums of weights over the ranks and rounds down: `weight * ranks` is divisible.
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}
        self.log(f"val/{name}", value, prog_bar=name == "loss", batch_size=weight * ranks, **options)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DDP (which asks for this name) need not keep equal: the buffers are constants of the base.

        DDP would broadcast them at every forward, in validation too, where ranks may differ by one batch.
        """
        return [name for name, _ in self.named_buffers()]

    def trained_parts(self) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters, in parts that have a learning rate of their own, each with its factor."""
        return [(list(self.parameters()), 1.0)]

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer over what trains.

        Raises:
            InputError: If its arguments cannot be used, or a learning rate is no rate.
        """
        try:
            parts = self.trained_parts()
            groups = [[p for p in group if p.requires_grad] for group, _ in parts]
            # One part is given as a plain list: some optimizers take nothing else.
            optimizer = self.optimizer(groups[0] if len(groups) == 1 else [{"params": group} for group in groups])
            for group, (_, factor) in zip(optimizer.param_groups, parts, strict=True):
                group["lr"] *= factor
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            if not all(0 < rate < math.inf for rate in rates):
                raise ValueError(f"lr must be finite and above 0, found {rates[0]}")
        except (TypeError, ValueError) as error:  # each optimizer has words of its own
            remedy = "the paper takes AdamW with a learning rate of 3e-4"
            raise InputError(reason(error), field="model.optimizer", remedy=remedy) from error
        return optimizer

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, with a linear warm-up from 0 and then `schedule`."""
        optimizer = self.make_optimizer()
        self._optimizer_settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        steps = int(self.trainer.estimated_stepping_batches)
        if steps <= self.warmup_steps and self.trainer.is_global_zero:
            about = "the learning rate never reaches its full value; lower --model.warmup_steps"
            print(f"{steps:,} steps, {self.warmup_steps:,} of warm-up: {about}", file=sys.stderr)
        if self.schedule == BY_EPOCH:
            self.trainer.fit_loop.setup_data()  # with max_steps alone nothing has counted the batches yet
            an_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
            factor = partial(_cosine_by_epoch, self.warmup_steps, an_epoch, math.ceil(steps / an_epoch))
            scheduler = LambdaLR(optimizer, factor)
        else:
            scheduler = get_scheduler(SCHEDULES[self.schedule], optimizer, self.warmup_steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Applies this run's optimizer settings and schedule where a checkpoint has brought those of its own run.

        So does a learning rate that was searched for.
        """
        for scheduler in [config.scheduler for config in self.trainer.lr_scheduler_configs]:
            if (self.trainer.ckpt_path is None and self.lr is None) or not isinstance(scheduler, LambdaLR):
                continue
            factors = [factor for _, factor in self.trained_parts()]
            groups = zip(
                scheduler.optimizer.param_groups, self._optimizer_settings, scheduler.lr_lambdas, factors, strict=True
            )
            for group, settings, factor, own in groups:
                rate = settings["lr"] = self.lr * own if self.lr else settings["lr"]
                group.update({**settings, "initial_lr": rate, "lr": rate * factor(scheduler.last_epoch)})
            scheduler.base_lrs = [settings["lr"] for settings in self._optimizer_settings]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what trains, drops the base and the frozen adapters."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["base"] = None if self.base_identity is None else self.base_identity.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another base or another adapter shape."""
        found, here = checkpoint.get("base"), self.base_identity
        if found is not None and here is not None and not here.is_same(BaseIdentity.from_json(found)):
            problem = f"the checkpoint was trained on another base than '{self.base_name}': their weights differ"
            raise InputError(problem, remedy="name the base it was trained on, or start over without --ckpt_path")
        state, trained = checkpoint["state_dict"], {n: p for n, p in self.named_parameters() if p.requires_grad}
        differ = trained.keys() ^ state.keys() or {n for n, p in trained.items() if p.shape != state[n].shape}
        if differ:
            problem = f"the checkpoint does not fit this stage ({len(differ)} parameters differ, e.g. {min(differ)})"
            raise InputError(problem, remedy="use the settings it was trained with, or start over without --ckpt_path")


def _plain(value: Any) -> Any:
    """Settings as a config file writes them."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        kind = type(value)
        return (
            own
            if kind.__base__ is object
            else {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": own}
        )
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _cosine_by_epoch(warmup: int, steps_an_epoch: int, epochs: int, step: int) -> float:
    """Factor of the learning rate of torch's `CosineAnnealingLR(T_max=epochs, eta_min=0.02 * lr)`, stepped by epoch."""
    fallen = (1 - math.cos(math.pi * (step // steps_an_epoch) / epochs)) / 2
    return (step / warmup if step < warmup else 1) * (1 - 0.98 * fallen)

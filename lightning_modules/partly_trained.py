"""What every stage shares: an optimizer over the part that trains, and checkpoints of that part alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.base_identity import BaseIdentity
from lightning_modules.components.schedule import warmed_up
from lightning_modules.components.sharding import check_sharded, shard_layers, shard_modules
from lightning_modules.components.step_means import StepMeans
from lightning_modules.fully_sharded import FullyShardedStrategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PartlyTrained(L.LightningModule):
    """A module of which a part trains and the rest, the base, is frozen and never saved.

    Args:
        optimizer: Optimizer of the trainable parameters.
        schedule: Learning-rate schedule after the warm-up: constant, linear or cosine.
        warmup_steps: Steps of linear warm-up from 0.
    """

    def __init__(self, optimizer: OptimizerCallable, schedule: str, warmup_steps: int) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints hold what was trained, never the base
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self._means = StepMeans()

    @abstractmethod
    def base_name(self) -> str:
        """The base as the user named it."""

    @abstractmethod
    def base_identity(self) -> BaseIdentity | None:
        """Of the frozen weights; None where there is nothing frozen to check."""

    @abstractmethod
    def shards(self) -> tuple[PreTrainedModel, list[nn.Module]]:
        """What FSDP2 cuts up: a transformer, as it is called, and the trainable modules outside it."""

    def shard(self) -> None:
        """Cuts up the model that `configure_model` has built, where the strategy is FSDP2's.

        Raises:
            InputError: If this model, or this strategy, cannot.
        """
        strategy = None if self._trainer is None else self._trainer.strategy
        if not isinstance(strategy, ModelParallelStrategy):
            return
        if not isinstance(strategy, FullyShardedStrategy):
            raise InputError(
                "ModelParallelStrategy alone would write the base into every checkpoint",
                field="trainer.strategy",
                remedy="take lightning_modules.fully_sharded.FullyShardedStrategy, as configs/trainer/fsdp2.yaml does",
            )
        transformer, modules = self.shards()
        shard_layers(transformer, strategy.mesh)
        shard_modules(modules, strategy.mesh)
        check_sharded(self)

    def log_step(self, parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
        """Logs `train/<name>` of an optimizer step, over its accumulated batches and all ranks, at its last batch.

        Args:
            parts: Scalars of a batch; divided by `step` (docs/architecture.md) each weighs 1.
            weights: What each counts for.
        """
        if self._trainer is None:
            return
        self._means.add(parts, weights)
        if self.trainer.fit_loop._should_accumulate():
            return
        for name, value in self._means.take(self._summed).items():
            self.log(f"train/{name}", value.float(), prog_bar=name == "loss", batch_size=1)

    def log_validation(self, name: str, value: Tensor, weight: int) -> None:
        """Logs `val/<name>`, the weighted mean over the epoch's batches of all ranks.

        Args:
            name: Of the scalar.
            value: Of a batch.
            weight: What the batch counts for; 0 leaves it out.
        """
        ranks = 1 if self._trainer is None else self.trainer.world_size
        # Lightning averages the weights' sums over the ranks and keeps whole numbers of them: these divide.
        self.log(
            f"val/{name}",
            value,
            on_step=False,
            on_epoch=True,
            prog_bar=name == "loss",
            sync_dist=True,
            batch_size=weight * ranks,
        )

    def _summed(self, values: Tensor) -> Tensor:
        total: Tensor = self.trainer.strategy.reduce(values, reduce_op="sum")
        return total

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DDP (which asks for this name) need not keep equal: the buffers are constants of the base.

        DDP would broadcast them at every forward, in validation too, where ranks may differ by one batch.
        """
        return [name for name, _ in self.named_buffers()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over what trains, and its schedule per step."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = warmed_up(optimizer, self.schedule, self.warmup_steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what trains, drops the base and the frozen adapters."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        here = self.base_identity()
        checkpoint["base"] = None if here is None else here.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another base or another adapter shape.

        Raises:
            InputError: If the checkpoint does not belong to this base and these settings.
        """
        found, here = checkpoint.get("base"), self.base_identity()
        if found is not None and here is not None and not here.is_same(BaseIdentity.from_json(found)):
            raise InputError(
                f"the checkpoint was trained on another base than '{self.base_name()}': their weights differ",
                remedy="name the base it was trained on, or start anew without --ckpt_path",
            )
        state, trained = checkpoint["state_dict"], {n: p for n, p in self.named_parameters() if p.requires_grad}
        wrong = sorted(n for n in trained.keys() ^ state.keys()) or sorted(
            n for n, p in trained.items() if p.shape != state[n].shape
        )
        if wrong:
            raise InputError(
                f"the checkpoint does not fit this stage ({len(wrong)} parameters differ, e.g. {wrong[0]})",
                remedy="use the settings it was trained with, or start anew without --ckpt_path",
            )

"""FSDP2 as a strategy of the Trainer: a base in shares, checkpoints as every other strategy writes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer

from dust2gold.core.errors import InputError
from lightning_modules.components.sharding import share_of, whole


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy with all processes training on data of their own, for `fit` and `validate`.

    The stage cuts itself up in `configure_model` (`PartlyTrained.shard`). Checkpoints hold the whole trainable state,
    in one file of the same form as DDP's: any strategy, and any number of processes, may go on from it.

    Sampling (`test`, `predict`) is refused: every forward pass gathers weights from all processes, and answers of
    different lengths need different numbers of passes.

    Args:
        replicas: How many whole models there are, each cut up over processes that follow one another (HSDP): weights
            move within such a group, gradients between the groups too. null makes one a machine, 1 cuts one over all.
        process_group_backend: nccl, gloo, …; null chooses by the device.
        timeout: How long a process waits for another before it ends with an error.
    """

    def __init__(
        self,
        replicas: int | None = 1,
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self.replicas = replicas

    def setup_environment(self) -> None:
        """Connects the processes and makes a mesh of them all.

        Raises:
            InputError: If they cannot be split into so many groups.
        """
        self._data_parallel_size = world = self.num_nodes * self.num_processes
        replicas = self.num_nodes if self.replicas is None else self.replicas
        if replicas < 1 or world % replicas:
            raise InputError(
                f"{world} processes cannot be split into {replicas} groups of the same size",
                field="trainer.strategy.init_args.replicas",
                remedy="give a number that divides them, or null",
            )
        super().setup_environment()
        self.mesh = self.device_mesh["data_parallel"]
        if replicas > 1:
            shape = (replicas, world // replicas)
            self.mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicas", "shards"))

    def setup(self, trainer: L.Trainer) -> None:
        """As Lightning's.

        Raises:
            InputError: If the Trainer is to sample.
        """
        if trainer.state.fn not in (TrainerFn.FITTING, TrainerFn.VALIDATING):
            raise InputError(
                "a sharded student cannot sample: answers of different lengths would leave processes waiting",
                field="trainer.strategy",
                remedy="take configs/trainer/gpu.yaml or ddp.yaml for test and predict",
            )
        super().setup(trainer)

    # Checkpoints: what trains, whole, by Lightning's usual way and not ModelParallelStrategy's, which gathers the base.

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Before: the training loader, which `setup` makes to count steps, begins where the checkpoint stopped."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The Trainer restores the optimizer, as with other strategies."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What trains, whole, on every process."""
        return {name: whole(p.detach()).cpu() for name, p in self._trainable().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Gives each process its shares."""
        with torch.no_grad():
            for name, parameter in self._trainable().items():
                parameter.copy_(share_of(checkpoint["state_dict"][name], parameter))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an optimizer, whole, on every process."""
        found = optimizer.state_dict()
        state = {number: {k: _whole_cpu(v) for k, v in each.items()} for number, each in found["state"].items()}
        return {**found, "state": state}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives each process its shares."""
        for optimizer, found in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                number: {k: _like(v, parameters[number]) for k, v in each.items()}
                for number, each in found["state"].items()
            }
            optimizer.load_state_dict({**found, "state": state})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Writes one file, on rank 0."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads the whole file on every process."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def _trainable(self) -> dict[str, nn.Parameter]:
        assert self.lightning_module is not None
        return {name: p for name, p in self.lightning_module.named_parameters() if p.requires_grad}


def _whole_cpu(value: Any) -> Any:
    return whole(value).cpu() if isinstance(value, Tensor) else value


def _like(value: Any, parameter: Tensor) -> Any:
    """A moment is cut as its parameter is; a step count belongs to all."""
    cut = isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0
    return share_of(value, parameter) if cut else value

"""FSDP2 for a frozen base with small trainable parts, as a strategy of the Trainer.

    trainer:
      strategy: {class_path: lightning_modules.fully_sharded.FullyShardedStrategy}

Each layer of the transformer is one FSDP2 group: gathered for a pass through it, then freed. Frozen weights outside the
layers (embeddings, output head, final norm) and frozen adapters stay whole on every process, because the output head
reads its matrix without a forward pass and adapters are small. A layer's trainable LoRA belongs to its layer's group:
NAT reads those weights inside the layer and not through their own modules, where FSDP2 would have a hook.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.quantization import quantization_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy, all processes training on data of their own, for `fit` and `validate`.

    The stage shards itself in `configure_model` (`TrainableModule.shard`). A checkpoint is one file with the whole
    trainable state, in the form DDP writes: any strategy and any number of processes can resume from it.

    `test` and `predict` are refused: every forward pass gathers weights from all processes, and answers of different
    lengths need different numbers of passes.

    Args:
        replicas: Number of copies of the model, each sharded over consecutive processes (HSDP): weights are gathered
            within a copy, gradients averaged between copies too. null: one a machine; 1: sharded over all processes.
        timeout: How long a process waits for another before it ends with an error.
    """

    def __init__(self, replicas: int | None = 1, timeout: timedelta = timedelta(minutes=30)) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)
        self.replicas = replicas

    def setup_environment(self) -> None:
        """Connects the processes and makes one mesh of them, of `replicas` groups of the same size."""
        self._data_parallel_size = world = self.num_nodes * self.num_processes
        replicas = self.num_nodes if self.replicas is None else self.replicas
        if replicas < 1 or world % replicas:
            problem = f"{world} processes cannot be split into {replicas} groups of the same size"
            remedy = "give a number that divides them, or null"
            raise InputError(problem, field="trainer.strategy.init_args.replicas", remedy=remedy)
        super().setup_environment()
        self.mesh = self.device_mesh["data_parallel"]
        if replicas > 1:
            shape = (replicas, world // replicas)
            self.mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicas", "shards"))

    def setup(self, trainer: L.Trainer) -> None:
        """Refuses `test` and `predict`."""
        if trainer.state.fn not in (TrainerFn.FITTING, TrainerFn.VALIDATING):
            problem = "a sharded student cannot sample: answers of different lengths would leave processes waiting"
            remedy = "take configs/trainer/gpu.yaml or ddp.yaml for test and predict"
            raise InputError(problem, field="trainer.strategy", remedy=remedy)
        super().setup(trainer)

    # Checkpoints hold what trains, whole, and go Lightning's usual way: ModelParallelStrategy's gathers the base too.

    save_checkpoint = Strategy.save_checkpoint
    load_checkpoint = Strategy.load_checkpoint
    lightning_restore_optimizer = True
    restore_checkpoint_after_setup = False  # `setup` makes the training loader, which starts at the resume position

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What trains, whole, on every process."""
        return {name: whole(p.detach()).cpu() for name, p in self._trainable().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Gives each process its shards."""
        with torch.no_grad():
            for name, parameter in self._trainable().items():
                parameter.copy_(_sharded_like(parameter, checkpoint["state_dict"][name]))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an optimizer, whole, on every process."""
        state: dict[str, Any] = apply_to_collection(optimizer.state_dict(), Tensor, lambda value: whole(value).cpu())
        return state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives each process its shards of the moments; step counts have none."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                number: {
                    name: _sharded_like(parameters[number], value)
                    if isinstance(value, Tensor) and value.dim() and value.shape == parameters[number].shape
                    else value
                    for name, value in moments.items()
                }
                for number, moments in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})

    def _trainable(self) -> dict[str, nn.Parameter]:
        assert self.lightning_module is not None
        return {name: p for name, p in self.lightning_module.named_parameters() if p.requires_grad}


def shard_layers(transformer: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Shards a transformer in place, layer by layer, and what trains outside the layers as one more group.

    The transformer is the module that is called, without an output head. An InputError if it is quantised, or its class
    does not name its layers' classes.
    """
    if quantization_of(transformer) != "none":
        remedy = "take configs/trainer/ddp.yaml with it, or --model.quantization none"
        raise InputError("a quantised base cannot be sharded", field="model.quantization", remedy=remedy)
    names = set(transformer._no_split_modules or ())
    layers = [module for module in transformer.modules() if type(module).__name__ in names]
    if not layers:
        problem = f"cannot tell the layers of {type(transformer).__name__}, so it cannot be sharded"
        remedy = "take configs/trainer/ddp.yaml, or a student of a known architecture"
        raise InputError(problem, field="trainer.strategy", remedy=remedy)
    for layer in layers:
        frozen_adapters = {p for name, p in layer.named_parameters() if ".lora_" in name and not p.requires_grad}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=frozen_adapters)
    frozen = {p for p in transformer.parameters() if not isinstance(p, DTensor) and not p.requires_grad}
    fully_shard(transformer, mesh=mesh, reshard_after_forward=True, ignored_params=frozen)


def check_sharded(module: nn.Module) -> None:
    """Raises a RuntimeError if a trainable parameter is not sharded."""
    outside = [name for name, p in module.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if outside:
        raise RuntimeError(
            f"{len(outside)} trainable parameters stand outside what FSDP2 shards, e.g. {outside[0]}: their gradients "
            "would never be averaged and the processes would drift apart; have `shards` of the stage name their module"
        )


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; if it is sharded, all processes must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _sharded_like(parameter: Tensor, value: Tensor) -> Tensor:
    """This process's shard of a whole tensor that every process holds; all of it where the parameter is whole."""
    if not isinstance(parameter, DTensor):
        return value
    device = parameter.device
    return distribute_tensor(value.to(device), parameter.device_mesh, parameter.placements, src_data_rank=None)


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Runs the block with whole trainable parameters, to be read, not called; all processes enter it together."""
    shards: list[tuple[nn.Module, str, nn.Parameter]] = []
    gathered: dict[nn.Parameter, nn.Parameter] = {}  # tied weights are one parameter in several modules
    try:
        for part in module.modules():
            for name, parameter in list(part.named_parameters(recurse=False, remove_duplicate=False)):
                if isinstance(parameter, DTensor) and parameter.requires_grad:
                    if parameter not in gathered:
                        gathered[parameter] = nn.Parameter(whole(parameter.detach()))
                    shards.append((part, name, parameter))
                    part._parameters[name] = gathered[parameter]
        yield
    finally:
        for part, name, parameter in shards:
            part._parameters[name] = parameter

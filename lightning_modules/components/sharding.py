"""FSDP2 for a frozen base with small trainable parts: who holds which share of which weight.

    shard_layers(model.get_decoder(), mesh)      # a group a layer: gathered for a pass through it, then freed
    shard_modules(units, mesh)                   # trainable modules outside the transformer, each by itself
    check_sharded(module)                        # what trains and is not sharded would never be averaged

Frozen weights outside the layers (embeddings, output head, final norm) and frozen adapters stay whole on every process:
the head reads its matrix without a forward pass, and adapters are small. So all that is gathered is a layer at a time.
A layer's trainable LoRA lies in its layer's group, because NAT reads those weights inside the layer and not through
their own modules, where FSDP would have a hook.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.quantization import quantization_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

_ADAPTER = ".lora_"
"""In the names of PEFT's LoRA parameters."""


def shard_layers(transformer: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Cuts up a transformer in place, layer by layer, and whatever trains outside the layers as one group more.

    Args:
        transformer: The module that is called: a decoder without its output head, or an encoder.
        mesh: Of one dimension, over which weights are cut and gradients averaged; or of two, (copies, cut), for copies
            of the whole that are each cut up (HSDP).

    Raises:
        InputError: If it is quantised, or its class does not say which of its modules are layers.
    """
    if quantization_of(transformer) != "none":
        raise InputError(
            "a quantised base cannot be sharded",
            field="model.quantization",
            remedy="take configs/trainer/ddp.yaml with it, or --model.quantization none",
        )
    names = set(transformer._no_split_modules or ())
    layers = [module for module in transformer.modules() if type(module).__name__ in names]
    if not layers:
        raise InputError(
            f"cannot tell the layers of {type(transformer).__name__}, so it cannot be sharded",
            field="trainer.strategy",
            remedy="take configs/trainer/ddp.yaml, or a student of a known architecture",
        )
    for layer in layers:
        whole = {p for name, p in layer.named_parameters() if _ADAPTER in name and not p.requires_grad}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    fully_shard(
        transformer,
        mesh=mesh,
        reshard_after_forward=True,
        ignored_params={p for p in transformer.parameters() if not isinstance(p, DTensor) and not p.requires_grad},
    )


def shard_modules(modules: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Cuts up modules in place, each by itself; they must be called, not read."""
    for module in modules:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def check_sharded(module: nn.Module) -> None:
    """Makes sure that everything that trains is sharded.

    Raises:
        RuntimeError: If a trainable parameter is not: each process would go on with a gradient of its own.
    """
    outside = [name for name, p in module.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if outside:
        raise RuntimeError(
            f"{len(outside)} trainable parameters stand outside what FSDP2 shards, e.g. {outside[0]}: their gradients "
            "would never be averaged and the processes would drift apart; have `shards` of the stage name their module"
        )


def whole(tensor: Tensor) -> Tensor:
    """A tensor without shares. Of a sharded one all processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor that every process holds; the tensor itself where `like` has no shares."""
    if not isinstance(like, DTensor):
        return tensor
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Runs the block, which may read but not call, with whole trainable parameters; all processes enter it together."""
    shares: list[tuple[nn.Module, str, nn.Parameter]] = []
    made: dict[int, nn.Parameter] = {}  # tied weights are one parameter in several modules
    try:
        for part in module.modules():
            for name, parameter in list(part.named_parameters(recurse=False, remove_duplicate=False)):
                if isinstance(parameter, DTensor) and parameter.requires_grad:
                    if id(parameter) not in made:
                        made[id(parameter)] = nn.Parameter(whole(parameter.detach()))
                    shares.append((part, name, cast(nn.Parameter, parameter)))
                    part._parameters[name] = made[id(parameter)]
        yield
    finally:
        for part, name, parameter in shares:
            part._parameters[name] = parameter

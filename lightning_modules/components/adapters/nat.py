"""NAT on a stack: the frozen negative adapter, the positive one and the integration units between them.

On disk NAT is a directory of two stock PEFT adapters and the units:

    nat/positive/  nat/negative/  nat/units.safetensors  nat/dust2gold.json
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dust2gold.core.errors import InputError, reason
from lightning_modules.components.adapters.manifest import check_weights, read_manifest
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base, shapes_only
from lightning_modules.components.integration.step_batch import StepBatch
from lightning_modules.components.integration.unit import IntegrationUnit, IntegrationVariant
from lightning_modules.components.losses.model_head import decoder_of

POSITIVE, NEGATIVE = "positive", "negative"
UNITS_FILE = "units.safetensors"


@dataclass(frozen=True)
class UnitSettings:
    """Shape of the integration units.

    Attributes:
        key_dim: d_k of the gate (paper: 128).
        bottleneck: Width between W_1 and W_2 (reference: 128).
        delta: Mix s·B z alone, without the base output (reference: false).
        attention: Weigh the branches by the gate (paper: true); false adds both with weight 1, and there is no gate.
        scale_gate: Divide the gate's logits by √d_k, as other attention does (paper: false; true was better on other
            seeds than the study's, docs/study.md).
        lr_factor: The units' learning rate over that of the positive LoRA (reference: 1).
    """

    key_dim: int = 128
    bottleneck: int = 128
    delta: bool = False
    attention: bool = True
    scale_gate: bool = True
    lr_factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuses a factor that is none."""
        if not 0 < self.lr_factor < math.inf:
            raise InputError(f"must be above 0, found {self.lr_factor}", field="model.units.lr_factor")

    @property
    def shape(self) -> dict[str, Any]:
        """What makes a unit, and what its directory keeps of it: all but the learning rate."""
        return {name: value for name, value in asdict(self).items() if name != "lr_factor"}


def attach_units(stack: AdapterStack, settings: UnitSettings) -> nn.ModuleDict:
    """Puts a fresh unit into every layer that holds the positive adapter and returns them, keyed by layer.

    The caller registers the result where parameters are looked for. An InputError if a layer has no negative adapter.
    """
    units = nn.ModuleDict()
    negative_layers = stack.lora_layers(NEGATIVE)
    for path, layer in stack.lora_layers(POSITIVE).items():
        if path not in negative_layers:
            problem = f"M_neg does not adapt layer {path}, the positive adapter does"
            remedy = "train M_neg with the same target modules"
            raise InputError(problem, field="lora.target_modules", remedy=remedy)
        a, b = cast(nn.Linear, layer.lora_A[POSITIVE]), cast(nn.Linear, layer.lora_B[POSITIVE])
        unit = IntegrationUnit(a.in_features, b.out_features, **settings.shape).to(a.weight.device)
        units[path.replace(".", "/")] = unit  # a ModuleDict key holds no dots
        layer.lora_variant[POSITIVE] = IntegrationVariant(unit, NEGATIVE)
    StepBatch(stack.lora_layers(POSITIVE), POSITIVE).attach(decoder_of(stack.base))
    return units


def build_nat(
    stack: AdapterStack,
    negative: str | Path,
    lora: LoraSettings,
    settings: UnitSettings,
    positive: str | Path | None = None,
) -> nn.ModuleDict:
    """A fresh NAT: M_neg frozen, a trainable positive adapter and zero-started units; returns the units.

    The positive adapter is a new one, or starts from that of a directory.
    """
    stack.load(NEGATIVE, negative)
    if positive is None:
        stack.add(POSITIVE, lora)
    else:
        stack.load(POSITIVE, positive, trainable=True)
    return attach_units(stack, settings)


def load_nat(stack: AdapterStack, directory: str | Path, trainable: bool = False) -> nn.ModuleDict:
    """Loads a trained NAT directory: both adapters and the units. Returns the units; NAT is active.

    An InputError if the directory is no NAT, is damaged, or belongs to another student.
    """
    directory = Path(directory)
    file = directory / UNITS_FILE
    manifest = read_manifest(directory)
    if not file.is_file() and not (shapes_only() and manifest.get("kind") == "nat"):
        remedy = "give the directory the NAT stage wrote, e.g. runs/demo/nat/adapter"
        raise InputError(f"no NAT here ({UNITS_FILE} is missing)", file=directory, remedy=remedy)
    stack.load(NEGATIVE, directory / NEGATIVE)
    stack.load(POSITIVE, directory / POSITIVE, trainable=trainable)
    check_weights(directory, manifest)
    try:
        # An adapter that says nothing of its gate's scale was written before there was one.
        units = attach_units(stack, UnitSettings(**{"scale_gate": False, **manifest.get("units", {})}))
        if file.is_file():
            units.load_state_dict(load_file(file))
    except (OSError, RuntimeError, SafetensorError, TypeError) as error:
        raise InputError(f"damaged or foreign units ({reason(error)})", file=file, remedy="train NAT again") from error
    units.requires_grad_(trainable)
    return units


def open_nat(directory: str | Path, student: str | None = None, dtype: str = "float32") -> AdapterStack:
    """Loads a trained NAT with its base, to call or to sample from: `open_nat("runs/demo/nat/adapter").model`.

    The stack is in evaluation mode, NAT active, the units its submodule `units`.

    Args:
        directory: What the NAT stage wrote.
        student: The base, if it is not to be found under the name it was trained by.
        dtype: Of the base's weights.
    """
    name = student or str(read_manifest(Path(directory)).get("student", ""))
    stack = AdapterStack(load_base(name, dtype), name)
    stack.units = load_nat(stack, directory)
    return stack.eval()


def save_nat(stack: AdapterStack, units: nn.ModuleDict, directory: Path) -> None:
    """Writes NAT into an empty directory."""
    unit = cast(IntegrationUnit, next(iter(units.values())))
    settings = UnitSettings(unit.key_dim, unit.down.out_features, unit.delta, unit.gate is not None, unit.scale_gate)
    for name in (POSITIVE, NEGATIVE):
        (directory / name).mkdir()
        stack.save(name, directory / name)
    if not shapes_only():
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in units.state_dict().items()}
        save_file(state, directory / UNITS_FILE)
    stack.write_manifest(directory, {"kind": "nat", "units": settings.shape})

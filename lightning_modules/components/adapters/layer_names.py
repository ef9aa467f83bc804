"""The names of the layers that LoRA adapts: chosen by the user, or read in a stock adapter's config."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence

from peft import LoraConfig
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_CHOICE
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN as FAMILIES_OF_EXPERTS  # type: ignore[attr-defined]
from peft.utils.transformers_weight_conversion import _MOE_TARGET_MODULE_MAPPING as EXPERTS
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dust2gold.core.errors import InputError
from lightning_modules.components.losses.model_head import decoder_of

_ADAPTED = re.compile(r"base_model\.model\.(.+)\.lora_(embedding_)?[AB](\.weight)?")
_PLAIN = re.compile(r"[\w.^$\\-]*")
_PAPERS = ("q_proj", "v_proj")


def choose_layers(base: PreTrainedModel, targets: Sequence[str] | str) -> list[str]:
    """The names of the layers to adapt, from `LoraSettings.target_modules`.

    Raises:
        InputError: If the student lacks one of those named.
    """
    decoder = set(decoder_of(base).modules())  # the head is not in it
    layers = ((p, m) for p, m in base.named_modules() if m in decoder and isinstance(m, (nn.Linear, Conv1D)))
    plain = (path for path, m in layers if "router" not in type(m).__name__.lower())  # which return more than W x
    found = [path.removesuffix(".base_layer") for path in plain if ".lora_" not in path]
    linear = sorted({name for path in found if _can_adapt(base, name := _short(path))})
    paths = [f".{path}" for path in found]

    def missing(names: Sequence[str]) -> list[str]:
        return [name for name in names if not any(path.endswith(f".{name}") for path in paths)]

    absent = missing(targets) if tuple(targets) == _PAPERS else []
    if targets == "auto" or absent:
        usual = PEFT_CHOICE.get(base.config.model_type) or []
        chosen = linear if missing(usual) or not usual else list(usual)
        if absent:
            named = f"the student has no {' and '.join(absent)}: LoRA adapts {', '.join(chosen)}"
            print(f"{named} (lora.target_modules auto)", file=sys.stderr)
        return chosen
    if targets == "all-linear":
        return linear
    if isinstance(targets, str) or missing(targets):
        name = targets if isinstance(targets, str) else missing(targets)[0]
        problem = f"the student has no layer '{name}' that LoRA could adapt"
        remedy = f"its linear layers are {', '.join(linear)}; all-linear takes them all"
        raise InputError(problem, field="lora.target_modules", remedy=remedy)
    return list(targets)


def _short(path: str) -> str:
    """The last part of a layer's path, with the one before it where it is but a number."""
    *before, last = path.split(".")
    return f"{before[-1]}.{last}" if last.isdigit() and before else last


def _can_adapt(base: PreTrainedModel, name: str) -> bool:
    """Whether PEFT takes linear layers of that name: it takes experts' weights for some, and refuses Mamba's last."""
    model_type = base.config.model_type
    experts = EXPERTS.get(FAMILIES_OF_EXPERTS.get(model_type, ""), {})
    try:
        _check_lora_target_modules_mamba(LoraConfig(), base, name)
    except ValueError:
        return False
    return name not in experts


def name_layers(config: LoraConfig, weights: Iterable[str]) -> None:
    """Replaces a regular expression for the target modules by the layers that there are weights of.

    A ValueError if an expression is left that repeats or chooses: a hostile one could take years to match.
    """
    if isinstance(config.target_modules, str):
        config.target_modules = sorted({found[1] for name in weights if (found := _ADAPTED.fullmatch(name))})
        config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    layers = config.layers_pattern
    for patterns in (
        [config.exclude_modules] if isinstance(config.exclude_modules, str) else [],
        [layers] if isinstance(layers, str) else layers or [],
        config.rank_pattern or {},
        config.alpha_pattern or {},
    ):
        for pattern in patterns:
            if not _PLAIN.fullmatch(pattern):
                raise ValueError(f"its config holds the regular expression {pattern!r}, where only names are read")

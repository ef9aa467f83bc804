"""The names of the layers that LoRA adapts: chosen by the user, or read in a stock adapter's config."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence

from peft import LoraConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_CHOICE
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dust2gold.core.errors import InputError

_ADAPTED = re.compile(r"base_model\.model\.(.+)\.lora_(embedding_)?[AB](\.weight)?")
_PLAIN = re.compile(r"[\w.^$\\-]*")
_PAPERS = ("q_proj", "v_proj")


def choose_layers(base: PreTrainedModel, targets: Sequence[str] | str) -> list[str]:
    """The names of the layers to adapt, from `LoraSettings.target_modules`.

    Raises:
        InputError: If the student lacks one of those named.
    """
    modules = ((path, m) for path, m in base.get_decoder().named_modules() if ".lora_" not in path)
    found = (path.removesuffix(".base_layer") for path, m in modules if isinstance(m, (nn.Linear, Conv1D)))
    linear = sorted({path.rpartition(".")[2] for path in found})  # also where another LoRA is on the student already
    paths = [f".{path}" for path, _ in base.named_modules()]

    def missing(names: Sequence[str]) -> list[str]:
        return [name for name in names if not any(path.endswith(f".{name}") for path in paths)]

    absent = tuple(targets) == _PAPERS and missing(targets) == list(_PAPERS)
    if targets == "auto" or absent:
        usual = PEFT_CHOICE.get(base.config.model_type) or []
        chosen = linear if missing(usual) or not usual else list(usual)
        if absent:
            named = f"the student has no {' and '.join(_PAPERS)}: LoRA adapts {', '.join(chosen)}"
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

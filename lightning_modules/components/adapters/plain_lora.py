"""Which of PEFT's settings and layers leave a LoRA what NAT mixes and what merges: W₀x + s B A x, W₀ frozen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields

from peft import LoraConfig
from peft.tuners.lora.layer import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from dust2gold.core.errors import InputError

PASSED_ON = frozenset(
    {"alpha_pattern", "exclude_modules", "init_lora_weights", "layers_pattern", "layers_to_transform", "rank_pattern"}
)
"""Settings that `LoraSettings.peft_settings` takes."""
_OURS = {"r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "fan_in_fan_out", "inference_mode"}
_RECORDS = {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
_OF_WEIGHTS = (True, False, "gaussian", "orthogonal")  # the others change the base
_BASE = "it would change the base, which all adapters share"
_REASONS = {
    "init_lora_weights": f"{_BASE}; gaussian and orthogonal do not",
    "use_dora": "DoRA scales the whole layer, and NAT mixes sums",
    "bias": _BASE,
    "lora_bias": "NAT and our export know no bias beside B A x",
    "modules_to_save": _BASE,
    "trainable_token_indices": _BASE,
    "target_parameters": "it adapts weights that are no linear layer's",
    "layer_replication": _BASE,
}


def check_settings(config: LoraConfig) -> None:
    """Refuses, with an InputError, settings that make more of a LoRA than W₀x + s B A x, or change W₀."""
    for each in fields(config):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        value = getattr(config, each.name)
        allowed = each.name in PASSED_ON | _OURS | _RECORDS
        if each.name == "init_lora_weights":
            allowed = value in _OF_WEIGHTS
        if not allowed and value and value != default:
            why = _REASONS.get(each.name, "the layer would be more than a sum with B A x")
            problem = f"no LoRA with {each.name} {value} here: {why}"
            raise InputError(problem, field=each.name, remedy="leave it out, or take a plain LoRA")


def check_layers(layers: Iterable[tuple[str, nn.Module]], embeddings: Iterable[nn.Module | None]) -> None:
    """Refuses, with an InputError, LoRA on anything but a linear layer, or on one that shares its weights.

    Embeddings and the output head may be tied, to each other at least: merging would change both.
    """
    special, adapted = list(embeddings), dict[int, str]()  # by weight
    for path, layer in layers:
        if isinstance(layer, LoraLayer):
            base = layer.get_base_layer()
            ends = any(layer is each or base is each for each in special)
            what = "the embeddings or the output head, which may share weights" if ends else type(base).__name__
            other = adapted.setdefault(id(getattr(base, "weight", base)), path)
            if ends or other != path or not isinstance(base, (nn.Linear, Conv1D)):
                what = what if other == path else f"of the same weights as '{other}'"
                problem = f"LoRA on '{path}' cannot be mixed or merged: it is {what}"
                remedy = "adapt linear layers of the decoder: all-linear takes them all"
                raise InputError(problem, field="lora.target_modules", remedy=remedy)

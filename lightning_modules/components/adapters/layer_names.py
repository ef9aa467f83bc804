"""The layers that a stock adapter's config names: a hostile regular expression could take years to match."""

from __future__ import annotations

import re
from collections.abc import Iterable

from peft import LoraConfig

_ADAPTED = re.compile(r"base_model\.model\.(.+)\.lora_(embedding_)?[AB](\.weight)?")
_PLAIN = re.compile(r"[\w.^$\\-]*")


def name_layers(config: LoraConfig, weights: Iterable[str]) -> None:
    """Replaces a regular expression for the target modules by the layers that there are weights of.

    A ValueError if an expression is left that repeats or chooses.
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

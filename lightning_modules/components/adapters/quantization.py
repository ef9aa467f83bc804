"""A base in 8 or 4 bits a weight, by bitsandbytes (QLoRA, Dettmers et al. 2023): the linear layers of the decoder.

Embeddings, norms and the output head stay as they are, adapters are in float32. Such a base trains and samples; it is
not merged into: what was trained on it is merged into the original weights.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch

from dust2gold.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn
    from transformers import BitsAndBytesConfig

Quantization = Literal["none", "8bit", "4bit"]


def quantization_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """What `from_pretrained` takes, with `dtype` for the products of a 4-bit layer and for what is not quantised.

    An InputError if the name is unknown, or bitsandbytes is not installed.
    """
    if quantization == "none":
        return None
    if quantization not in ("8bit", "4bit"):
        remedy = "choose one of none, 8bit, 4bit"
        raise InputError(f"unknown quantization '{quantization}'", field="model.quantization", remedy=remedy)
    if find_spec("bitsandbytes") is None:
        remedy = "pip install 'dust2gold[quantization]', or --model.quantization none"
        raise InputError("bitsandbytes is not installed", field="model.quantization", remedy=remedy)
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":  # LLM.int8
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(  # NF4, its constants quantised again
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def quantization_of(base: nn.Module) -> Quantization:
    """How a loaded base, or its decoder, is quantised."""
    settings = getattr(getattr(base, "config", None), "quantization_config", None)
    if getattr(settings, "load_in_8bit", False):
        return "8bit"
    return "4bit" if getattr(settings, "load_in_4bit", False) else "none"


def keep_differentiable(base: nn.Module) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    It does so at the first pass without gradient, e.g. in validation, and passes after it silently give no gradient.
    """
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]

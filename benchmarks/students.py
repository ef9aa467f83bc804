"""Random-weight students of well-known shapes, and copies of them that share one set of weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 6,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
        "max_position_embeddings": 8192, "rope_theta": 100000.0,
    },
    "llama7b": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
    },
    "tiny": {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    },
}  # fmt: skip
"""`smollm2` is SmolLM2-135M with 6 of its 30 layers, `llama7b` LLaMA-7B, `tiny` for tests."""


def build_student(shape: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal LM of one of `SHAPES` with random, frozen weights, made on its device."""
    config = LlamaConfig(**SHAPES[shape], pad_token_id=0, dtype=dtype)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    return model.requires_grad_(False)


def sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules that refers to the same parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def flops_per_token(shape: str, sequence: int) -> float:
    """Floating-point operations per token that training needs on a frozen base, adapters left out.

    Two per weight in the forward pass and two in the backward pass (no gradients of the frozen weights: 4, not the
    usual 6), output head included; causal attention 2·T·d a layer forward and twice that backward.
    """
    s: dict[str, int] = SHAPES[shape]
    width, heads, layers = s["hidden_size"], s["num_attention_heads"], s["num_hidden_layers"]
    keys = 2 * width * width * s["num_key_value_heads"] // heads
    layer = 2 * width * width + keys + 3 * width * s["intermediate_size"]
    weights = layers * layer + s["vocab_size"] * width
    return 4 * weights + 6 * layers * sequence * width


def peak_flops(device: str) -> float | None:
    """Dense bf16 FLOP/s of the device by its maker's data sheet; None where we know none."""
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}

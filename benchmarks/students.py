"""Random-weight students of well-known shapes, and copies of them that share one set of weights."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from benchmarks.harness import Timing, arguments
from datamodules.components.batching.collate import target_positions
from lightning_modules.components.losses.targets import IGNORE

_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
)
_SIZES = {  # in the order of _FIELDS
    "smollm2": (49152, 576, 1536, 6, 9, 3, 8192),  # SmolLM2-135M with 6 of its 30 layers
    "llama7b": (32000, 4096, 11008, 32, 32, 32, 4096),
    "tiny": (300, 32, 64, 2, 4, 2, 256),  # for tests
}
SHAPES: dict[str, dict[str, Any]] = {name: dict(zip(_FIELDS, sizes, strict=True)) for name, sizes in _SIZES.items()}
SHAPES["smollm2"] |= {"tie_word_embeddings": True, "rope_theta": 100000.0}


def student_arguments(description: str, batch: int | None = 4) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark and those of the student, its device and its batches."""
    parser = arguments(description)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="smollm2", help="the student's shape")
    parser.add_argument("--layers", type=int, help="decoder layers (default: the shape's own)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="base and autocast")
    parser.add_argument("--batch", type=int, default=batch, help="rows")
    parser.add_argument("--sequence", type=int, default=256, help="tokens a row")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--compile", action="store_true", help="torch.compile the decoder layers")
    return parser


def autocast(options: argparse.Namespace) -> AbstractContextManager[object]:
    """The context of the forward passes: autocast to `--dtype`, or none in float32."""
    if options.dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(options.device).type, getattr(torch, options.dtype))


def build_student(
    shape: str, device: str = "cpu", dtype: torch.dtype = torch.float32, layers: int | None = None
) -> PreTrainedModel:
    """A causal LM of one of `SHAPES` (with another number of `layers`) with random, frozen weights."""
    config = LlamaConfig(**SHAPES[shape], pad_token_id=0, dtype=dtype)
    config.num_hidden_layers = layers or config.num_hidden_layers
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.requires_grad_(False)  # type: ignore[no-any-return]


def random_batch(
    model: PreTrainedModel, rows: int, length: int, prompt: int = 0, packed: bool = False
) -> dict[str, Tensor]:
    """[B, T] tokens without padding on the model's device; all after the first `prompt` of a row are targets.

    `packed` rows, here of one sample each, go through compiled layers where there are some.
    """
    ids = torch.randint(3, model.config.vocab_size, (rows, length))
    labels = ids.clone()
    labels[:, :prompt] = IGNORE
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    batch["targets"] = target_positions(labels)
    if packed:
        batch["position_ids"] = torch.arange(length).expand(rows, -1)
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules that refers to the same parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def flops_per_token(model: PreTrainedModel, sequence: int) -> float:
    """Floating-point operations per token that training needs on a frozen base as it was built, adapters left out.

    Two per weight in the forward pass and two in the backward pass (no gradients of the frozen weights: 4, not the
    usual 6), output head included; causal attention 2·T·d a layer forward and twice that backward.
    """
    c = model.config
    width, heads, layers = c.hidden_size, c.num_attention_heads, c.num_hidden_layers
    keys = 2 * width * width * c.num_key_value_heads // heads
    layer = 2 * width * width + keys + 3 * width * c.intermediate_size
    weights = layers * layer + c.vocab_size * width
    return float(4 * weights + 6 * layers * sequence * width)


def rates_of(
    found: Mapping[str, Timing], model: PreTrainedModel, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """What `rate_of` says of each variant; prints it, too."""
    rates = {name: rate_of(timing, model, options) for name, timing in found.items()}
    for name, rate in rates.items():
        mfu = f", MFU {rate['mfu']:.3f}" if "mfu" in rate else ""
        print(f"{name}: {rate['tokens_per_second']:.0f} tokens/s{mfu}")
    return rates


def rate_of(timing: Timing, model: PreTrainedModel, options: argparse.Namespace) -> dict[str, float]:
    """Tokens per second and, on a GPU of `PEAKS`, MFU: the base model's work over the GPU's peak."""
    speed = options.batch * options.sequence / timing.median
    gpu = torch.cuda.get_device_name(options.device) if torch.device(options.device).type == "cuda" else ""
    peak = next((peak for part, peak in PEAKS.items() if part in gpu), None)
    mfu = {} if peak is None else {"mfu": round(speed * flops_per_token(model, options.sequence) / peak, 4)}
    return {"tokens_per_second": round(speed, 1), **mfu}


PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bf16 FLOP/s by the makers' data sheets."""

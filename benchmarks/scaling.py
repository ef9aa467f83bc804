"""The model of memory and time behind docs/scaling.md: 1B, 7B and 70B students on 1 to 512 GPUs, 10^8 samples.

    python -m benchmarks.scaling            # prints the tables of docs/scaling.md

Counts of parameters, state and saved numbers are formulas that `tests/benchmarks/test_scaling.py` holds against real
modules; costs of data were measured (`python -m benchmarks.data_scale`); `ASSUMED` are guesses, for want of a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.harness import show
from benchmarks.students import SHAPES, flops_per_token
from lightning_modules.components.head import CUDA_CHUNK_BYTES

GB = 1e9
STUDENTS = {"1B": "llama1b", "7B": "llama7b", "70B": "llama70b"}
METHODS = ("LoRA", "NAT", "NCE, cached", "NCE, online")
GPUS = (1, 8, 64, 512)
SAMPLES = 1e8
TOKENS = 330.0
"""Of a sample, prompt and EOS included: as in `benchmarks.data_scale`."""

MEASURED = {
    "prepare, by strings": (51e-6, 121.0),
    "read and encode, each rank": (297e-6, 2140.0),
    "plan an epoch": (0.47e-6, 122.0),
    "plan an epoch, packing": (3.3e-6, 138.0),
    "index of cached teachers": (1.7e-6, 255.0),
    "the file itself": (0.0, 902.0),
}
"""Seconds and bytes a sample, of one process on one core of an AMD EPYC."""


@dataclass(frozen=True)
class Assumed:
    """What no machine of ours could measure.

    Attributes:
        mfu: Share of the data sheet's FLOP/s that a step reaches.
        peak: FLOP/s of a GPU, dense bf16 (H100, data sheet).
        memory: Of a GPU, bytes.
        within: Bytes a second of a GPU to the others of its node.
        between: Bytes a second of a GPU to those of other nodes.
        node: GPUs of a node.
        tokens: Of a GPU's batch.
    """

    mfu: float = 0.40
    peak: float = 989e12
    memory: float = 80 * GB
    within: float = 300 * GB
    between: float = 40 * GB
    node: int = 8
    tokens: int = 8192


ASSUMED = Assumed()


@dataclass(frozen=True)
class Adapted:
    """A student with the paper's adapters, LoRA r on q_proj and v_proj, and NAT's units.

    Attributes:
        shape: A key of `SHAPES`.
        r: Rank.
        h: The units' bottleneck.
        key_dim: d_k of their gates.
    """

    shape: str
    r: int = 8
    h: int = 128
    key_dim: int = 128

    @property
    def width(self) -> int:
        """D."""
        return int(SHAPES[self.shape]["hidden_size"])

    @property
    def layers(self) -> int:
        """Of the decoder."""
        return int(SHAPES[self.shape]["num_hidden_layers"])

    @property
    def keys(self) -> int:
        """Width of the keys and of the values."""
        shape = SHAPES[self.shape]
        return self.width * int(shape["num_key_value_heads"]) // int(shape["num_attention_heads"])

    @property
    def base(self) -> int:
        """Parameters of the frozen base: layers, norms, embedding, and output head where it is not the embedding."""
        shape, d = SHAPES[self.shape], self.width
        layer = 2 * d * d + 2 * d * self.keys + 3 * d * int(shape["intermediate_size"]) + 2 * d
        tables = 1 if shape.get("tie_word_embeddings") else 2
        return self.layers * layer + tables * int(shape["vocab_size"]) * d + d

    @property
    def lora(self) -> int:
        """Parameters of one adapter: r (d_in + d_out) of q_proj and of v_proj in each layer."""
        return self.layers * self.r * (2 * self.width + self.width + self.keys)

    @property
    def units(self) -> int:
        """Parameters of NAT's units: d_k (d_in + d_out) for the gate and 2 h d_out, of q_proj and v_proj, a layer."""
        d, keys = self.width, self.keys
        return self.layers * (self.key_dim * (3 * d + keys) + 2 * self.h * (d + keys))

    def trained(self, method: str) -> int:
        """Parameters that a method trains."""
        return self.lora + (self.units if method == "NAT" else 0)

    def frozen(self, method: str) -> int:
        """Parameters of frozen adapters it needs at every step: M_neg for NAT, NAT whole for NCE without a cache."""
        return {"NAT": self.lora, "NCE, online": 2 * self.lora + self.units}.get(method, 0)

    def saved(self, method: str) -> int:
        """Numbers a token and layer that the forward pass keeps for the backward pass, without checkpointing.

        The inputs of both norms, q, k, v and what attention gives (4 d + 2 keys), three of the MLP's width; d and 2 r
        for LoRA; of NAT's units h + 3 r + 1 for each of two layers.
        """
        own = 4 * self.width + 2 * self.keys + 3 * int(SHAPES[self.shape]["intermediate_size"])
        return own + self.width + 2 * self.r + (2 * (self.h + 3 * self.r + 1) if method == "NAT" else 0)

    def flops(self, method: str) -> float:
        """A token of a training step: base and attention (`flops_per_token`), adapters, and the teachers' passes.

        LoRA costs 3 passes of 2 FLOP a weight, M_neg's forward pass one; a teacher's pass is half of base and head.
        """
        base = flops_per_token(self.shape, int(TOKENS))
        passes = {"NCE, online": base}.get(method, 0.0)  # M_NAT and M_neg, forward alone: half of `base` each
        units = 6 * self.layers * 3 * self.h * (self.width + self.keys) if method == "NAT" else 0
        return base + passes + 6 * self.trained("LoRA") + 2 * self.frozen(method) + units


def memory(student: Adapted, method: str, shards: int) -> float:
    """Bytes of a GPU with gradient checkpointing.

    The base (bf16) over `shards`, 16 bytes a trained parameter (fp32: weight, gradient, AdamW's moments), frozen
    adapters in fp32, a layer's input a layer and token, one layer's saved numbers, the gradient of the last hidden
    states, and the head's buffers of logits.
    """
    tokens = ASSUMED.tokens
    state = 16 * student.trained(method) / shards + 4 * student.frozen(method) / shards
    activations = 2 * tokens * (student.width * (student.layers + 1) + student.saved(method))
    gathered = 0 if shards == 1 else 2 * 2 * student.base / student.layers  # two layers whole: one used, one under way
    head = 4 * tokens * student.width + 3 * CUDA_CHUNK_BYTES
    return 2 * student.base / shards + state + activations + gathered + head


def step_seconds(student: Adapted, method: str, gpus: int, shards: int = 1) -> tuple[float, float]:
    """Seconds that a step computes, and that it moves data, of a batch of `ASSUMED.tokens` on each GPU.

    Cut over `shards` GPUs (FSDP2), the base is gathered in bf16 twice (forward and, checkpointed, backward), and
    gradients and weights of what trains are scattered and gathered. The gpus / shards copies of the whole sum up their
    gradients: 2 (n − 1)/n of 4 bytes each, of a GPU's share.
    """
    compute = ASSUMED.tokens * student.flops(method) / (ASSUMED.mfu * ASSUMED.peak)
    copies, trained = gpus // shards, student.trained(method)
    cut = 2 * (shards - 1) / shards * (2 * student.base + 4 * trained)
    summed = 2 * (copies - 1) / copies * 4 * trained / shards
    return compute, cut / _speed_among(shards) + summed / _speed_among(gpus)


def _speed_among(gpus: int) -> float:
    return ASSUMED.within if gpus <= ASSUMED.node else ASSUMED.between


def epoch_hours(student: Adapted, method: str, gpus: int, shards: int = 1) -> float:
    """Hours for `SAMPLES` samples once; moving overlaps with computing, so the longer of both counts."""
    steps = SAMPLES * TOKENS / (ASSUMED.tokens * gpus)
    return steps * max(step_seconds(student, method, gpus, shards)) / 3600


def checkpoint_bytes(student: Adapted, method: str) -> float:
    """Trained weights and AdamW's two moments in fp32; the base is never in it."""
    return 12 * student.trained(method)


def cache_bytes(student: Adapted, targets: float = 0.7 * TOKENS) -> float:
    """A cached teacher's file for `SAMPLES`: d fp16 numbers and 4 bytes more a target, 28 bytes of head a sample."""
    return SAMPLES * (targets * (2 * student.width + 4) + 28)


def main() -> None:
    """Prints the tables."""
    students = {name: Adapted(shape) for name, shape in STUDENTS.items()}
    show(["student", "base", "LoRA r = 8", "NAT's units", "base bf16", "checkpoint LoRA", "checkpoint NAT",
          "teacher cache, 10⁸"], [
        [name, f"{s.base / 1e9:.2f} B", f"{s.lora / 1e6:.1f} M", f"{s.units / 1e6:.0f} M", f"{2 * s.base / GB:.1f} GB",
         f"{checkpoint_bytes(s, 'LoRA') / GB:.2f} GB", f"{checkpoint_bytes(s, 'NAT') / GB:.1f} GB",
         f"{cache_bytes(s) / 1e12:.0f} TB"]
        for name, s in students.items()
    ])  # fmt: skip
    print()
    _by_method(students, "GB a GPU", (1, 8, 64), lambda s, m, n: f"{memory(s, m, n) / GB:.1f}", "whole", "over")
    print()
    rows = [
        [name, str(gpus), *(_speed(s, gpus, shards) for shards in (1, gpus, min(gpus, ASSUMED.node)))]
        for name, s in students.items()
        for gpus in GPUS
    ]
    show(["NAT: compute, move (ms); 10⁸ samples", "GPUs", "DDP", "FSDP2 over all", "FSDP2 in each node"], rows)
    print()
    show(["one process", "10⁶ samples", "10⁷", "10⁸"], list(_data()))


def _by_method(
    students: dict[str, Adapted], what: str, shards: Iterable[int], cell: Callable[[Adapted, str, int], str],
    whole: str, over: str,
) -> None:  # fmt: skip
    heading = [what, "base", *METHODS]
    body = [
        [name, whole if n == 1 else f"{over} {n}", *(cell(s, method, n) for method in METHODS)]
        for name, s in students.items()
        for n in shards
    ]
    show(heading, body)


def _speed(student: Adapted, gpus: int, shards: int) -> str:
    if memory(student, "NAT", shards) > ASSUMED.memory:
        return "does not fit"
    compute, move = (1000 * seconds for seconds in step_seconds(student, "NAT", gpus, shards))
    return f"{compute:,.0f}, {move:,.0f}; {epoch_hours(student, 'NAT', gpus, shards):,.1f} h"


def _data() -> Iterable[list[str]]:
    for name, (seconds, size) in MEASURED.items():
        yield [name, *(_cost(count * seconds, count * size) for count in (1e6, 1e7, 1e8))]


def _cost(seconds: float, size: float) -> str:
    time = f"{seconds / 3600:.1f} h, " if seconds > 3600 else f"{seconds:.0f} s, " if seconds else ""
    return time + (f"{size / GB:,.1f} GB" if size >= GB else f"{size / 1e6:,.0f} MB")


if __name__ == "__main__":
    argparse.ArgumentParser(description="Prints the tables of docs/scaling.md.").parse_args()
    main()

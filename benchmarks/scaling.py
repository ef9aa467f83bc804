"""The model of memory and time behind docs/scaling.md: 1B, 7B and 70B students on 1 to 512 GPUs, 10^8 samples.

    python -m benchmarks.scaling            # prints the tables of docs/scaling.md

Counts of parameters, state and saved numbers are formulas that `tests/benchmarks/test_scaling.py` holds against real
modules; costs of data were measured (`python -m benchmarks.data_scale`); `ASSUMED` are guesses, for want of a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.harness import show
from benchmarks.students import SHAPES, flops_per_token
from lightning_modules.components.losses.output_head import CUDA_CHUNK_BYTES

GB = 1e9
STUDENTS = {"1B": "llama1b", "7B": "llama7b", "70B": "llama70b"}
METHODS = ("LoRA", "NAT", "NCE, cached", "NCE, online")
GPUS = (1, 8, 64, 512)
ROWS = (64, 128)
"""Samples decoded at a time: `model.sampling.rows`, and twice that."""
SAMPLES = 1e8
TOKENS = 330.0
"""Of a sample, prompt and EOS included: as in `benchmarks.data_scale`."""

MEASURED = {
    "prepare, by strings": (51e-6, 121.0),
    "read and encode, each rank": (297e-6, 2140.0),
    "encode once, to map": (413e-6, 153.0),
    "map, each rank": (0.87e-6, 48.0),
    "plan an epoch": (0.47e-6, 122.0),
    "plan an epoch, packing": (3.3e-6, 138.0),
    "index of cached teachers": (1.7e-6, 255.0),
    "RANK's pairs, each rank": (400e-6, 4950.0),
    "records to score, each rank": (380e-6, 3920.0),
    "questions, each rank": (420e-6, 2010.0),
    "joining samples, rank 0": (18e-6, 2550.0),
    "samples to vote, each rank": (97e-6, 1700.0),
    "the file itself": (0.0, 902.0),
}
"""Seconds and bytes a sample, of one process on one core of an AMD EPYC."""


@dataclass(frozen=True)
class Assumed:
    """What no machine of ours could measure.

    Attributes:
        reached: Share of the data sheet's FLOP/s that products reach, those of recomputation among them (MFU, as
            docs/performance.md counts it, leaves them out and is smaller).
        peak: FLOP/s of a GPU, dense bf16 (H100, data sheet).
        memory: Of a GPU, bytes.
        bandwidth: Bytes a second of a GPU's memory, three quarters of the data sheet's.
        within: Bytes a second of a GPU to the others of its node.
        between: Bytes a second of a GPU to those of other nodes.
        node: GPUs of a node.
        tokens: Of a GPU's batch.
        targets: Share of a sample's tokens that are targets, or, in sampling, written.
        samples: Of a question, in sampling: so many share a prefill.
        longest: Positions of the key-value cache: the longest row's, in which all others lie too.
        host_lora: Seconds a layer that Python takes to start one token's kernels, LoRA.
        host_nat: The same of NAT. Both are CPU time of `nat_step`'s decode on layers of 32 features.
    """

    reached: float = 0.40
    peak: float = 989e12
    memory: float = 80 * GB
    bandwidth: float = 2.5e12
    within: float = 300 * GB
    between: float = 40 * GB
    node: int = 8
    tokens: int = 8192
    targets: float = 0.7
    samples: int = 8
    longest: int = 600
    host_lora: float = 0.75e-3
    host_nat: float = 1.4e-3


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
    def linear(self) -> int:
        """Weights of a layer's products."""
        d = self.width
        return 2 * d * d + 2 * d * self.keys + 3 * d * int(SHAPES[self.shape]["intermediate_size"])

    @property
    def outside(self) -> int:
        """Parameters of the base outside its layers: embedding, output head where it is another table, last norm."""
        shape = SHAPES[self.shape]
        tables = 1 if shape.get("tie_word_embeddings") else 2
        return tables * int(shape["vocab_size"]) * self.width + self.width

    @property
    def inside(self) -> int:
        """Parameters of the base's layers, norms included."""
        return self.layers * (self.linear + 2 * self.width)

    @property
    def base(self) -> int:
        """Parameters of the frozen base."""
        return self.inside + self.outside

    @property
    def head(self) -> int:
        """FLOP a token of one product with the output head."""
        return 2 * int(SHAPES[self.shape]["vocab_size"]) * self.width

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

    def frozen(self, method: str) -> tuple[int, int]:
        """Parameters of frozen adapters and units at every step: M_neg for NAT, NAT whole for NCE without a cache."""
        return {"NAT": (self.lora, 0), "NCE, online": (2 * self.lora, self.units)}.get(method, (0, 0))

    def saved(self, method: str) -> int:
        """Numbers a token and layer that the forward pass keeps for the backward pass, without checkpointing.

        The inputs of both norms, q, k, v and what attention gives (4 d + 2 keys), three of the MLP's width; d and 2 r
        for LoRA; of NAT's units h + 3 r + 1 for each of two layers.
        """
        own = 4 * self.width + 2 * self.keys + 3 * int(SHAPES[self.shape]["intermediate_size"])
        return own + self.width + 2 * self.r + (2 * (self.h + 3 * self.r + 1) if method == "NAT" else 0)

    def saved_bytes(self, method: str) -> int:
        """Bytes a token and layer under bf16-mixed: norms keep float32 copies, 6 d bytes more than 2 a number."""
        return 2 * self.saved(method) + 6 * self.width

    def forward(self, method: str, sequence: float = TOKENS) -> float:
        """FLOP a token of a forward pass through the layers: 2 a weight, causal attention, adapters or units."""
        return self.layers * (2 * self.linear + 2 * sequence * self.width) + self._adapters(method)

    def flops(self, method: str, checkpointed: bool = True, sequence: float = TOKENS) -> float:
        """FLOP a token of a training step; what a step makes once, whatever its tokens, is left out.

        Base and attention (`flops_per_token`); three passes through the adapters, of which NAT makes one product twice;
        where checkpointed the forward pass again, but for the layer's last product, of which nothing is kept; and the
        passes of NCE's teachers, whose head makes two logits and a mean embedding.
        """
        shape, d = SHAPES[self.shape], self.width
        step = flops_per_token(self.shape, 0) + 6 * self.layers * sequence * d + 3 * self._adapters(method)
        if method == "NAT":
            step += self.layers * 16 * self.r * self.h
        if checkpointed:
            step += self.forward(method, sequence) - self.layers * 2 * d * int(shape["intermediate_size"])
        return step + (self.teachers(sequence) if method == "NCE, online" else 0.0)

    def teachers(self, sequence: float = TOKENS) -> float:
        """FLOP a token of a pass of M_NAT and one of M_neg: what a cache is made with, and spares every later epoch."""
        return self.forward("NAT", sequence) + self.forward("LoRA", sequence) + 3 * self.head

    def _adapters(self, method: str) -> float:
        """FLOP a token of a forward pass through LoRA, or through NAT's units with both of its LoRAs."""
        if method != "NAT":
            return 2 * self.lora
        return self.layers * (4 * self.h * (self.width + self.keys) + 16 * self.r * (self.width + self.h))


def memory(student: Adapted, method: str, shards: int, checkpointed: bool = True) -> float:
    """Bytes of a GPU.

    Base (bf16), frozen adapters and units (fp32), 16 bytes a trained parameter (fp32: weight, gradient, AdamW's
    moments); a layer's input a layer and token and one layer's saved numbers, or without checkpointing all layers';
    the last hidden states in fp32 with their gradient, and NCE's mean embeddings; the head's buffers of logits. Whole
    (one shard), DDP has its buckets besides: a second copy of the gradients. FSDP2 cuts up layers, units and what
    trains, and nothing else; two layers are whole at a time, one in use, one under way.
    """
    tokens, d = ASSUMED.tokens, student.width
    adapters, units = student.frozen(method)
    trained = 16 * student.trained(method) / shards + (4 * student.trained(method) if shards == 1 else 0)
    held = 2 * student.outside + 4 * adapters + (2 * student.inside + 4 * units) / shards
    gathered = 0 if shards == 1 else 2 * 2 * student.inside / student.layers
    layer = student.saved_bytes(method)
    activations = tokens * (2 * d * student.layers + layer if checkpointed else student.layers * layer)
    end = tokens * 4 * d * (3 if method.startswith("NCE") else 2) + 3 * CUDA_CHUNK_BYTES
    return held + trained + gathered + activations + end


def step_seconds(
    student: Adapted, method: str, gpus: int, shards: int = 1, checkpointed: bool = True
) -> tuple[float, float]:
    """Seconds that a step computes, and that it moves data, of a batch of `ASSUMED.tokens` on each GPU.

    Cut over `shards` GPUs (FSDP2), the layers are gathered in bf16 and what trains in fp32, both twice (forward and
    backward), and gradients are scattered; NCE's teachers gather the layers once each, and M_NAT its units. The
    gpus / shards copies of the whole sum up their gradients: 2 (n − 1)/n of 4 bytes each, of a GPU's share.
    """
    compute = ASSUMED.tokens * student.flops(method, checkpointed) / (ASSUMED.reached * ASSUMED.peak)
    copies, trained = gpus // shards, student.trained(method)
    cut = (shards - 1) / shards * gathered_bytes(student, method)
    summed = 2 * (copies - 1) / copies * 4 * trained / shards
    return compute, cut / _speed_among(shards) + summed / _speed_among(gpus)


def gathered_bytes(student: Adapted, method: str) -> float:
    """Bytes that FSDP2 gathers and scatters in a step, as if none of them were there already."""
    passes = 4 if method == "NCE, online" else 2
    return passes * 2 * student.inside + 3 * 4 * student.trained(method) + 4 * student.frozen(method)[1]


def _speed_among(gpus: int) -> float:
    return ASSUMED.within if gpus <= ASSUMED.node else ASSUMED.between


def epoch_hours(student: Adapted, method: str, gpus: int, shards: int = 1) -> float:
    """Hours for `SAMPLES` samples once; moving overlaps with computing, so the longer of both counts."""
    steps = SAMPLES * TOKENS / (ASSUMED.tokens * gpus)
    return steps * max(step_seconds(student, method, gpus, shards)) / 3600


def pass_hours(flops: float) -> float:
    """GPU-hours of `SAMPLES` samples at so many FLOP a token."""
    return SAMPLES * TOKENS * flops / (ASSUMED.reached * ASSUMED.peak) / 3600


def sampling_hours(student: Adapted, method: str, rows: int, bits: int = 16) -> float:
    """GPU-hours to sample `SAMPLES` rationales, `rows` at a time; infinite where they do not fit.

    A step writes a token in each row. It lasts as long as the slowest of three: Python starting kernels, memory giving
    the weights and the cache, and the products. A base in 4 bits is read, written out in bf16 and read again. A
    question's prompt is read once for its `ASSUMED.samples` samples.
    """
    cache = rows * ASSUMED.longest * 2 * 2 * student.keys * student.layers
    adapters, units = student.lora, 0
    if method == "NAT":
        adapters, units = 2 * student.lora, student.units
    outside = 2 * student.outside + 4 * (adapters + units)
    if student.inside * bits / 8 + outside + cache > ASSUMED.memory:
        return float("inf")
    read = student.inside * (2 if bits == 16 else bits / 8 + 4) + outside + cache
    speed = ASSUMED.reached * ASSUMED.peak
    host = student.layers * (ASSUMED.host_nat if method == "NAT" else ASSUMED.host_lora)
    step = max(host, read / ASSUMED.bandwidth, rows * (student.forward(method, 0) + student.head) / speed)
    prompt = (1 - ASSUMED.targets) * TOKENS / ASSUMED.samples * student.forward(method) / speed
    return SAMPLES * (ASSUMED.targets * TOKENS * step / rows + prompt) / 3600


def checkpoint_bytes(student: Adapted, method: str) -> float:
    """Trained weights and AdamW's two moments in fp32; the base is never in it."""
    return 12 * student.trained(method)


def cache_bytes(student: Adapted, targets: float = ASSUMED.targets * TOKENS) -> float:
    """A cached teacher's file for `SAMPLES`: d fp16 numbers and 4 bytes more a target, 28 bytes of head a sample."""
    return SAMPLES * (targets * (2 * student.width + 4) + 28)


def main() -> None:
    """Prints the tables."""
    students = {name: Adapted(shape) for name, shape in STUDENTS.items()}
    show(
        [
            "student",
            "base",
            "LoRA r = 8",
            "NAT's units",
            "base bf16",
            "checkpoint LoRA",
            "checkpoint NAT",
            "teacher cache, 10⁸",
        ],
        [
            [
                name,
                f"{s.base / 1e9:.2f} B",
                f"{s.lora / 1e6:.1f} M",
                f"{s.units / 1e6:.0f} M",
                f"{2 * s.base / GB:.1f} GB",
                f"{checkpoint_bytes(s, 'LoRA') / GB:.2f} GB",
                f"{checkpoint_bytes(s, 'NAT') / GB:.1f} GB",
                f"{cache_bytes(s) / 1e12:.0f} TB",
            ]
            for name, s in students.items()
        ],
    )
    print()
    show(
        ["GB a GPU", "base", *METHODS],
        [
            [name, "whole" if n == 1 else f"over {n}", *(_memory(s, method, n) for method in METHODS)]
            for name, s in students.items()
            for n in (1, 8, 64)
        ],
    )
    print()
    show(
        ["a step, ms; 10⁸ samples, GPU-hours", "LoRA", "NAT", "NAT, nothing recomputed", "NCE, online"],
        [
            [name, _step(s, "LoRA"), _step(s, "NAT"), _step(s, "NAT", False), _step(s, "NCE, online")]
            for name, s in students.items()
        ],
    )
    print()
    rows = [
        [name, str(gpus), *(_speed(s, gpus, shards) for shards in (1, gpus, min(gpus, ASSUMED.node)))]
        for name, s in students.items()
        for gpus in GPUS[1:]
    ]
    show(["NAT: compute, move (ms); 10⁸ samples", "GPUs", "DDP", "FSDP2 over all", "FSDP2 in each node"], rows)
    print()
    show(
        [
            "10⁸ samples, GPU-hours",
            *(f"sample {m}, {rows} rows" for m in ("NAT", "NCE") for rows in ROWS),
            "teachers' pass",
            "score",
        ],
        [
            [
                name,
                *(_sampling(s, m, rows) for m in ("NAT", "NCE") for rows in ROWS),
                f"{pass_hours(s.teachers()):,.0f}",
                f"{pass_hours(s.forward('LoRA')):,.0f}",
            ]
            for name, s in students.items()
        ],
    )
    print()
    show(["one process", "10⁶ samples", "10⁷", "10⁸"], list(_data()))


def _memory(student: Adapted, method: str, shards: int) -> str:
    if shards > 1 and method == "NCE, cached":
        return "refused"
    return f"{memory(student, method, shards) / GB:.1f}"


def _step(student: Adapted, method: str, checkpointed: bool = True) -> str:
    compute, _ = step_seconds(student, method, 1, checkpointed=checkpointed)
    if not checkpointed and memory(student, method, 1, checkpointed) > ASSUMED.memory:
        return "does not fit"
    return f"{1000 * compute:,.0f}; {pass_hours(student.flops(method, checkpointed)):,.0f}"


def _sampling(student: Adapted, method: str, rows: int) -> str:
    bits = 16 if 2 * student.base < ASSUMED.memory else 4
    hours = sampling_hours(student, method, rows, bits)
    return f"{hours:,.0f}" if hours < float("inf") else "does not fit"


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

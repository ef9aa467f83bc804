"""NAT's step against plain LoRA's: the paper's form, ours, PEFT LoRA r = 8 and r = 16, on random weights.

    python -m benchmarks.nat_step --adapted all-linear # instead of q_proj and v_proj
    python -m benchmarks.nat_step                      # SmolLM2's shapes, 6 layers, fp32, batch 4 x 256, 2 threads
    python -m benchmarks.nat_step --device cuda --shape llama7b --dtype bfloat16 --batch 16 --sequence 512

Three things are timed. `decoder` is a forward and backward pass through the layers, where the variants differ: the
targets are about it. `step` is a whole training step as the stage runs it: decoder, output head at every token, CE and
AdamW. `decode` is one token for each row of the batch from a key-value cache, as in sampling.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, StaticCache

from benchmarks.harness import (
    MIB,
    Target,
    Timing,
    alternate,
    begin,
    finish,
    groups,
    guarded,
    peak_memory,
    ratio,
    saved_activations,
    show,
)
from benchmarks.students import autocast, build_student, random_batch, rates_of, sharing_weights, student_arguments
from lightning_modules.components.adapters.compiled import CompiledLayers
from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE, UnitSettings, attach_units
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.integration.unit import IntegrationUnit
from lightning_modules.components.losses.supervised import cross_entropy
from lightning_modules.components.losses.targets import at_targets, find_targets

REFERENCE, OURS, LORA_8, LORA_16 = "NAT, paper's form", "NAT, ours", "LoRA r=8", "LoRA r=16"
DECODED = 8  # tokens a row that one measurement of `decode` writes


class ReferenceVariant(LoraVariant):
    """A unit's plain form, as the paper writes it and its reference implementation runs it, on the unit's weights.

    Both branches are stacked to [tokens, 2, d_out], both go through W_K, W_1 and W_2, and autograd keeps everything.
    """

    def __init__(self, unit: IntegrationUnit, negative: str) -> None:
        if unit.gate is None or unit.delta:
            raise ValueError("the reference form has a gate and base outputs in both branches")
        self.unit, self.gate, self.negative = unit, unit.gate, negative

    def forward(  # type: ignore[override]  # PEFT's are static; it calls them through the instance
        self, module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """Eq. 4 and 5, line by line."""
        inputs = {active_adapter: module.lora_dropout[active_adapter](x), self.negative: x}
        hidden = torch.stack(
            [result + module.lora_B[n](module.lora_A[n](seen)) * module.scaling[n] for n, seen in inputs.items()], -2
        )  # [..., 2, d_out]
        query, keys = self.gate.query(x), self.gate.key(hidden)
        shift = torch.tensor([0.5, -0.5], device=x.device)
        alpha = (query.unsqueeze(-2) * keys).sum(-1).softmax(-1) + shift
        values = self.unit.up(F.gelu(self.unit.down(hidden)))
        mixed: Tensor = result + (alpha.unsqueeze(-1) * values).sum(-2)
        return mixed


@dataclass
class Variant:
    """A student with its adapters (NAT's units are `stack.units`), ready to train on a batch of random tokens."""

    stack: AdapterStack
    batch: dict[str, Tensor]
    autocast: Callable[[], AbstractContextManager[object]]
    optimizer: torch.optim.Optimizer

    def hidden(self) -> Tensor:
        """The decoder's forward pass: [B, T, d]."""
        with self.autocast():
            return self.stack.hidden_of(self.batch)

    def decoder(self) -> None:
        """Forward and backward through the layers."""
        self.hidden().float().sum().backward()
        self.optimizer.zero_grad()

    def loss(self) -> Tensor:
        """CE at every token."""
        targets = find_targets(self.batch)
        hidden = at_targets(self.hidden(), targets)
        return cross_entropy(self.stack.head.logprobs(hidden, targets.tokens), targets)

    def step(self) -> None:
        """A training step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.inference_mode()
    def decode(self) -> None:
        """`DECODED` tokens a row, one by one, after a prefill of as many."""
        self.stack.eval()
        cache, ids = StaticCache(self.stack.base.config, 2 * DECODED), self.batch["input_ids"]
        with self.autocast():
            self.stack.model(input_ids=ids[:, :DECODED], past_key_values=cache, use_cache=True, logits_to_keep=1)
            for t in range(DECODED, 2 * DECODED):
                self.stack.model(input_ids=ids[:, t : t + 1], past_key_values=cache, use_cache=True)
        self.stack.train()


def build(name: str, base: PreTrainedModel, batch: dict[str, Tensor], options: argparse.Namespace) -> Variant:
    """One of the four variants, on weights that it shares with the others."""
    stack = AdapterStack(sharing_weights(base), options.shape, options.gradient_checkpointing)
    if name in (LORA_8, LORA_16):
        rank = 8 if name == LORA_8 else 16
        stack.add("student", LoraSettings(rank, 2 * rank, options.dropout, options.adapted))
    else:
        for adapter in (NEGATIVE, POSITIVE):
            stack.add(adapter, LoraSettings(dropout=options.dropout, target_modules=options.adapted))
        stack.units = attach_units(stack, UnitSettings(scale_gate=False))
        if name == REFERENCE:
            for path, layer in stack.lora_layers(POSITIVE).items():
                unit = stack.units[path.replace(".", "/")]
                layer.lora_variant[POSITIVE] = ReferenceVariant(unit, NEGATIVE)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # B and W_2 start at zero; give them other values, the same in every variant
        for path, parameter in stack.named_parameters():
            if "lora_" in path or path.startswith("units."):
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    stack.to(options.device).train()
    if options.compile:
        stack.compiled = CompiledLayers(stack.base)
    trained = [p for p in stack.parameters() if p.requires_grad]
    return Variant(stack, batch, partial(autocast, options), torch.optim.AdamW(trained, lr=1e-4))


def _layers(text: str) -> list[str] | Literal["all-linear"]:
    return "all-linear" if text == "all-linear" else text.split(",")


@dataclass
class Measured:
    """What was measured, by the variant's name: seconds of each part, saved activations and a step's peak in bytes."""

    timings: dict[str, dict[str, Timing]] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    def measure(
        self, names: Sequence[str], base: PreTrainedModel, options: argparse.Namespace, parts: Sequence[str]
    ) -> None:
        """Builds variants on the base and alternates between them, one part after another."""
        batch = random_batch(base, options.batch, options.sequence, packed=options.compile)  # [B, T]
        variants = {name: build(name, base, batch, options) for name in names}
        for name, v in variants.items():
            self.saved[name] = saved_activations(v.hidden, [*v.stack.parameters(), *v.stack.buffers()])
        for part in parts:
            runs = {name: getattr(variant, part) for name, variant in variants.items()}
            self.timings.setdefault(part, {}).update(alternate(runs, options.rounds, 1, options.device))
        whole = "step" if "step" in parts else "decoder"
        for name, variant in variants.items():
            self.peaks[name] = peak_memory(getattr(variant, whole), options.device)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = student_arguments(str(__doc__).partition("\n")[0])
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout on the LoRA inputs")
    parser.add_argument(
        "--adapted", type=_layers, default=["q_proj", "v_proj"], help="all-linear, or q_proj,v_proj ..."
    )
    options = parser.parse_args(words)
    options.rounds = options.rounds or (3 if options.quick else 20)
    return options


def main(words: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    options = parse(words)
    begin(options)
    base = build_student(options.shape, options.device, getattr(torch, options.dtype), options.layers)
    found = Measured()
    for names in groups([LORA_8, LORA_16, REFERENCE, OURS], options.device):
        with guarded(", ".join(names), options.device):
            found.measure(names, base, options, ["decoder"] if options.quick else ["decoder", "step", "decode"])
    print_table(found)
    rates = rates_of(found.timings.get("step", found.timings.get("decoder", {})), base, options)
    medians = {part: {n: round(1e3 * t.median, 2) for n, t in each.items()} for part, each in found.timings.items()}
    layers = base.config.num_hidden_layers
    finish(targets(found, rates, options), milliseconds=medians, layers=layers, rates=rates)


def print_table(found: Measured) -> None:
    """One row a variant; every ratio is to LoRA r = 16."""
    saved, peaks = found.saved, found.peaks

    def cells(name: str) -> list[str]:
        timed = [(each[name], ratio(each, name, LORA_16)) for each in found.timings.values()]
        share = saved[name] / saved.get(LORA_16, math.nan)
        memory = f"{saved[name] / MIB:.1f} MiB, {share:.3f}", f"{peaks[name] / MIB:.0f} MiB"
        return [name, *(f"{1e3 * t.median:.1f} ±{100 * t.spread:.0f}%, {share:.3f}" for t, share in timed), *memory]

    header = ["variant", *(f"{part}, ms, ratio" for part in found.timings), "saved activations, ratio", "peak"]
    show(header, [cells(name) for name in peaks])


def targets(found: Measured, rates: dict[str, Any], options: argparse.Namespace) -> list[Target]:
    """Of docs/performance.md: those of a CPU, or those of a GPU."""
    decoder = found.timings.get("decoder", {})
    if torch.device(options.device).type == "cuda":
        share = 1 / ratio(found.timings.get("step", decoder), OURS, LORA_16)
        faster = Target("NAT tokens/s over LoRA r=16", share, 0.93, at_least=True)
        return [faster, Target("MFU of NAT", rates.get(OURS, {}).get("mfu", math.nan), 0.45, at_least=True)]
    return [
        Target("time over LoRA r=16", ratio(decoder, OURS, LORA_16), 1.10),
        Target("saved activations over LoRA r=16", found.saved[OURS] / found.saved[LORA_16], 1.05),
        Target("time over the paper's form", ratio(decoder, OURS, REFERENCE), 0.80),
    ]


if __name__ == "__main__":
    main()

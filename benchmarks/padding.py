"""What padding costs an epoch: global padding (the reference's), random batches, buckets by token budget, packing.

    python -m benchmarks.padding [--verdict negative]     # lengths of the paper's teacher data for MATH

The share of real tokens is counted over a whole epoch of batches as the DataModule makes them. The time of an epoch is
the mean time of a training step times the number of steps; the steps measured are spread over the epoch's batches by
size, the variants take turns. What is trained is a LoRA (r=8) on a model of SmolLM2-135M's widths with a share of its
layers and the same share of its vocabulary: the output head sees no padding, so the proportion of the two matters.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import Target, alternate, arguments, begin, finish, show
from benchmarks.students import SMOLLM2
from datamodules.components.batching.collate import IGNORE, Labelled, padded
from datamodules.components.batching.plan import Batching, choose_batching
from datamodules.components.batching.sampler import TrainingSampler
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.losses.supervised import cross_entropy
from lightning_modules.components.losses.targets import at_targets, find_targets

HISTOGRAM = Path(__file__).with_name("math_lengths.json")
"""Measured once; the file says what it holds."""
LONGEST = 1024
"""The DataModule's default `max_length`, by which the stored lengths were cut."""
GLOBAL, RANDOM, BUCKETS, PACKED = "global padding", "random batches", "token budget", "packing"


@dataclass(frozen=True)
class RandomBatches(Batching):
    """Rows in random order, padded to the longest of their batch."""

    rows: int

    def plan(self, lengths: Tensor, generator: torch.Generator, share: int) -> list[list[int]]:
        """A permutation, cut every `rows`."""
        return [batch.tolist() for batch in torch.randperm(len(lengths), generator=generator).split(self.rows)]


@dataclass(frozen=True)
class GlobalPadding(RandomBatches):
    """The same, padded to the longest of all rows."""

    width: int

    def collate(self, samples: Sequence[Labelled], pad_id: int) -> dict[str, Tensor]:
        """Pads to `width`."""
        fill = {"input_ids": pad_id, "attention_mask": 0, "labels": IGNORE}
        batch = padded(samples, pad_id)
        missing = self.width - batch["labels"].shape[1]
        return {name: F.pad(t, (0, missing), value=fill[name]) for name, t in batch.items()}


@dataclass(frozen=True)
class Epoch:
    """One variant's batches, and how much of them is padding."""

    batching: Batching
    batches: list[list[int]]
    real: int
    sizes: list[int]

    @property
    def share(self) -> float:
        """Real tokens over all positions."""
        return self.real / sum(self.sizes)

    def spread(self, count: int) -> list[list[int]]:
        """So many batches, evenly spaced when sorted by size: their mean stands for all."""
        order = sorted(range(len(self.batches)), key=self.sizes.__getitem__)
        return [self.batches[order[int((k + 0.5) * len(order) / count)]] for k in range(count)]


def plan_epoch(name: str, batching: Batching, samples: list[Labelled], seed: int) -> Epoch:
    """Makes all batches of an epoch and counts."""
    sampler = TrainingSampler([len(sample.ids) for sample in samples], batching, seed)
    batches = [batch.rows for batch in sampler]
    masks = (
        batching.collate([samples[row] for row in rows], 0)["attention_mask"]
        for rows in tqdm(batches, desc=name, leave=False, dynamic_ncols=True)
    )
    counted = [(int(mask.sum()), mask.numel()) for mask in masks]
    return Epoch(batching, batches, sum(real for real, _ in counted), [size for _, size in counted])


def stored_lengths(verdict: str) -> list[tuple[int, int]]:
    """(prompt, completion) in tokens, by the stored histogram; the prompt's share is the mean one."""
    stored = json.loads(HISTOGRAM.read_text(encoding="utf-8"))[verdict]
    lengths = [length for length, count in enumerate(stored["counts"]) for _ in range(count)]
    return [(prompt := round(stored["prompt_share"] * length), length - prompt) for length in lengths]


def build_stack(layers: int) -> AdapterStack:
    """A LoRA on SmolLM2-135M cut to so many layers and to as large a share of the vocabulary, random weights."""
    share = layers / SMOLLM2["num_hidden_layers"]
    cut = {"num_hidden_layers": layers, "vocab_size": int(share * SMOLLM2["vocab_size"])}
    stack = AdapterStack(LlamaForCausalLM(LlamaConfig(**{**SMOLLM2, **cut}, pad_token_id=0)), "random")
    stack.add("student", LoraSettings())
    return stack


def training_step(stack: AdapterStack, epoch: Epoch, samples: list[Labelled], steps: int) -> Callable[[], None]:
    """One forward and backward pass of MLE on the next of `steps` batches of the epoch."""
    batches: Iterator[list[int]] = cycle(epoch.spread(steps))

    def run() -> None:
        batch: dict[str, Any] = epoch.batching.collate([samples[row] for row in next(batches)], 0)
        targets = find_targets(batch)
        hidden = stack.hidden(batch["input_ids"], batch["attention_mask"], batch.get("position_ids"))
        cross_entropy(stack.head.logprobs(at_targets(hidden, targets), targets.tokens), targets).backward()
        stack.zero_grad()

    return run


def main(words: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = arguments("Shares of real tokens and times of an epoch by how batches are made.")
    parser.add_argument("--verdict", choices=["positive", "negative"], default="positive", help="D_pos or D_neg")
    parser.add_argument("--tokens", type=int, default=2048, help="budget of a batch")
    parser.add_argument("--layers", type=int, default=6, help="of SmolLM2's 30, in the model timed; --quick takes 2")
    options = parser.parse_args(words)
    begin(options)
    stack = build_stack(2 if options.quick else options.layers)
    vocabulary = stack.base.config.vocab_size
    samples = []
    for prompt, completion in stored_lengths(options.verdict):  # random ids: what they say costs no time
        ids = torch.randint(vocabulary, (prompt + completion,)).tolist()
        samples.append(Labelled(ids, [IGNORE] * prompt + ids[prompt:]))
    longest = max(len(sample.ids) for sample in samples)
    epochs = {
        name: plan_epoch(name, batching, samples, options.seed)
        for name, batching in {
            GLOBAL: GlobalPadding(max(1, options.tokens // longest), longest),
            RANDOM: RandomBatches(16),
            BUCKETS: choose_batching(16, options.tokens, False, LONGEST, longest),
            PACKED: choose_batching(16, options.tokens, True, LONGEST, longest),
        }.items()
    }
    rounds = options.rounds or (2 if options.quick else 12)
    steps = {name: training_step(stack, epoch, samples, rounds) for name, epoch in epochs.items()}
    timings = alternate(steps, rounds, warmup=0 if options.quick else rounds)
    seconds = {name: statistics.mean(timings[name].seconds) * len(epoch.batches) for name, epoch in epochs.items()}
    print(f"{len(samples):,} rationales, {epochs[GLOBAL].real:,} tokens, longest {longest}")
    heading = ["batches by", "steps", "real tokens", "positions", "step, ms", "epoch, s", "global padding / this"]
    rows, targets = [], []
    for name, epoch in epochs.items():
        step, faster = 1e3 * statistics.mean(timings[name].seconds), seconds[GLOBAL] / seconds[name]
        counts = [f"{len(epoch.batches):,}", f"{epoch.share:.3f}", f"{sum(epoch.sizes):,}"]
        rows.append([name, *counts, f"{step:.0f}", f"{seconds[name]:,.0f}", f"{faster:.2f}"])
        if name in (BUCKETS, PACKED):
            targets.append(Target(f"real tokens, {name}", epoch.share, 0.97, at_least=True))
            targets.append(Target(f"epoch of global padding / {name}", faster, 4.0, at_least=True))
    show(heading, rows)
    finish(
        targets,
        epoch_seconds={name: round(value, 1) for name, value in seconds.items()},
        real_tokens={name: round(epoch.share, 4) for name, epoch in epochs.items()},
    )


if __name__ == "__main__":
    main()

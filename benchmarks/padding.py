"""What padding costs an epoch: global padding (the reference's), random batches, buckets by token budget, packing.

    python -m benchmarks.padding                                  # lengths of the paper's teacher data for MATH, stored
    python -m benchmarks.padding --lengths embedded               # of the generated problems
    python -m benchmarks.padding --data FILE --format tdg --tokenizer models/smollm2-135m-instruct

The share of real tokens is counted over a whole epoch of batches as the DataModule makes them. The time of an epoch is
the mean time of a training step times the number of steps; the steps measured are spread over the epoch's batches by
size, the variants take turns. What is trained is a LoRA (r=8) on a model of SmolLM2-135M's widths with a share of its
layers and the same share of its vocabulary: the output head sees no padding, so the proportion of the two matters.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
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

from benchmarks.harness import Target, Timing, alternate, arguments, begin, finish, show
from benchmarks.students import SMOLLM2
from datamodules.components.batching.collate import IGNORE, Labelled, padded
from datamodules.components.batching.plan import Batching, choose_batching
from datamodules.components.batching.sampler import TrainingSampler
from datamodules.components.encoding.tokenization import encode, load_tokenizer
from datamodules.components.records.readers import FORMATS
from datamodules.components.records.records import numbered_rationales
from dust2gold.demo.generate import Recipe, generate
from dust2gold.prepare.prepare import prepare
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.losses.supervised import at_targets, cross_entropy, find_targets

HISTOGRAM = Path(__file__).with_name("math_lengths.json")
"""Measured once: what it holds stands in it."""
CHARACTERS, TOKENS = 1600, 1024
"""Longer rationales are left out: the reference's limit, and the DataModule's default."""
GLOBAL, RANDOM, BUCKETS, PACKED = "global padding", "random batches", "token budget", "packing"


@dataclass(frozen=True)
class RandomBatches(Batching):
    """Rows in random order, padded to the longest of their batch."""

    rows: int

    def plan(self, lengths: Tensor, generator: torch.Generator, share: int) -> list[list[int]]:
        """See `Batching.plan`."""
        return [batch.tolist() for batch in torch.randperm(len(lengths), generator=generator).split(self.rows)]


@dataclass(frozen=True)
class GlobalPadding(RandomBatches):
    """The same, padded to the longest of all rows."""

    width: int

    def collate(self, samples: Sequence[Labelled], pad_id: int) -> dict[str, Tensor]:
        """See `Batching.collate`."""
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


def generated_lengths(verdict: str, recipe: Recipe | None = None) -> list[tuple[int, int]]:
    """The same of the embedded teacher's samples."""
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory), recipe)
        return read_lengths(Path(directory) / "train.jsonl", "tdg", "embedded", verdict)


def read_lengths(
    file: Path, format: str, tokenizer: str, verdict: str, limit: int | None = None
) -> list[tuple[int, int]]:
    """The same of a data set in its publisher's format (of its first `limit` questions)."""
    with tempfile.TemporaryDirectory() as directory:
        prepare(file, format, Path(directory), limit=limit)
        records = [record for _, record in numbered_rationales(Path(directory) / f"{verdict}.jsonl")]
    texts = [(r.question, r.rationale) for r in records if len(r.question) + len(r.rationale) <= CHARACTERS]
    lengths = [(len(e.prompt), len(e.completion)) for e in encode(load_tokenizer(tokenizer), texts)]
    return [pair for pair in lengths if sum(pair) <= TOKENS]


def build_stack(layers: int) -> AdapterStack:
    """A LoRA on SmolLM2-135M cut to so many layers and to as large a share of the vocabulary, random weights."""
    share = layers / SMOLLM2["num_hidden_layers"]
    cut = {"num_hidden_layers": layers, "vocab_size": int(share * SMOLLM2["vocab_size"])}
    stack = AdapterStack(LlamaForCausalLM(LlamaConfig(**{**SMOLLM2, **cut}, pad_token_id=0)), "random")
    stack.add("student", LoraSettings())
    return stack


def random_sample(prompt: int, completion: int, vocabulary: int) -> Labelled:
    """Random ids: what they say costs no time."""
    ids = torch.randint(vocabulary, (prompt + completion,)).tolist()
    return Labelled(ids, [IGNORE] * prompt + ids[prompt:])


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


def epoch_seconds(timing: Timing, epoch: Epoch) -> float:
    """Mean step times number of steps."""
    return statistics.mean(timing.seconds) * len(epoch.batches)


def options_of(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = arguments("Shares of real tokens and times of an epoch by how batches are made.")
    parser.add_argument("--lengths", choices=["math", "embedded"], default="math", help="without --data: whose lengths")
    parser.add_argument("--data", type=Path, metavar="FILE", help="teacher samples to measure instead")
    parser.add_argument("--format", choices=sorted(FORMATS), default="tdg", help="of --data")
    parser.add_argument("--tokenizer", default="embedded", help="of --data: the student's directory or hub name")
    parser.add_argument("--verdict", choices=["positive", "negative"], default="positive", help="D_pos or D_neg")
    parser.add_argument("--tokens", type=int, default=2048, help="budget of a batch")
    parser.add_argument("--layers", type=int, default=6, help="of SmolLM2's 30, in the model timed; --quick takes 2")
    return parser.parse_args(words)


def lengths_of(options: argparse.Namespace) -> list[tuple[int, int]]:
    """What is measured."""
    if options.data is not None:
        return read_lengths(options.data, options.format, options.tokenizer, options.verdict)
    return stored_lengths(options.verdict) if options.lengths == "math" else generated_lengths(options.verdict)


def main(words: list[str] | None = None) -> None:
    """Measures and prints."""
    options = options_of(words)
    begin(options)
    stack = build_stack(2 if options.quick else options.layers)
    vocabulary = stack.base.config.vocab_size
    samples = [random_sample(prompt, completion, vocabulary) for prompt, completion in lengths_of(options)]
    longest = max(len(sample.ids) for sample in samples)
    epochs = {
        name: plan_epoch(name, batching, samples, options.seed)
        for name, batching in {
            GLOBAL: GlobalPadding(max(1, options.tokens // longest), longest),
            RANDOM: RandomBatches(16),
            BUCKETS: choose_batching(16, options.tokens, False, TOKENS, longest),
            PACKED: choose_batching(16, options.tokens, True, TOKENS, longest),
        }.items()
    }
    rounds = options.rounds or (2 if options.quick else 12)
    steps = {name: training_step(stack, epoch, samples, rounds) for name, epoch in epochs.items()}
    timings = alternate(steps, rounds, warmup=0 if options.quick else rounds)
    seconds = {name: epoch_seconds(timings[name], epoch) for name, epoch in epochs.items()}
    print(f"{len(samples):,} rationales, {epochs[GLOBAL].real:,} tokens, longest {longest}")
    show(
        ["batches by", "steps", "real tokens", "positions", "step, ms", "epoch, s", "global padding / this"],
        [
            [
                name,
                f"{len(epoch.batches):,}",
                f"{epoch.share:.3f}",
                f"{sum(epoch.sizes):,}",
                f"{1e3 * statistics.mean(timings[name].seconds):.0f}",
                f"{seconds[name]:,.0f}",
                f"{seconds[GLOBAL] / seconds[name]:.2f}",
            ]
            for name, epoch in epochs.items()
        ],
    )
    finish(
        [Target(f"real tokens, {name}", epochs[name].share, 0.97, at_least=True) for name in (BUCKETS, PACKED)]
        + [
            Target(f"epoch of global padding / {name}", seconds[GLOBAL] / seconds[name], 4.0, at_least=True)
            for name in (BUCKETS, PACKED)
        ],
        epoch_seconds={name: round(value, 1) for name, value in seconds.items()},
        real_tokens={name: round(epoch.share, 4) for name, epoch in epochs.items()},
    )


if __name__ == "__main__":
    main()

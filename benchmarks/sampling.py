"""What refilling the batch rows of ended samples is worth.

    python -m benchmarks.sampling

Compares `generate` question by question, `generate(num_return_sequences=n)` per batch of questions, and ours. Two
students: the embedded one on its own problems of one to six steps, whose answers, before any training on rationales,
are all short; and one of SmolLM2-135M's widths with a share of its layers and the same share of its vocabulary, random
weights. A random model never ends by itself, so there every 60th token ends a sample: the lengths are mixed (geometric,
up to the cap), the same for all variants, and the target is held against these.

All draw from the whole distribution at temperature 1; `generate` per batch gets as many samples at a time as ours. The
variants draw different samples, so what is compared is seconds per token written; question by question is measured on
a few questions.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import Target, Timing, alternate, arguments, begin, finish, ratio, show
from benchmarks.students import SMOLLM2
from datamodules.components.encoding.tokenization import encode, load_tokenizer, pad_with_mask
from dust2gold.demo.problems import LONGEST, ProblemWriter
from lightning_modules.components.adapters.stack import load_base
from lightning_modules.components.sampling.sampler import sample
from lightning_modules.components.sampling.settings import SamplingSettings

ALONE, BATCH, OURS = "generate, question by question", "generate(num_return_sequences)", "ours"


@dataclass(frozen=True)
class Task:
    """A student and what it is asked: prompts [Q, P], left-padded, longest first."""

    name: str
    model: Any
    input_ids: Tensor
    mask: Tensor
    eos: list[int]
    pad: int
    settings: SamplingSettings


def embedded_task(questions: int, settings: SamplingSettings, seed: int) -> Task:
    """The embedded student's own kind of problems, short ones and long ones."""
    rng, tokenizer = random.Random(seed), load_tokenizer("embedded")
    texts = [ProblemWriter(rng).draw(index % LONGEST + 1).text for index in range(questions)]
    prompts = [encoded.prompt for encoded in encode(tokenizer, [(text, None) for text in texts])]
    return _task(
        "embedded student", load_base("embedded"), prompts, [tokenizer.eos_token_id], tokenizer.pad_token_id, settings
    )


def smollm2_task(layers: int, questions: int, settings: SamplingSettings, seed: int) -> Task:
    """A random model of SmolLM2's widths."""
    share = layers / SMOLLM2["num_hidden_layers"]
    sizes = {**SMOLLM2, "num_hidden_layers": layers, "vocab_size": int(SMOLLM2["vocab_size"] * share)}
    rng = random.Random(seed)
    prompts = [[rng.randrange(3, sizes["vocab_size"]) for _ in range(rng.randint(20, 120))] for _ in range(questions)]
    ends = list(range(2, sizes["vocab_size"], 60))
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    return _task(f"SmolLM2's widths, {layers} layers", model, prompts, ends, 0, settings)


def _task(
    name: str, model: Any, prompts: list[list[int]], eos: list[int], pad: int, settings: SamplingSettings
) -> Task:
    batch = pad_with_mask(sorted(prompts, key=len, reverse=True), pad, left=True)
    return Task(name, model.eval(), batch["input_ids"], batch["attention_mask"], eos, pad, settings)


def generate(task: Task, first: int, last: int) -> int:
    """What transformers offers, for questions [first, last); returns the number of tokens written."""
    mask = task.mask[first:last]
    width = int(mask.sum(1).max())
    ids, mask = task.input_ids[first:last, -width:], mask[:, -width:]
    written = task.model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=task.settings.samples,
        max_new_tokens=task.settings.max_new_tokens,
        eos_token_id=task.eos,
        pad_token_id=task.pad,
    )[:, width:]
    ends = torch.isin(written, torch.tensor(task.eos))
    after = (ends.cumsum(1) - ends.long()) > 0  # behind a sample's end there is padding
    return int((~after).sum())


def variants(task: Task, alone: int, tokens: dict[str, list[int]], lengths: list[int]) -> dict[str, Callable[[], None]]:
    """What to time; each run adds to `tokens` how many it wrote, ours to `lengths` each sample's."""
    total = len(task.input_ids)
    together = max(1, task.settings.rows // task.settings.samples)
    questions = [str(index) for index in range(total)]

    def one_by_one() -> None:
        chosen = [index * total // alone for index in range(alone)]
        tokens[ALONE].append(sum(generate(task, index, index + 1) for index in chosen))

    def in_batches() -> None:
        starts = range(0, total, together)
        tokens[BATCH].append(sum(generate(task, start, start + together) for start in starts))

    def ours() -> None:
        samples = sample(task.model, task.input_ids, task.mask, questions, task.eos, task.pad, task.settings)
        tokens[OURS].append(sum(one.tokens for one in samples))
        lengths.extend(one.tokens for one in samples)

    return {ALONE: one_by_one, BATCH: in_batches, OURS: ours}


def measure(task: Task, alone: int, rounds: int) -> dict[str, Timing]:
    """Seconds per token of each variant and round."""
    tokens: dict[str, list[int]] = {ALONE: [], BATCH: [], OURS: []}
    lengths: list[int] = []
    timings = alternate(variants(task, alone, tokens, lengths), rounds, warmup=0)
    per_token = {
        name: Timing(tuple(seconds / count for seconds, count in zip(timing.seconds, tokens[name], strict=True)))
        for name, timing in timings.items()
    }
    sizes = f"{len(task.mask)} questions, {task.settings.samples} samples each, {task.settings.rows} rows"
    spread = f"{min(lengths)} to {max(lengths)} tokens, median {statistics.median(lengths):.0f}"
    print(f"\n{task.name}: {sizes}, {spread}")
    rows = [
        [name, f"{1 / t.median:.0f}", f"{100 * t.spread:.0f}%", f"{1 / ratio(per_token, name, BATCH):.2f}"]
        for name, t in per_token.items()
    ]
    show(["variant", "tokens/s", "spread", f"x {BATCH}"], rows)
    return per_token


def main(options: argparse.Namespace) -> None:
    """Measures both students."""
    begin(options)
    quick, rounds = options.quick, options.rounds or (1 if options.quick else 3)
    small = SamplingSettings(4, temperature=1.0, max_new_tokens=240, seed=options.seed, rows=64 if quick else 256)
    large = SamplingSettings(4, temperature=1.0, max_new_tokens=240, seed=options.seed, rows=32 if quick else 64)
    tasks = [
        embedded_task(60 if quick else 240, small, options.seed),
        smollm2_task(2 if quick else 4, 24 if quick else 48, large, options.seed),
    ]
    measured = {task.name: measure(task, 3 if quick else 6, rounds) for task in tasks}
    faster = 1 / ratio(measured[tasks[1].name], OURS, BATCH)
    rates = {name: {v: round(1 / t.median, 1) for v, t in timings.items()} for name, timings in measured.items()}
    target = Target(f"mixed lengths: tokens/s over {BATCH}", faster, 3, at_least=True)
    finish([target], tokens_per_second=rates)


if __name__ == "__main__":
    main(arguments("Compares ways of sampling n answers to each of many questions.").parse_args())

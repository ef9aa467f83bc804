"""What refilling the batch rows of ended samples is worth.

    python -m benchmarks.sampling

Compares `generate(num_return_sequences=n)` per batch of questions with ours, on two students: the embedded one on its
own problems of one to six steps, whose answers, before any training on rationales, are all short; and one of
SmolLM2-135M's widths with a share of its layers and the same share of its vocabulary, random weights. A random model
never ends by itself, so there every 60th token ends a sample: the lengths are mixed (geometric, up to the cap), the
same for both variants, and the target is held against these.

Both draw from the whole distribution at temperature 1, as many samples at a time. They draw different samples, so what
is compared is seconds per token written.
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import Target, Timing, alternate, arguments, begin, finish, ratio, show
from benchmarks.students import SHAPES
from datamodules.components.encoding.tokenization import encode, load_tokenizer, pad_with_mask
from dust2gold.demo.problems import LONGEST, ProblemWriter
from lightning_modules.components.adapters.stack import load_base
from lightning_modules.components.sampling.decoder import ROWS
from lightning_modules.components.sampling.sampler import sample_each
from lightning_modules.components.sampling.settings import SamplingSettings

BATCH, OURS = "generate(num_return_sequences)", "ours"


@dataclass(frozen=True)
class Task:
    """A student and the prompts it is asked."""

    name: str
    model: Any
    prompts: list[list[int]]
    eos: list[int]
    pad: int
    settings: SamplingSettings

    def batch(self) -> tuple[Tensor, Tensor]:
        """The prompts, longest first, left-padded, and their mask: [Q, P] both."""
        batch = pad_with_mask(sorted(self.prompts, key=len, reverse=True), self.pad, left=True)
        return batch["input_ids"], batch["attention_mask"]


def embedded_task(questions: int, settings: SamplingSettings, seed: int) -> Task:
    """The embedded student's own kind of problems, short ones and long ones."""
    rng, tokenizer = random.Random(seed), load_tokenizer("embedded")
    texts = [ProblemWriter(rng).draw(index % LONGEST + 1).text for index in range(questions)]
    prompts = [prompt for prompt, _ in encode(tokenizer, [(text, None) for text in texts])]
    eos, pad = [tokenizer.eos_token_id], tokenizer.pad_token_id
    return Task("embedded student", load_base("embedded"), prompts, eos, pad, settings)


def smollm2_task(layers: int, questions: int, settings: SamplingSettings, seed: int) -> Task:
    """A random model of SmolLM2's widths."""
    shape = SHAPES["smollm2"]
    sizes = {**shape, "num_hidden_layers": layers, "vocab_size": shape["vocab_size"] * layers // 30}
    rng = random.Random(seed)
    prompts = [[rng.randrange(3, sizes["vocab_size"]) for _ in range(rng.randint(20, 120))] for _ in range(questions)]
    ends = list(range(2, sizes["vocab_size"], 60))
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    return Task(f"SmolLM2's widths, {layers} layers", model, prompts, ends, 0, settings)


def generate(task: Task, ids: Tensor, mask: Tensor) -> int:
    """What transformers offers, for left-padded prompts [Q, P]; returns the number of tokens written."""
    width = int(mask.sum(1).max())
    whole = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    written = task.model.generate(
        input_ids=ids[:, -width:],
        attention_mask=mask[:, -width:],
        num_return_sequences=task.settings.samples,
        max_new_tokens=task.settings.max_new_tokens,
        eos_token_id=task.eos,
        pad_token_id=task.pad,
        **whole,
    )[:, width:]  # [Q * samples, new tokens]
    ends = torch.isin(written, torch.tensor(task.eos, device=written.device))
    after = (ends.cumsum(1) - ends.long()) > 0  # behind a sample's end there is padding
    return int((~after).sum())


def measure(task: Task, rounds: int) -> dict[str, Timing]:
    """Seconds per token of each variant and round."""
    total, step = len(task.prompts), max(1, (task.settings.rows or ROWS) // task.settings.samples)
    ids, mask = task.batch()  # [Q, P]
    model, questions = task.model.eval(), [str(index) for index in range(total)]
    tokens: dict[str, list[int]] = {BATCH: [], OURS: []}
    lengths: list[int] = []

    def in_batches() -> None:
        parts = zip(ids.split(step), mask.split(step), strict=True)
        tokens[BATCH].append(sum(generate(task, *part) for part in parts))

    def ours() -> None:
        each = sample_each(model, ids, mask, questions, task.eos, task.pad, task.settings)
        samples = [one for question in each for one in question]
        tokens[OURS].append(sum(one.tokens for one in samples))
        lengths.extend(one.tokens for one in samples)

    timings = alternate({BATCH: in_batches, OURS: ours}, rounds, warmup=0)
    per_token = {
        name: Timing(tuple(seconds / count for seconds, count in zip(timing.seconds, tokens[name], strict=True)))
        for name, timing in timings.items()
    }
    sizes = f"{total} questions, {task.settings.samples} samples each, {task.settings.rows} rows"
    print(f"\n{task.name}: {sizes}, {min(lengths)} to {max(lengths)} tokens, median {statistics.median(lengths):.0f}")
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
    measured = {task.name: measure(task, rounds) for task in tasks}
    faster = 1 / ratio(measured[tasks[1].name], OURS, BATCH)
    rates = {name: {v: round(1 / t.median, 1) for v, t in timings.items()} for name, timings in measured.items()}
    finish([Target(f"mixed lengths: tokens/s over {BATCH}", faster, 3, at_least=True)], tokens_per_second=rates)


if __name__ == "__main__":
    main(arguments("Compares ways of sampling n answers to each of many questions.").parse_args())

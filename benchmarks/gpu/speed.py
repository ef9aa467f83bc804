"""Tokens a second, MFU, peak memory and samples a second of a large and of a small student."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from benchmarks import nat_step, nce_step, sampling
from benchmarks.gpu.step import Step
from benchmarks.harness import Timing
from benchmarks.nat_step import LORA_16, OURS, REFERENCE
from benchmarks.nce_step import CACHED, ONLINE
from benchmarks.students import build_student, random_batch, rate_of, sharing_weights
from lightning_modules.components.adapters.stack import load_base
from lightning_modules.components.sampling.sampler import sample_each
from lightning_modules.components.sampling.settings import SamplingSettings


def llama(step: Step) -> None:
    """LLaMA-7B's shape, random weights, T = 512: LoRA, NAT in both forms, NCE; then with gradient checkpointing."""
    shape = step.size("llama7b", "tiny")
    base = build_student(shape, step.device, torch.bfloat16)
    for batch, checkpointing in step.in_time([(8, False), (16, False), (16, True)][: step.size(3, 1)]):
        words = ["--gradient-checkpointing"] if checkpointing else []
        # The paper's form needs more than 80 GB for 16 rows whose activations are kept.
        names = [LORA_16, OURS, *([REFERENCE] if batch < 16 or checkpointing else [])]
        options = options_of(step, shape, batch, *words)
        title = f"{shape} {options.batch} x {options.sequence}{', checkpointing' if checkpointing else ''}"
        parts = ["step"] if checkpointing else ["step", "decode"]
        measure(step, title, base, options, names, [CACHED] if batch == 16 else [ONLINE], parts)


def compiled(step: Step) -> None:
    """Steps with compiled layers against plain ones: eight of LLaMA's (MFU counts eight), then the small student."""
    for full, rows, layers in step.in_time([("llama7b", 16, 8), ("smollm2", 32, 30)][: step.size(2, 1)]):
        shape, layers = step.size(full, "tiny"), step.size(layers, 2)
        base = build_student(shape, step.device, torch.bfloat16, layers)
        for words in step.in_time([[], ["--compile"]][: step.size(2, 1)]):  # on a CPU compiling takes minutes
            options = options_of(step, shape, rows, *words)
            title = f"{shape}, {layers} layers, {options.batch} x {options.sequence}{', compiled' if words else ''}"
            measure(step, title, base, options, [LORA_16, OURS], [], ["step"])


def train(step: Step) -> None:
    """SmolLM2-135M, T = 512, by rows a batch: how much of a step the card works, and how many kernels it gets."""
    base, title = small_student(step)
    for rows in step.in_time(step.size([8, 32, 128], [2])):
        options = options_of(step, "smollm2", rows)
        names = [LORA_16, OURS, *([REFERENCE] if rows == 32 else [])]
        measure(step, f"{title} {rows} x {options.sequence}", base, options, names, [ONLINE, CACHED], ["step"])
        for name in (LORA_16, OURS) if rows < 128 and not step.dry else ():
            with step.attempt(f"profile of {name}"):
                kernels(step, f"{title} {rows} x {options.sequence} {name}", base, options, name)


def options_of(step: Step, shape: str, rows: int, *words: str) -> argparse.Namespace:
    """What the step benchmarks are told."""
    sizes = ["--shape", shape, "--batch", str(step.size(rows, 2)), "--sequence", step.size("512", "16")]
    options = ["--device", step.device, "--dtype", "bfloat16", "--rounds", step.size("5", "1")]
    parsed = nat_step.parse([*sizes, *options, *words])
    parsed.prompt = 0  # for NCE: all tokens are targets
    return parsed


def measure(
    step: Step,
    title: str,
    base: PreTrainedModel,
    options: argparse.Namespace,
    nat: list[str],
    nce: list[str],
    parts: list[str],
) -> None:
    """Steps of these variants of both benchmarks, each alone; a part after `step` is a token for each row."""

    def emit(name: str, timing: Timing, peak: int) -> None:
        peak = peak if step.dry else torch.cuda.max_memory_allocated()  # the base too
        rate = rate_of(timing, base, options)
        note = f"{1e3 * timing.median:.0f} ms, peak {peak / 1e9:.2f} GB, MFU {rate.get('mfu', 'unknown')}"
        step.emit(f"{title} {name}", round(rate["tokens_per_second"]), "tokens/s", note=note)

    for name in step.in_time(nat):
        with step.attempt(f"{title} {name}"):
            found = nat_step.Measured()
            found.measure([name], base, options, parts)
            emit(name, found.timings["step"][name], found.peaks[name])
            if "decode" in parts:
                seconds = found.timings["decode"][name].median / (nat_step.DECODED + 1)
                step.emit(f"{title} {name}, a token for each row", 1e3 * seconds, "ms")
    for name in step.in_time(nce):
        with step.attempt(f"{title} NCE {name}"), tempfile.TemporaryDirectory() as directory:
            module = nce_step.build_nce(sharing_weights(base), options.gradient_checkpointing)
            timings, peaks = nce_step.measure([name], module, Path(directory), options)
            emit(f"NCE {name}", timings[name], peaks[name])


def kernels(step: Step, title: str, base: PreTrainedModel, options: argparse.Namespace, name: str) -> None:
    """Of one training step."""
    variant = nat_step.build(name, base, random_batch(base, options.batch, options.sequence), options)
    variant.step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        begun = time.perf_counter()
        variant.step()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
    events = [e for e in found.events() if e.device_type.name == "CUDA"]
    busy = sum(e.device_time for e in events) / 1e6
    step.emit(f"{title}: share of a step in which the card works", busy / seconds, note=f"{len(events)} kernels")


def small_student(step: Step) -> tuple[PreTrainedModel, str]:
    """The real SmolLM2 where the user has it, else its shape with random weights; in a dry run the embedded student."""
    student = step.student or step.size(None, "embedded")
    if student:
        base = load_base(student, "bfloat16")
        return base.to(step.device), step.size("SmolLM2", student)  # type: ignore[arg-type]
    return build_student("smollm2", step.device, torch.bfloat16, layers=30), "SmolLM2's shape"


def sample(step: Step) -> None:
    """Samples of the small student with LoRA and NAT, by rows at a time; beside them `generate`'s."""
    base, title = small_student(step)
    vocabulary, draw = base.config.vocab_size, random.Random(0)
    prompts = [[draw.randrange(3, vocabulary) for _ in range(draw.randint(30, 110))] for _ in range(256)]
    runs = [(LORA_16, 256, True), (OURS, 256, False), (LORA_16, 64, False), (OURS, 64, False), (LORA_16, 1024, False)]
    stacks = {}
    for name, rows, both in step.in_time(runs[: step.size(5, 2)]):
        rows = step.size(rows, 4)
        with step.attempt(f"sample {name}, {rows} rows"):
            if name not in stacks:
                options = options_of(step, "smollm2", 1)
                stacks[name] = nat_step.build(name, base, random_batch(base, 1, 2), options).stack.eval()
            settings = SamplingSettings(4, 0.7, max_new_tokens=step.size(192, 6), rows=rows)
            # No end token: a random model has none, and so all lengths are the cap.
            task = sampling.Task(title, stacks[name].model, prompts[: rows // 4], [], 0, settings)
            draw_samples(step, task, f"{title} {name}, {rows} rows", both)


def draw_samples(step: Step, task: sampling.Task, title: str, both: bool) -> None:
    """All samples of the task at a time, by ours and, if asked for, by `generate`."""
    ids, mask = (tensor.to(step.device) for tensor in task.batch())
    names = [str(i) for i in range(len(ids))]

    def ours() -> int:
        each = sample_each(task.model, ids, mask, names, task.eos, task.pad, task.settings)
        return sum(one.tokens for question in each for one in question)

    runs: list[tuple[str, Callable[[], int]]] = [("ours", ours)]
    if both:
        runs.append(("generate", partial(sampling.generate, task, ids, mask)))
    rates = {}
    for name, run in step.in_time(runs):
        begun = time.perf_counter()
        with step.autocast():
            tokens = run()
        seconds = time.perf_counter() - begun
        note = f"{len(ids) * task.settings.samples / seconds:.1f} samples/s of {task.settings.max_new_tokens} tokens"
        rates[name] = tokens / seconds
        if name == "generate":
            note = f"{note}, ours {rates['ours'] / rates[name]:.1f} x (target: 8)"
        step.emit(f"{title}, {name}", round(rates[name]), "tokens/s", note=f"{note}, {seconds:.1f} s")

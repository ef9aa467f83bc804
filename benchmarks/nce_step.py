"""What a step of NCE costs over a step of plain LoRA, and what its loss needs in memory.

    python -m benchmarks.nce_step
    python -m benchmarks.nce_step --device cuda --shape llama7b --dtype bfloat16 --batch 16 --sequence 512 --prompt 0

Four variants train the same LoRA (r 8 on q_proj and v_proj, AdamW) on the same random batch:

* `plain LoRA`: maximum likelihood, as NegativeModel trains;
* `naive`: NCE as written: teachers on a second copy of the base, dense logits [B, T, V] of all three models;
* `online`: NCEModel with `teacher: online`, one base;
* `cached`: NCEModel with `teacher: cached` after its first epoch.

The student has SmolLM2-135M's shape, all 30 layers: with fewer (`--layers`) the output head would weigh more, on which
`online` does five products a target, `plain LoRA` two.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

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
    show,
    show_timings,
)
from benchmarks.students import autocast, build_student, random_batch, rates_of, student_arguments
from lightning_modules.base import STUDENT
from lightning_modules.components.adapters.compiled import CompiledLayers
from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE, UnitSettings, attach_units
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.distillation.teachers import CacheSettings, OnlineTeacher, cached_teacher
from lightning_modules.components.losses.supervised import cross_entropy
from lightning_modules.components.losses.targets import IGNORE, find_targets
from lightning_modules.nce import NCEModel

PLAIN, NAIVE, ONLINE, CACHED = "plain LoRA", "naive, two copies", "ours, online", "ours, cached"


def build_nce(base: PreTrainedModel, gradient_checkpointing: bool = False) -> NCEModel:
    """NCE's three models on one base, all with random weights, the student active and trainable."""
    module = NCEModel()
    stack = AdapterStack(base, "random", gradient_checkpointing)
    for adapter in (NEGATIVE, POSITIVE, STUDENT):
        if adapter == STUDENT:
            module.units = attach_units(stack, UnitSettings()).requires_grad_(False)
        stack.add(adapter, LoraSettings())
    lora = [parameter for name, parameter in stack.named_parameters() if "lora_" in name]
    for parameter in [*lora, *module.units.parameters()]:  # zero-started adapters would make three equal models
        nn.init.normal_(parameter, std=0.02)
    module.stack = stack
    return module.to(base.device).train()


def naive_loss(student: NCEModel, teachers: NCEModel, batch: dict[str, Any]) -> Tensor:
    """NCE as PAPER's formulas say it, on dense logits [B, T, V]; a = 0.5, T = 1."""
    arguments = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        with teachers.adapters.using(NEGATIVE):
            log_negative = teachers.adapters(*arguments)[:, :-1].log_softmax(-1)
        with teachers.adapters.using(POSITIVE):
            log_nat = teachers.adapters(*arguments)[:, :-1].log_softmax(-1)
    log_student = student.adapters(*arguments)[:, :-1].log_softmax(-1)
    labels = batch["labels"][:, 1:]
    mask = (labels != IGNORE).float()
    ce = -(log_student.gather(-1, labels.clamp_min(0)[..., None])[..., 0] * mask).sum() / mask.sum()
    kl = (log_negative.exp() * (log_negative - log_nat)).sum(-1)
    beta = torch.tanh((kl * mask).sum(1) / mask.sum(1))
    kd = (-(log_nat.exp() * log_student).sum(-1) * mask).sum(1) / mask.sum(1)
    loss: Tensor = 0.5 * ce + 0.5 * ((0.5 + beta) * kd).mean()
    return loss


def loss_of(name: str, module: NCEModel, batch: dict[str, Any], directory: Path) -> Callable[[], Tensor]:
    """A variant's loss; all share the base, but for the naive one's second copy."""
    targets = find_targets(batch)
    if name == PLAIN:
        return lambda: cross_entropy(module.target_logprobs(batch, targets), targets)
    if name == NAIVE:
        return partial(naive_loss, module, copy.deepcopy(module), batch)
    teacher: Any = OnlineTeacher(module.adapters)
    if name == CACHED:
        teacher = cached_teacher(module.adapters, CacheSettings(), directory, 1.0, calibrated=True)
        teacher.targets_for(batch, targets)
        kept = teacher.reader()(batch)  # as a loader's worker reads and pins it
        device, pinned = targets.tokens.device, targets.tokens.is_cuda
        columns = {name: column.pin_memory() if pinned else column for name, column in kept.columns.items()}

    def ours() -> Tensor:
        module._teacher, given = teacher, batch
        if name == CACHED:
            moved = {key: column.to(device, non_blocking=True) for key, column in columns.items()}
            given = {**batch, "teacher": kept._replace(columns=moved)}
        return module.loss_parts(given, targets)["loss"]

    return ours


def as_steps(
    losses: dict[str, Callable[[], Tensor]], module: nn.Module, context: Callable[[], AbstractContextManager[object]]
) -> dict[str, Callable[[], None]]:
    """Loss, gradients and an optimizer step that leaves the weights where they are, so that rounds stay comparable."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0)

    def step(loss: Callable[[], Tensor]) -> None:
        optimizer.zero_grad()
        with context():
            value = loss()
        value.backward()
        optimizer.step()

    return {name: partial(step, loss) for name, loss in losses.items()}


def measure(
    names: Sequence[str], module: NCEModel, directory: Path, options: argparse.Namespace
) -> tuple[dict[str, Timing], dict[str, int]]:
    """Alternates between steps of these variants: their times, and of `online` and `cached` the peaks in bytes."""
    batch = random_batch(module.adapters.base, options.batch, options.sequence, options.prompt, options.compile)
    context = partial(autocast, options)
    with context():
        losses = {name: loss_of(name, module, batch, directory) for name in names}
    steps = as_steps(losses, module, context)
    timings = alternate(steps, options.rounds, 1, options.device)
    held = sum(p.numel() * p.element_size() for p in module.parameters())
    return timings, {n: held + peak_memory(steps[n], options.device) for n in names if n in (ONLINE, CACHED)}


def loss_memory(module: NCEModel, tokens: int) -> dict[str, float]:
    """Peak bytes of the loss alone, hidden states to their gradients, over one float32 tensor [tokens, V]."""
    head, weight = module.adapters.head, module.adapters.base.get_output_embeddings().weight  # [V, d]
    hidden, nat, negative, summary = (torch.randn(tokens, weight.shape[1], device=weight.device) for _ in range(4))
    targets = torch.randint(len(weight), (tokens,), device=weight.device)
    hidden.requires_grad_()

    def losses_of(taught: Any) -> None:
        logprobs, soft = head.distillation_terms(hidden, targets, taught)
        (soft - logprobs).sum().backward()

    runs = {ONLINE: lambda: losses_of(head.teacher_targets(nat, negative).summary), CACHED: lambda: losses_of(summary)}
    return {name: peak_memory(run, str(weight.device)) / (tokens * len(weight) * 4) for name, run in runs.items()}


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = student_arguments(str(__doc__).partition("\n")[0], batch=None)
    parser.add_argument("--prompt", type=int, default=96, help="tokens of a row without a target")
    options = parser.parse_args(words)
    options.batch = options.batch or (1 if options.quick else 4)
    options.rounds = options.rounds or (3 if options.quick else 10)
    if options.shape == "smollm2":
        options.layers = options.layers or (6 if options.quick else 30)
    return options


def main(words: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    options = parse(words)
    begin(options)
    base = build_student(options.shape, options.device, getattr(torch, options.dtype), options.layers)
    numbers = sum(p.numel() for p in base.parameters())
    module = build_nce(base, options.gradient_checkpointing)
    if options.compile:
        module.adapters.compiled = CompiledLayers(module.adapters.base)
    layers, size = base.config.num_hidden_layers, f"batch {options.batch} x {options.sequence}"
    print(f"{options.shape}'s shape, {layers} layers, {size}, {options.prompt} of them prompt, {options.dtype}")
    timings: dict[str, Timing] = {}
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as directory:
        for names in groups([PLAIN, NAIVE, ONLINE, CACHED], options.device):
            with guarded(", ".join(names), options.device):
                times, most = measure(names, module, Path(directory), options)
                timings.update(times)
                peaks.update(most)
    show_timings(timings, PLAIN)
    tokens = 2048
    memory = loss_memory(module, tokens)
    show(
        ["peak memory of the loss", "MiB", f"x one [{tokens}, V] fp32"],
        [[n, f"{m * tokens * base.config.vocab_size * 4 / MIB:.0f}", f"{m:.2f}"] for n, m in memory.items()],
    )
    copies = sum(p.numel() for n, p in module.adapters.named_parameters() if "lora_" not in n) / numbers
    found = targets(timings, max(memory.values()), copies, max(peaks.values(), default=math.inf), options)
    medians = {name: round(1e3 * t.median, 1) for name, t in timings.items()}
    finish(found, medians_ms=medians, layers=layers, peak_bytes=peaks, rates=rates_of(timings, base, options))


def targets(
    timings: dict[str, Timing], loss_share: float, bases: float, peak: float, options: argparse.Namespace
) -> list[Target]:
    """Of docs/performance.md: those of a CPU, or those of a GPU."""
    of_both = [Target("peak memory of the loss / one [B,T,V]", loss_share, 0.4), Target("copies of the base", bases, 1)]
    if torch.device(options.device).type == "cuda":
        return [
            Target("cached tokens/s over plain LoRA", 1 / ratio(timings, CACHED, PLAIN), 0.90, at_least=True),
            Target("peak of a step of NCE, GB", peak / 1e9, 80.0),
            *of_both,
        ]
    return [
        Target("online / plain LoRA, time", ratio(timings, ONLINE, PLAIN), 2.1),
        Target("cached / plain LoRA, time", ratio(timings, CACHED, PLAIN), 1.10),
        *of_both,
    ]


if __name__ == "__main__":
    main()

"""What a step of NCE costs over a step of plain LoRA, and what its loss needs in memory.

    python -m benchmarks.nce_step [--quick] [--layers 30] [--batch 4] [--length 256] [--prompt 96]

Four variants train the same LoRA (r 8 on q_proj and v_proj, AdamW) on the same random batch, in fp32:

* `plain LoRA`: maximum likelihood, our chunked cross-entropy at the targets (what NegativeModel does);
* `naive`: NCE as written: teachers on a second copy of the base, dense logits [B, T, V] of all three models;
* `online`: NCEModel with `teacher: online`, one base;
* `cached`: NCEModel with `teacher: cached` after its first epoch.

The student has SmolLM2-135M's shape. With fewer layers (`--layers`) the output head, a fifth of the whole model,
weighs more: three products with it per target (two teachers' logits, one mean embedding) are what `online` adds there,
over the two of `plain LoRA`.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import MIB, Target, alternate, arguments, begin, finish, peak_memory, ratio, show, timing_rows
from lightning_modules.base import STUDENT
from lightning_modules.components.assistant import NEGATIVE, POSITIVE, UnitSettings, attach_units
from lightning_modules.components.losses import IGNORE, cross_entropy, find_targets
from lightning_modules.components.student import AdapterStack, LoraSettings
from lightning_modules.components.teachers import CacheSettings, OnlineTeacher, cached_teacher
from lightning_modules.nce import NCEModel

PLAIN, NAIVE, ONLINE, CACHED = "plain LoRA", "naive, two copies", "ours, online", "ours, cached"


def build_base(layers: int) -> LlamaForCausalLM:
    """SmolLM2-135M's shape with some of its layers and random weights."""
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192, pad_token_id=0,
    )  # fmt: skip
    model: LlamaForCausalLM = LlamaForCausalLM(config).eval()
    return model


def build_nce(base: LlamaForCausalLM) -> NCEModel:
    """NCE's three models on one base, all with random weights, the student active and trainable."""
    module = NCEModel()
    stack = AdapterStack(base, "smollm2-shaped")
    for adapter in (NEGATIVE, POSITIVE, STUDENT):
        if adapter == STUDENT:
            module.units = attach_units(stack, UnitSettings())
            _shake(module.units.parameters())
            module.units.requires_grad_(False)
        stack.add(adapter, LoraSettings())
        _shake(p for p in stack.parameters() if p.requires_grad)
    module.stack = stack
    return module.train()


def _shake(parameters: Iterable[nn.Parameter]) -> None:
    """Zero-started adapters would make three equal models."""
    for parameter in parameters:
        nn.init.normal_(parameter, std=0.02)


def make_batch(rows: int, length: int, prompt: int, vocabulary: int) -> dict[str, Any]:
    """Random tokens without padding; everything after the prompt is a target."""
    ids = torch.randint(1, vocabulary, (rows, length))
    labels = ids.clone()
    labels[:, :prompt] = IGNORE
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


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


def variants(module: NCEModel, batch: dict[str, Any], directory: Path) -> dict[str, Callable[[], Tensor]]:
    """Each variant's loss by name; they share the base, but for the naive one's second copy."""
    targets, second = find_targets(batch), copy.deepcopy(module)
    online = OnlineTeacher(module.adapters)
    cached = cached_teacher(module.adapters, CacheSettings(), directory, 1.0, calibrated=True)
    cached.lesson(batch, targets)

    def ours(teacher: Any) -> Tensor:
        module._teacher = teacher
        return module.loss_parts(batch, targets)["loss"]

    return {
        PLAIN: lambda: cross_entropy(module.target_logprobs(batch, targets), targets),
        NAIVE: lambda: naive_loss(module, second, batch),
        ONLINE: lambda: ours(online),
        CACHED: lambda: ours(cached),
    }


def as_steps(losses: dict[str, Callable[[], Tensor]], module: nn.Module) -> dict[str, Callable[[], None]]:
    """Loss, gradients and an optimizer step that leaves the weights where they are, so that rounds stay comparable."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0)

    def step(loss: Callable[[], Tensor]) -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return {name: lambda loss=loss: step(loss) for name, loss in losses.items()}  # type: ignore[misc]


def loss_memory(module: NCEModel, tokens: int) -> dict[str, float]:
    """Peak bytes of the loss alone, hidden states to their gradients, over one float32 tensor [tokens, V]."""
    head = module.adapters.head
    vocabulary, width = module.adapters.base.get_output_embeddings().weight.shape
    student, nat, negative = (torch.randn(tokens, width) for _ in range(3))
    targets, summary = torch.randint(int(vocabulary), (tokens,)), torch.randn(tokens, width)
    hidden = student.requires_grad_()

    def learn(lesson: Any) -> None:
        logprobs, soft = head.learn(hidden, targets, lesson)
        (soft - logprobs).sum().backward()

    runs = {ONLINE: lambda: learn(head.teach(nat, negative).summary), CACHED: lambda: learn(summary)}
    return {name: peak_memory(run) / (tokens * int(vocabulary) * 4) for name, run in runs.items()}


def naive_memory(module: NCEModel, tokens: int) -> float:
    """The same of dense logits."""
    weight = module.adapters.base.get_output_embeddings().weight
    student, nat, negative = (torch.randn(tokens, weight.shape[1]) for _ in range(3))
    targets, hidden = torch.randint(len(weight), (tokens, 1)), student.requires_grad_()

    def run() -> None:
        with torch.no_grad():
            log_nat, log_negative = ((h @ weight.mT).log_softmax(-1) for h in (nat, negative))
            (log_negative.exp() * (log_negative - log_nat)).sum(-1)
        log_student = (hidden @ weight.mT).log_softmax(-1)
        (-(log_nat.exp() * log_student).sum(-1) - log_student.gather(-1, targets)[:, 0]).sum().backward()

    return peak_memory(run) / (tokens * len(weight) * 4)


def main() -> None:
    """Runs the benchmark."""
    parser = arguments(str(__doc__).partition("\n")[0])
    parser.add_argument("--layers", type=int, help="decoder layers (default: 30, with --quick 6)")
    parser.add_argument("--batch", type=int, help="rows (default: 4, with --quick 1)")
    parser.add_argument("--length", type=int, default=256, help="tokens a row")
    parser.add_argument("--prompt", type=int, default=96, help="tokens of it without a target")
    options = parser.parse_args()
    options.batch = options.batch or (1 if options.quick else 4)
    options.layers = options.layers or (6 if options.quick else 30)
    begin(options)
    base = build_base(options.layers)
    numbers = sum(p.numel() for p in base.parameters())
    module = build_nce(base)
    batch = make_batch(options.batch, options.length, options.prompt, base.config.vocab_size)
    print(f"SmolLM2-135M's shape, {options.layers} of its 30 layers, batch {options.batch} x {options.length}, "
          f"{options.prompt} of them prompt, fp32")  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        steps = as_steps(variants(module, batch, Path(directory)), module)
        timings = alternate(steps, rounds=options.rounds or (3 if options.quick else 10), warmup=1)
    show(["variant", "ms", "spread", "x plain"], timing_rows(timings, PLAIN))
    tokens = 2048
    memory = {
        **loss_memory(module, tokens),
        NAIVE: naive_memory(module, tokens // 4),
    }  # a multiple, whatever the tokens
    show(
        ["peak memory of the loss", "MiB", f"x one [{tokens}, V] fp32"],
        [[n, f"{m * tokens * base.config.vocab_size * 4 / MIB:.0f}", f"{m:.2f}"] for n, m in memory.items()],
    )
    bases = sum(p.numel() for n, p in module.adapters.named_parameters() if "lora_" not in n) / numbers
    finish([
        Target("online / plain LoRA, time", ratio(timings, ONLINE, PLAIN), 2.1),
        Target("cached / plain LoRA, time", ratio(timings, CACHED, PLAIN), 1.10),
        Target("peak memory of the loss / one [B,T,V]", max(memory[ONLINE], memory[CACHED]), 0.4),
        Target("copies of the base", bases, 1.0),
    ], medians_ms={name: round(1e3 * t.median, 1) for name, t in timings.items()}, layers=options.layers)  # fmt: skip


if __name__ == "__main__":
    main()

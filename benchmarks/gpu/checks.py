"""Whether a GPU computes what the formulas say: unit, output head, packing, sampling; against float64 and the CPU."""

from __future__ import annotations

import copy
import platform
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any
from unittest import mock

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks import nat_step, nce_step
from benchmarks.gpu.step import Step, distance
from benchmarks.harness import alternate, host_waits, peak_memory
from benchmarks.sampling import Task, embedded_task
from benchmarks.students import SHAPES, build_student, random_batch, sharing_weights
from datamodules.components.batching.collate import packed, padded
from datamodules.components.table import Example
from lightning_modules.components.adapters.attention import Attention
from lightning_modules.components.adapters.nat import POSITIVE
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.losses.output_head import OutputHead
from lightning_modules.components.losses.targets import at_targets, find_targets
from lightning_modules.components.sampling import graphs
from lightning_modules.components.sampling.sampler import Sample, sample_each
from lightning_modules.components.sampling.settings import SamplingSettings

Precisions = (torch.float32, torch.bfloat16)


def env(step: Step) -> None:
    """What is installed, and what the card does at best."""
    others = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft", "lightning"))
    step.emit("torch", torch.__version__, note=f"Python {platform.python_version()}, {others}")
    if not step.dry:
        card = torch.cuda.get_device_properties(0)
        step.emit("card", f"{card.name}, {card.total_memory / 2**30:.0f} GiB", note=f"CUDA {torch.version.cuda}")
    n = step.size(8192, 64)
    a, b = torch.randn(2, n, n, device=step.device, dtype=torch.bfloat16)
    seconds = alternate({"": lambda: a @ b}, 5, 2, step.device)[""].median
    step.emit(f"bf16 product {n}^3", 2 * n**3 / seconds / 1e12, "TFLOP/s")
    c, d = torch.randn(2, step.size(2**29, 2**10), device=step.device)
    seconds = alternate({"": lambda: d.copy_(c)}, 5, 2, step.device)[""].median
    step.emit("copy, read + written", 2 * c.nbytes / seconds / 1e12, "TB/s")


def unit(step: Step) -> None:
    """The integration unit in its layer, output and all gradients, against the paper's form in float64."""
    for shape in step.in_time(step.size(["smollm2", "llama7b"], ["tiny"])):
        options = nat_step.parse(["--shape", shape, "--device", step.device, "--batch", "1"])
        with step.attempt(f"unit {shape}"):
            torch.manual_seed(0)
            base = build_student(shape, step.device, layers=1)
            batch = random_batch(base, 1, 2)
            reference = nat_step.build(nat_step.REFERENCE, copy.deepcopy(base).double(), batch, options)
            reference.stack.double()
            variants = {
                name: nat_step.build(name, base, batch, options) for name in (nat_step.OURS, nat_step.REFERENCE)
            }
            for path, layer in reference.stack.lora_layers(POSITIVE).items():
                rows = 2, step.size(512, 20)  # [B, T]
                x = torch.randn(*rows, int(layer.in_features or 0), device=step.device)
                upstream = torch.randn(*rows, int(layer.out_features or 0), device=step.device)
                exact = layer_results(step, reference, path, x.double(), upstream, torch.float64)
                for dtype, bound in zip(Precisions, (2e-5, 5e-2), strict=True):
                    errors = {}
                    for name, variant in variants.items():
                        found = layer_results(step, variant, path, x, upstream, dtype)
                        errors[name] = max((distance(found[k], exact[k]), k.rpartition("/")[2]) for k in exact)
                    worst, where = errors[nat_step.OURS]
                    note = f"{where}; the paper's form {errors[nat_step.REFERENCE][0]:.1e}"
                    step.emit(
                        f"{shape} {path.rpartition('.')[2]} {label(dtype)}, worst", worst, at_most=bound, note=note
                    )


def layer_results(
    step: Step, variant: nat_step.Variant, path: str, x: Tensor, upstream: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """An adapted layer's output for x [B, T, d_in], and the gradients of x and of all weights."""
    x = x.clone().requires_grad_()
    variant.optimizer.zero_grad()
    with step.autocast(dtype):
        out: Tensor = variant.stack.lora_layers(POSITIVE)[path](x)  # type: ignore[operator]  # a layer is a Module, too
    out.backward(upstream.to(out.dtype))
    leaves = {"input": x, **dict(variant.stack.named_parameters())}
    return {"output": out, **{name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}}


def label(dtype: torch.dtype) -> str:
    """How a figure names it."""
    return str(dtype).removeprefix("torch.")


def head(step: Step) -> None:
    """Log-probabilities, KD, KL and their gradient, against dense logits in float64; then what each form costs."""
    for shape in step.in_time(step.size(["smollm2", "llama7b"], ["tiny"])):
        d, v = SHAPES[shape]["hidden_size"], SHAPES[shape]["vocab_size"]
        torch.manual_seed(0)
        weight = torch.randn(v, d, device=step.device) * 0.05
        states = torch.randn(3, step.size(777, 37), d, device=step.device) * (60 / d) ** 0.5
        for base in Precisions:
            for dtype in Precisions if base == torch.float32 else Precisions[1:]:
                what = f"{shape}, base {label(base)}, {label(dtype)}"
                with step.attempt(what):
                    head_errors(step, what, OutputHead(weight.to(base)), states.to(dtype).float(), dtype)
        with step.attempt(f"{shape}, fused"):
            fused = OutputHead(weight.bfloat16())
            fused.compile(step.size("inductor", "aot_eager"))  # for which a CPU needs no compiler
            head_errors(step, f"{shape}, fused, bfloat16", fused, states.bfloat16().float(), torch.bfloat16)
            head_costs(step, shape, {"ours": OutputHead(fused.weight), "ours, fused": fused})


def head_costs(step: Step, shape: str, heads: dict[str, OutputHead]) -> None:
    """Of log P of 8,192 tokens and the gradient: by heads of one weight [V, d], and by dense logits."""
    weight = next(iter(heads.values())).weight
    hidden = torch.randn(step.size(8192, 64), weight.shape[1], device=step.device, dtype=weight.dtype).requires_grad_()
    tokens = torch.randint(len(weight), hidden.shape[:1], device=step.device)

    def dense() -> Tensor:
        return -cross_entropy((hidden @ weight.T).float(), tokens, reduction="none")

    forms: dict[str, Callable[[], Tensor]] = {n: partial(each.logprobs, hidden, tokens) for n, each in heads.items()}
    forms["dense"] = dense

    def gradient(name: str) -> object:
        return torch.autograd.grad(forms[name]().sum(), hidden)

    runs = {name: partial(gradient, name) for name in forms}
    for name, timing in alternate(runs, step.size(5, 1), 2, step.device).items():
        peak = peak_memory(runs[name], step.device)
        step.emit(f"{shape}, {len(hidden)} tokens, {name}", 1e3 * timing.median, "ms", note=f"{peak / 1e9:.2f} GB")


def head_errors(step: Step, what: str, output: OutputHead, states: Tensor, dtype: torch.dtype) -> None:
    """Of a head and states [3, N, d], which `dtype` can hold."""
    ours, nat, negative = states
    tokens, ours = torch.randint(len(output.weight), ours.shape[:1], device=step.device), ours.requires_grad_()
    seen = output.weight.to(dtype).double()
    for temperature in (1.0, 2.0):
        with step.autocast(dtype):
            taught = output.teacher_targets(nat, negative, temperature)
            log_p, kd = output.distillation_terms(ours, tokens, taught.summary, temperature)
        (gradient,) = torch.autograd.grad((kd - log_p).sum(), ours)
        exact = ours.detach().double().requires_grad_()
        z, z_nat, z_negative = exact @ seen.T, nat.double() @ seen.T, negative.double() @ seen.T  # [N, V]
        exact_log_p = z.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        exact_kd = -((z_nat / temperature).softmax(-1) * (z / temperature).log_softmax(-1)).sum(-1)
        difference = z_negative.log_softmax(-1) - z_nat.log_softmax(-1)
        exact_kl = (z_negative.softmax(-1) * difference).sum(-1)
        (exact_gradient,) = torch.autograd.grad((exact_kd - exact_log_p).sum(), exact)
        pairs = {"log P": (log_p, exact_log_p), "KD": (kd, exact_kd), "gradient": (gradient, exact_gradient)}
        pairs["KL"] = (taught.divergence, exact_kl)
        worst, where = max((distance(*pair), name) for name, pair in pairs.items())
        bound = 1e-4 if dtype == torch.float32 else 2e-3
        step.emit(f"{what}, T={temperature:g}, worst", worst, at_most=bound, note=where)
        step.emit(f"{what}, T={temperature:g}, log P at most 0", bool((log_p <= 0).all()))


def packing(step: Step) -> None:
    """Packed rows by every attention against the same samples padded, log P and gradient; then what each costs."""
    draw, width = random.Random(0), step.size(2048, 48)
    lengths = [draw.randint(width // 16, width // 3) for _ in range(step.size(80, 8))]
    samples = [Example(str(i), "", True, [draw.randrange(3, 300) for _ in range(n)], 1) for i, n in enumerate(lengths)]
    layouts = {"padded": padded(samples, 0), "packed": packed(samples, 0, width)}
    batches = {name: move_data_to_device(batch, torch.device(step.device)) for name, batch in layouts.items()}
    ways: list[tuple[torch.dtype, Attention]] = [(torch.float32, "sdpa"), (torch.bfloat16, "sdpa")]
    if not step.dry:
        ways += [(torch.bfloat16, "varlen"), (torch.bfloat16, "flex"), (torch.float32, "flex")]
    for dtype, attention in step.in_time(ways):
        with step.attempt(f"packing {label(dtype)}, {attention}"):
            compare_layouts(step, batches, dtype, attention)


def compare_layouts(step: Step, batches: dict[str, dict[str, Any]], dtype: torch.dtype, attention: Attention) -> None:
    """Of a LoRA on four layers; the gradient may be off by three times the bound."""
    what, bound = f"{label(dtype)}, {attention}", 2e-4 if dtype == torch.float32 else 3e-2
    torch.manual_seed(0)
    base = build_student(step.size("smollm2", "tiny"), step.device, dtype, layers=4)
    stack = AdapterStack(base, "random", attention=attention)
    stack.add("student", LoraSettings(dropout=0.0))
    trained = [p for p in stack.parameters() if p.requires_grad]
    for parameter in trained:
        torch.nn.init.normal_(parameter, std=0.02)
    stack.to(step.device).train()

    def log_p(batch: dict[str, Any]) -> Tensor:
        targets = find_targets(batch)
        with step.autocast(dtype):
            return stack.head.logprobs(at_targets(stack.hidden_of(batch), targets), targets.tokens)

    def gradient(batch: dict[str, Any]) -> Tensor:
        return torch.cat([each.flatten() for each in torch.autograd.grad(log_p(batch).sum(), trained)])

    for quantity, run, most in (("log P", log_p, bound), ("gradient", gradient, 3 * bound)):
        error = distance(run(batches["packed"]), run(batches["padded"]))
        step.emit(f"{what}: {quantity}, packed against padded", error, at_most=most)
    runs = {name: partial(gradient, batch) for name, batch in batches.items()}
    for name, timing in alternate(runs, step.size(5, 1), 2, step.device).items():
        step.emit(f"{what}: 4 layers, {name}", 1e3 * timing.median, "ms")


def waits(step: Step) -> None:
    """How often a forward and backward pass makes the host wait: once a pass of the decoder, in transformers."""
    base = build_student("tiny", step.device)
    batch = random_batch(base, 2, 16)
    options = nat_step.parse(["--shape", "tiny", "--device", step.device])
    losses: dict[str, tuple[int, Callable[[], Tensor]]] = {
        name: (1, nat_step.build(name, base, batch, options).loss) for name in (nat_step.LORA_16, nat_step.OURS)
    }
    module = nce_step.build_nce(sharing_weights(base), False)
    losses["NCE, online"] = 3, partial(module.training_step, batch, 0)
    for name, (passes, loss) in losses.items():
        loss().backward()  # checks come with the first pass
        with host_waits(step.device) as found:
            loss().backward()
        step.emit(name, sum(found.values()), "waits", at_most=passes, note=", ".join(found))


def sampling(step: Step) -> None:
    """Greedy answers against the CPU's and `generate`'s, samples by their seeds, log P against float64."""
    task = embedded_task(step.size(32, 6), SamplingSettings(max_new_tokens=step.size(64, 12), seed=5), 0)
    task.model.eval()
    on_cpu = draw(task, temperature=0.0), draw(task, samples=4, temperature=1.0)
    for dtype in step.in_time(Precisions):
        with step.attempt(f"sampling {label(dtype)}"):
            compare_samples(step, replace(task, model=copy.deepcopy(task.model).to(step.device, dtype)), *on_cpu)


def compare_samples(step: Step, task: Task, greedy_on_cpu: list[Sample], drawn_on_cpu: list[Sample]) -> None:
    """Of the task's model. In bfloat16 a close decision may fall to either side: shares have no bound there."""
    dtype = task.model.dtype
    least, bound = (0.98, 1e-4) if dtype == torch.float32 else (None, 2e-2)
    greedy, drawn = draw(task, temperature=0.0), draw(task, samples=4, temperature=1.0)
    again, in_twelve = (draw(task, samples=4, temperature=1.0, rows=rows) for rows in (task.settings.rows, 12))
    with mock.patch.object(graphs, "captures", return_value=False):
        plain = draw(task, samples=4, temperature=1.0)
    exact_four, exact_two = (draw(task, samples=n, temperature=1.0, rows=24, exact=True) for n in (4, 2))
    ids, mask = (tensor.to(step.device) for tensor in task.batch())
    settings = {"max_new_tokens": task.settings.max_new_tokens, "do_sample": False, "pad_token_id": task.pad}
    written = task.model.generate(input_ids=ids, attention_mask=mask, eos_token_id=task.eos, **settings)
    theirs = written[:, ids.shape[1] :].tolist()
    same = [row[: one.tokens] == whole(one, task) for one, row in zip(greedy, theirs, strict=True)]
    shares = {
        "greedy, equal to the CPU's": (equal(greedy, greedy_on_cpu), least),
        "greedy, equal to generate's": (statistics.fmean(same), least),
        "drawn, equal to the CPU's": (equal(drawn, drawn_on_cpu), least),
        "drawn again, equal": (equal(drawn, again), 1.0),
        "drawn without CUDA graphs, equal": (equal(drawn, plain), 1.0),
        "exact, beside others, equal": (equal([one for one in exact_four if one.k < 2], exact_two), 1.0),
        "drawn in 12 rows, equal": (equal(drawn, in_twelve), least),
    }
    for what, (share, at_least) in shares.items():
        step.emit(f"{label(dtype)}: {what}", share, at_least=at_least)
    exact = copy.deepcopy(task.model).double()
    prompts = [row[row_mask.bool()] for row, row_mask in zip(ids, mask, strict=True)]
    worst = max(logprob_error(exact, prompts[one.question_index], one, task) for one in drawn[::8])
    step.emit(f"{label(dtype)}: log P a token against float64", worst, at_most=bound)


def draw(task: Task, **changes: Any) -> list[Sample]:
    """The task's samples, by question and number."""
    ids, mask = (tensor.to(task.model.device) for tensor in task.batch())
    names = [str(i) for i in range(len(ids))]
    each = sample_each(task.model, ids, mask, names, task.eos, task.pad, replace(task.settings, **changes))
    return sorted((one for question in each for one in question), key=lambda one: (one.question_index, one.k))


def whole(sample: Sample, task: Task) -> list[int]:
    """Its tokens with EOS."""
    return [*sample.token_ids, *task.eos[: int(sample.finished)]]


def equal(some: list[Sample], others: list[Sample]) -> float:
    """The share of samples with the same tokens."""
    return statistics.fmean(a.token_ids == b.token_ids for a, b in zip(some, others, strict=True))


@torch.no_grad()
def logprob_error(exact: Any, prompt: Tensor, sample: Sample, task: Task) -> float:
    """How far a sample's log-probability a token is from the exact model's."""
    tokens = torch.tensor(whole(sample, task), device=prompt.device)  # [T]
    log_p = exact(torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)  # [T, V]
    error: float = abs(log_p.gather(-1, tokens[:, None]).sum().item() - sample.logprob)
    return error / len(tokens)

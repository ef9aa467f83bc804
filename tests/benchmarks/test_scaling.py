"""The formulas of docs/scaling.md against modules that exist."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import data_scale, nat_step, nce_step, scaling
from benchmarks.scaling import ASSUMED, STUDENTS, Adapted
from benchmarks.students import SHAPES, build_student
from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE, UnitSettings, attach_units
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.distillation.teachers import OnlineTeacher
from lightning_modules.components.losses.supervised import find_targets
from lightning_modules.components.sharding import shard_layers, shard_modules

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")


def trained(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("shape", ["tiny", "smollm2", *STUDENTS.values()])
def test_parameters_are_those_of_the_modules(shape: str) -> None:
    """On the meta device: nothing is allocated."""
    model, counted = build_student(shape, "meta"), Adapted(shape)
    assert model.num_parameters() == counted.base
    stack = AdapterStack(model, shape)
    with torch.device("meta"):
        stack.add(NEGATIVE, LoraSettings())
        assert trained(stack) == counted.lora == counted.trained("LoRA") == counted.frozen("NAT")[0]
        stack.add(POSITIVE, LoraSettings())
        stack.units = attach_units(stack, UnitSettings())
    assert trained(stack) == counted.trained("NAT")


VARIANTS = pytest.mark.parametrize(("name", "method"), [(nat_step.LORA_8, "LoRA"), (nat_step.OURS, "NAT")])
CHECKPOINTED = pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])


def a_variant(shape: str, name: str, sequence: int, dtype: str, checkpointed: bool) -> nat_step.Variant:
    """Two rows of a random student with its adapters, its output head found."""
    words = ["--shape", shape, "--batch", "2", "--sequence", str(sequence), "--dtype", dtype]
    options = nat_step.parse([*words, *(["--gradient-checkpointing"] if checkpointed else [])])
    base = build_student(shape, dtype=getattr(torch, dtype))
    variant = nat_step.build(name, base, nat_step.random_batch(options), options)
    assert variant.stack.head is not None  # found at its first use, by a forward pass
    return variant


def per_token(count: Callable[[int], float], shorter: int, longer: int) -> float:
    """Between two lengths of two rows, so that what a step has whatever its tokens drops out."""
    return (count(longer) - count(shorter)) / (2 * (longer - shorter))


@pytest.mark.parametrize(("shape", "dtype"), [("tiny", "float32"), ("smollm2", "float32"), ("smollm2", "bfloat16")])
@VARIANTS
@CHECKPOINTED
def test_saved_bytes_are_those_of_a_forward_pass(
    shape: str, dtype: str, name: str, method: str, checkpointed: bool
) -> None:
    student, single = Adapted(shape), dtype == "float32"
    found = per_token(lambda t: nat_step.saved_bytes(a_variant(shape, name, t, dtype, checkpointed)), 16, 48)
    if checkpointed:  # a layer's input each, and behind the last the norm's, in float32 whatever the dtype
        expected = (4 if single else 2) * student.width * student.layers + 4 * student.width
    else:
        layer = 4 * student.saved(method) if single else student.saved_bytes(method)
        expected = student.layers * layer
    assert found == pytest.approx(expected, rel=0.03)


def flops_of(variant: nat_step.Variant) -> int:
    with FlopCounterMode(display=False) as counter:
        variant.step()
    return int(counter.get_total_flops())


@VARIANTS
@CHECKPOINTED
def test_flops_are_those_of_a_step(name: str, method: str, checkpointed: bool) -> None:
    """Without attention, whose fused form on a CPU is not counted."""
    found = per_token(lambda t: flops_of(a_variant("smollm2", name, t, "float32", checkpointed)), 32, 64)
    assert found == pytest.approx(Adapted("smollm2").flops(method, checkpointed, sequence=0), rel=0.01)


def test_attention_is_counted_by_the_half_that_it_sees() -> None:
    """Unfused, all T² products are made and counted, twice those of the causal half."""
    found = []
    for kernel in ("eager", "sdpa"):
        variant = a_variant("smollm2", nat_step.LORA_8, 64, "float32", True)
        variant.stack.base.set_attn_implementation(kernel)
        found.append(flops_of(variant) / (2 * 64))
    student = Adapted("smollm2")
    modelled = student.flops("LoRA", sequence=64) - student.flops("LoRA", sequence=0)
    assert found[0] - found[1] == pytest.approx(2 * modelled, rel=0.01)


def test_flops_of_the_teachers_and_of_a_step_with_them() -> None:
    def count(tokens: int, teach: bool) -> float:
        module = nce_step.build_nce(build_student("smollm2"))
        batch = nce_step.make_batch(2, tokens, 0, SHAPES["smollm2"]["vocab_size"])
        targets, teacher = find_targets(batch), OnlineTeacher(module.adapters)
        assert module.adapters.head is not None
        module._teacher = teacher
        with FlopCounterMode(display=False) as counter:
            teacher.targets_for(batch, targets) if teach else module.loss_parts(batch, targets)["loss"].backward()
        return float(counter.get_total_flops())

    student = Adapted("smollm2")
    assert per_token(lambda t: count(t, True), 32, 64) == pytest.approx(student.teachers(0), rel=0.01)
    step = student.flops("NCE, online", checkpointed=False, sequence=0)
    assert per_token(lambda t: count(t, False), 32, 64) == pytest.approx(step, rel=0.01)


@pytest.mark.parametrize("name", [nat_step.LORA_8, nat_step.OURS])
def test_fsdp2_cuts_and_gathers_what_the_model_says(name: str) -> None:
    """As one of 8 processes, whose others are made up."""
    method = {nat_step.LORA_8: "LoRA", nat_step.OURS: "NAT"}[name]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        whole, share, gathered = pool.apply(one_of_eight, (name,))
    student = Adapted("tiny")
    adapters, units = student.frozen(method)
    assert (whole, units) == (student.outside + adapters, 0)
    assert 8 * share == student.inside + student.trained(method)
    assert gathered == scaling.gathered_bytes(student, method)


def one_of_eight(name: str) -> tuple[int, int, int]:
    """Numbers that a process holds whole, and in shares, and bytes of a step's gathers and scatters, in bf16."""
    store = FakeStore()
    dist.init_process_group("fake", rank=0, world_size=8, store=store)
    mesh = init_device_mesh("cpu", (8,))
    moved: list[int] = []
    for operation in ("all_gather_single", "reduce_scatter_single"):
        setattr(dist, operation, recording(getattr(dist, operation), moved))
    variant = a_variant("tiny", name, 16, "bfloat16", True)
    shard_layers(variant.stack.base.get_decoder(), mesh)
    shard_modules(getattr(variant.stack, "units", {}).values(), mesh)
    variant.optimizer = torch.optim.AdamW([p for p in variant.stack.parameters() if p.requires_grad])
    variant.step()
    parameters = list(variant.stack.parameters())
    shares = sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor))
    return sum(p.numel() for p in parameters if not isinstance(p, DTensor)), shares, sum(moved)


def recording(operation: Callable[..., Any], moved: list[int]) -> Callable[..., Any]:
    """The operation, which notes the bytes of the larger of its tensors: the whole that is gathered or scattered."""

    def record(*positional: Any, **named: Any) -> Any:
        tensors = [value for value in (*positional, *named.values()) if isinstance(value, torch.Tensor)]
        moved.append(max(tensor.numel() * tensor.element_size() for tensor in tensors))
        return operation(*positional, **named)

    return record


def test_optimizer_and_checkpoint_bytes() -> None:
    options = nat_step.parse(["--shape", "tiny", "--batch", "2", "--sequence", "16"])
    variant = nat_step.build(nat_step.OURS, build_student("tiny"), nat_step.random_batch(options), options)
    variant.step()
    moments = sum(
        value.numel() * value.element_size()
        for state in variant.optimizer.state.values()
        for value in state.values()
        if value.dim()
    )
    student = Adapted("tiny")
    assert moments == 8 * student.trained("NAT")
    assert moments + 4 * trained(variant.stack) == scaling.checkpoint_bytes(student, "NAT")


def test_the_cache_file_is_as_large_as_its_records() -> None:
    from lightning_modules.components.distillation.storage import STORAGES

    student = Adapted("tiny")
    row = STORAGES["float16"](SHAPES["tiny"]["vocab_size"], student.width, True, 1).row_bytes
    assert scaling.cache_bytes(student, targets=10) == scaling.SAMPLES * (10 * row + 28)


def test_more_gpus_cost_no_memory_and_no_time() -> None:
    student = Adapted("llama7b")
    for method in scaling.METHODS:
        sizes = [scaling.memory(student, method, n) for n in scaling.GPUS]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] < scaling.memory(student, method, 1, checkpointed=False)
        hours = [scaling.epoch_hours(student, method, n) for n in scaling.GPUS]
        assert hours == sorted(hours, reverse=True)
    online, cached = (student.flops(method) for method in ("NCE, online", "NCE, cached"))
    assert online - cached == student.teachers()
    online, cached = (student.flops(method, checkpointed=False) for method in ("NCE, online", "NCE, cached"))
    assert 1.9 < online / cached < 2.1  # docs/performance.md, 7
    assert scaling.memory(Adapted("llama70b"), "LoRA", 1) > ASSUMED.memory


def test_sampling_takes_as_long_as_the_slowest_of_its_parts() -> None:
    seven, seventy = Adapted("llama7b"), Adapted("llama70b")
    hours = [scaling.sampling_hours(seven, "NCE", rows) for rows in (32, 64)]
    assert hours[1] == pytest.approx(hours[0] / 2, rel=0.02)  # Python's: the same a step, whatever the rows
    tokens = scaling.SAMPLES * ASSUMED.targets * scaling.TOKENS
    read = seventy.inside * 4.5 / ASSUMED.bandwidth * tokens / 64 / 3600  # the base's alone, 4 bits a weight
    assert read < scaling.sampling_hours(seventy, "NCE", 64, bits=4) < 1.2 * read
    assert scaling.sampling_hours(seventy, "NCE", 64) == float("inf")  # 16 bits: 138 GB


def test_the_document_has_the_tables_that_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main()
    document = (REPOSITORY / "docs/scaling.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in capsys.readouterr().out.splitlines() if line and line not in document] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", data_scale.MEASURED)
def test_data_cost_no_more_than_measured(name: str, tmp_path: Path) -> None:
    """Memory alone: it is the same on every machine, and small numbers of samples cost more a sample, not less."""
    planned, mapped = name.startswith("plan"), name.endswith("map")  # plans read nothing; buffers to map are large
    rows = 200_000 if planned else 100_000 if mapped else 20_000
    data_scale.write_samples(tmp_path / "samples.jsonl", 20_000 if planned else rows)
    for what in ["encode to map", name] if name == "map" else [name]:  # mapped is what was encoded before
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            _, size = pool.apply(data_scale.measure, (what, tmp_path / "samples.jsonl", rows))
    recorded = {
        "prepare (strings)": "prepare, by strings",
        "read and encode": "read and encode, each rank",
        "plan, rows": "plan an epoch",
        "plan, token budget": "plan an epoch",
        "plan, packing": "plan an epoch, packing",
        "teacher cache's index": "index of cached teachers",
        "encode to map": "encode once, to map",
        "map": "map, each rank",
        "RANK's pairs": "RANK's pairs, each rank",
        "score": "records to score, each rank",
        "questions": "questions, each rank",
        "join samples": "joining samples, rank 0",
        "vote": "samples to vote, each rank",
    }
    buffers = 40e6 if name == "encode to map" else 0.0  # the tokenizer's, however many samples there are
    assert size * rows < 3 * scaling.MEASURED[recorded[name]][1] * rows + buffers

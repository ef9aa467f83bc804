"""The formulas of docs/scaling.md against modules that exist."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from benchmarks import data_scale, nat_step, scaling
from benchmarks.scaling import ASSUMED, STUDENTS, Adapted
from benchmarks.students import SHAPES, build_student
from lightning_modules.components.assistant import NEGATIVE, POSITIVE, UnitSettings, attach_units
from lightning_modules.components.record_file import _HEAD
from lightning_modules.components.student import AdapterStack, LoraSettings

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
        assert trained(stack) == counted.lora == counted.trained("LoRA") == counted.frozen("NAT")
        stack.add(POSITIVE, LoraSettings())
        stack.units = attach_units(stack, UnitSettings())
    assert trained(stack) == counted.trained("NAT")


@pytest.mark.parametrize("shape", ["tiny", "smollm2"])
@pytest.mark.parametrize(("name", "method"), [(nat_step.LORA_8, "LoRA"), (nat_step.OURS, "NAT")])
def test_saved_numbers_are_those_of_a_forward_pass(shape: str, name: str, method: str) -> None:
    """Between two lengths, so that what a step keeps whatever its tokens drops out."""
    base, found = build_student(shape), []
    for sequence in (16, 48):
        options = nat_step.parse(["--shape", shape, "--batch", "2", "--sequence", str(sequence)])
        found.append(nat_step.saved_bytes(nat_step.build(name, base, nat_step.random_batch(options), options)))
    per_token = (found[1] - found[0]) / (2 * 32) / 4 / SHAPES[shape]["num_hidden_layers"]
    assert per_token == pytest.approx(Adapted(shape).saved(method), rel=0.03)


def test_checkpointing_saves_a_layers_input() -> None:
    options = nat_step.parse(["--shape", "smollm2", "--batch", "2", "--sequence", "16", "--gradient-checkpointing"])
    base = build_student("smollm2")
    saved = nat_step.saved_bytes(nat_step.build(nat_step.OURS, base, nat_step.random_batch(options), options))
    student = Adapted("smollm2")
    assert saved / 4 / 32 == pytest.approx(student.width * (student.layers + 1), rel=0.01)


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
    from lightning_modules.components.lessons import STORAGES

    student = Adapted("tiny")
    row = STORAGES["float16"](SHAPES["tiny"]["vocab_size"], student.width, True, 1).row_bytes
    assert scaling.cache_bytes(student, targets=10) == scaling.SAMPLES * (10 * row + _HEAD.size)


def test_more_gpus_cost_no_memory_and_no_time() -> None:
    student = Adapted("llama7b")
    for method in scaling.METHODS:
        sizes = [scaling.memory(student, method, n) for n in scaling.GPUS]
        assert sizes == sorted(sizes, reverse=True)
        hours = [scaling.epoch_hours(student, method, n) for n in scaling.GPUS]
        assert hours == sorted(hours, reverse=True)
    online, cached = (student.flops(method) for method in ("NCE, online", "NCE, cached"))
    assert 1.9 < online / cached < 2.1  # docs/performance.md, 7
    assert scaling.memory(Adapted("llama70b"), "LoRA", 1) > ASSUMED.memory


def test_the_document_has_the_tables_that_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main()
    document = (REPOSITORY / "docs/scaling.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in capsys.readouterr().out.splitlines() if line and line not in document] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", data_scale.MEASURED)
def test_data_cost_no_more_than_measured(name: str, tmp_path: Path) -> None:
    """Memory alone: it is the same on every machine, and small numbers of samples cost more a sample, not less."""
    rows = 200_000 if name.startswith("plan") else 20_000  # of which nothing is read
    data_scale.write_samples(tmp_path / "samples.jsonl", min(rows, 20_000))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        _, size = pool.apply(data_scale.measure, (name, tmp_path / "samples.jsonl", rows))
    recorded = {
        "prepare (strings)": "prepare, by strings", "read and encode": "read and encode, each rank",
        "plan, rows": "plan an epoch", "plan, token budget": "plan an epoch", "plan, packing": "plan an epoch, packing",
        "teacher cache's index": "index of cached teachers", "encode to map": "encode once, to map",
        "map": "map, each rank",
    }  # fmt: skip
    assert size < 3 * scaling.MEASURED[recorded[name]][1]

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import harness, nat_step, nce_step
from benchmarks.harness import Timing
from benchmarks.nce_step import CACHED, NAIVE, ONLINE
from benchmarks.students import build_student, random_batch


def test_all_variants_of_nce_have_the_same_loss_and_gradients(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = build_student("smollm2", layers=1)
    module, batch = nce_step.build_nce(base).eval(), random_batch(base, 2, 12, 4)  # no dropout
    trained = [p for p in module.parameters() if p.requires_grad]
    losses = {name: nce_step.loss_of(name, module, batch, tmp_path)() for name in (NAIVE, ONLINE, CACHED)}
    found = {name: (loss, torch.autograd.grad(loss, trained)) for name, loss in losses.items()}
    for name, tolerance in ((ONLINE, 1e-4), (CACHED, 1e-2)):
        assert found[name][0].item() == pytest.approx(found[NAIVE][0].item(), rel=tolerance)
        for ours, naive in zip(found[name][1], found[NAIVE][1], strict=True):
            assert (ours - naive).norm() <= tolerance * naive.norm()


@pytest.mark.parametrize("benchmark", [nat_step, nce_step])
def test_on_a_gpu_a_variant_without_memory_ends_alone(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def alternate(runs: dict[str, Any], *args: Any) -> dict[str, Timing]:
        assert len(runs) == 1
        if set(runs) & {NAIVE, nat_step.REFERENCE}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return harness.alternate(runs, *args)

    monkeypatch.setattr(benchmark, "groups", lambda names, device: [[name] for name in names])
    monkeypatch.setattr(benchmark, "alternate", alternate)
    benchmark.main("--shape tiny --layers 3 --batch 1 --sequence 24 --rounds 1 --threads 1".split())
    out = capsys.readouterr().out
    last = json.loads(out.splitlines()[-1])
    assert out.count(": out of memory") == 1
    assert len(last["rates"]) == 3
    assert last["layers"] == 3


def test_a_whole_run_in_bfloat16_with_checkpointing_says_its_targets(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--shape tiny --batch 1 --sequence 8 --prompt 2 --rounds 1 --threads 1 --dtype bfloat16"
    nce_step.main([*words.split(), "--gradient-checkpointing"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["targets"]["copies of the base"]["met"]
    assert last["layers"] == 2
    assert set(last["peak_bytes"]) == {ONLINE, CACHED}

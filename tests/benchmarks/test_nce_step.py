import json
from pathlib import Path

import pytest
import torch

from benchmarks import nce_step
from benchmarks.nce_step import CACHED, NAIVE, ONLINE
from benchmarks.students import build_student, random_batch


def test_all_variants_of_nce_have_the_same_loss_and_gradients(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = build_student("smollm2", layers=1)
    module, batch = nce_step.build_nce(base).eval(), random_batch(base, 2, 12, 4)  # no dropout
    losses = nce_step.variants(module, batch, tmp_path)
    trained = [p for p in module.parameters() if p.requires_grad]
    found = {name: (loss := losses[name](), torch.autograd.grad(loss, trained)) for name in (NAIVE, ONLINE, CACHED)}
    for name, tolerance in ((ONLINE, 1e-4), (CACHED, 1e-2)):
        assert found[name][0].item() == pytest.approx(found[NAIVE][0].item(), rel=tolerance)
        for ours, naive in zip(found[name][1], found[NAIVE][1], strict=True):
            assert (ours - naive).norm() <= tolerance * naive.norm()


def test_a_whole_run_in_bfloat16_with_checkpointing_says_its_targets(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--shape tiny --batch 1 --sequence 8 --prompt 2 --rounds 1 --threads 1 --dtype bfloat16"
    nce_step.main([*words.split(), "--gradient-checkpointing"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["targets"]["copies of the base"]["met"]
    assert last["layers"] == 2
    assert set(last["peak_bytes"]) == {ONLINE, CACHED}

import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import checks
from benchmarks.gpu.step import Step
from lightning_modules.components.losses.output_head import OutputHead
from tests.benchmarks.gpu.test_step import figures

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["env", "unit", "head", "packing", "waits", "sampling"])
def test_all_is_right_on_a_cpu(name: str, tmp_path: Path) -> None:
    getattr(checks, name)(Step(name, tmp_path, time.time() + 600, dry=True))
    rows = figures(tmp_path)
    assert [row for row in rows if row["met"] is False] == []
    assert len(rows) > 2


def test_a_wrong_head_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = OutputHead.logprobs
    monkeypatch.setattr(OutputHead, "distillation_terms", lambda self, h, t, *_: (right(self, h, t) + 1e-3, h.sum(-1)))
    checks.head_errors(
        Step("head", tmp_path, time.time() + 60, dry=True),
        "tiny",
        OutputHead(torch.randn(50, 16)),
        torch.randn(3, 9, 16),
        torch.float32,
    )
    assert [row["met"] for row in figures(tmp_path)] == [False, True] * 2

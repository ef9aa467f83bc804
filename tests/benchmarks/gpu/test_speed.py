import time
from pathlib import Path

import pytest
import torch

from benchmarks import nat_step
from benchmarks.gpu import speed
from benchmarks.gpu.step import Step
from benchmarks.nat_step import LORA_16, OURS
from tests.benchmarks.gpu.test_step import figures

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_variant_without_memory_leaves_the_others_their_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = nat_step.build

    def small_card(name: str, *arguments: object) -> nat_step.Variant:
        if name == OURS:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return build(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(nat_step, "build", small_card)
    speed.llama(Step("llama", tmp_path, time.time() + 600, dry=True))
    found = {str(row["figure"]): row for row in figures(tmp_path)}
    assert found[f"tiny 2 x 16 {OURS}"]["value"] == "out of memory"
    assert found[f"tiny 2 x 16 {LORA_16}"]["unit"] == "tokens/s"
    assert len(found) == 6
    assert not any(row["met"] is False for row in found.values())


@pytest.mark.parametrize(("name", "least"), [("train", 4), ("sample", 3), ("compiled", 2)])
def test_the_small_student_is_measured(name: str, least: int, tmp_path: Path) -> None:
    getattr(speed, name)(Step(name, tmp_path, time.time() + 600, dry=True))
    rows = figures(tmp_path)
    assert all(row["unit"] == "tokens/s" and row["value"] > 0 for row in rows), rows  # type: ignore[operator]
    assert len(rows) == least

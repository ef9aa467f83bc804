import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.step import Step, distance


def figures(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]


def test_a_figure_is_written_at_once_and_held_against_its_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Step("unit", tmp_path, time.time() + 60, dry=True)
    step.emit("speed", 12345.678, "tokens/s", note="fast")
    assert capsys.readouterr().out == "unit  speed  12350.0  tokens/s  fast\n"
    step.emit("error", 2e-5, at_most=1e-5)
    step.emit("share", 1.0, at_least=0.98)
    step.emit("nothing", float("nan"), at_most=1.0)
    step.emit("right", True)
    met = {row["figure"]: (row["bound"], row["met"]) for row in figures(tmp_path)}
    assert met == {
        "speed": ("", None),
        "error": ("<= 1e-05", False),
        "share": (">= 0.98", True),
        "nothing": ("<= 1", False),
        "right": ("", True),
    }


def test_a_part_fails_or_runs_out_of_memory_alone(tmp_path: Path) -> None:
    step = Step("train", tmp_path, time.time() + 60, dry=True)
    with step.attempt("large"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with step.attempt("wrong"):
        _ = 1 / 0
    assert [(row["figure"], row["value"], row["met"]) for row in figures(tmp_path)] == [
        ("large", "out of memory", None),
        ("wrong", False, False),
    ]


def test_nothing_begins_after_the_deadline(tmp_path: Path) -> None:
    step = Step("train", tmp_path, time.time() + 0.2, dry=True)
    begun = []
    for part in step.in_time([0.0, 0.3, 0.0]):
        begun.append(part)
        time.sleep(part)
    assert begun == [0.0, 0.3]
    assert figures(tmp_path)[0]["figure"] == "stopped by its time limit before"


def test_distance_is_relative() -> None:
    assert distance(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)

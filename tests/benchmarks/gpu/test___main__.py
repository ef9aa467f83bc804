import json
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as gpu
from tests.conftest import REPOSITORY


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]


def test_a_dry_run_of_a_step_prints_its_figures_and_a_table(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--only", "unit", "--output", str(tmp_path)]
    out = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert "| unit | tiny q_proj float32, worst" in out
    assert rows(tmp_path)[-1] | {"note": ""} == {
        "step": "unit", "figure": "ended with status", "value": 0, "unit": "", "bound": "", "met": True, "note": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("does", "status", "met"),
    [
        ("", 0, True),
        ("os._exit(3)", 3, False),
        ("os.kill(os.getpid(), 9)", -9, False),
        ("child = subprocess.Popen(['sleep', '61']); time.sleep(61)", "killed: out of time", False),
    ],
)
def test_a_step_that_ends_badly_loses_nothing(
    does: str, status: object, met: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, each of which notes a figure; then the first one does what it is told."""
    start, row = subprocess.Popen, {"figure": "speed", "value": 1, "unit": "", "bound": "", "met": None, "note": ""}

    def process(words: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        name = words[words.index("--only") + 1]
        line = json.dumps({"step": name, **row})
        code = f"import os, subprocess, time\nopen({str(tmp_path / 'results.jsonl')!r}, 'a').write({line!r} + '\\n')\n"
        return start([sys.executable, "-c", code + (does if name == "unit" else "")], **options)

    monkeypatch.setattr(subprocess, "Popen", process)
    monkeypatch.setattr(gpu, "STEPS", {"unit": ("", 2), "head": ("", 20)})
    monkeypatch.setattr(gpu, "LEAST", 0)
    monkeypatch.setattr(gpu, "GRACE", 0)
    assert gpu.main(["--only", "unit,head", "--output", str(tmp_path)]) == int(not met)
    found = [(row["step"], row["value"], row["met"]) for row in rows(tmp_path)]
    assert found == [("unit", 1, None), ("unit", status, met), ("head", 1, None), ("head", 0, True)]


def test_what_the_budget_has_no_time_for_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Namespace(budget=20.0, output=tmp_path, dry_run=True, student=None)
    assert gpu.drive(["llama"], options) == 0
    assert "left out" in capsys.readouterr().out


def test_an_unknown_step_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--only", "unit,speeed"])
    assert "no step is named speeed: choose from env, unit" in capsys.readouterr().err


def test_without_a_card_it_says_so_and_starts_no_further_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a card")
    here = ["--output", str(tmp_path)]
    assert gpu.main(["--only", "unit", "--deadline", str(time.time() + 60), *here]) == gpu.NO_CARD
    (tmp_path / "unit.log").write_text(capsys.readouterr().err)
    monkeypatch.setattr(gpu, "execute", lambda *_: gpu.NO_CARD)
    assert gpu.main(["--only", "unit,head", *here]) == 1
    assert "no CUDA card here\n  --dry-run" in capsys.readouterr().out
    assert [row["step"] for row in rows(tmp_path)] == ["unit"]


@pytest.mark.slow
def test_the_whole_dry_run(tmp_path: Path) -> None:
    assert gpu.main(["--dry-run", "--budget", "3600", "--output", str(tmp_path)]) == 0
    assert {row["step"] for row in rows(tmp_path)} == set(gpu.STEPS)

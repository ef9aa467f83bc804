"""`make faults`, shortened: commands killed at random points make what undisturbed ones make."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.components.records.records import Rationale, write_rationales
from tests import faults
from tests.fault_cases import Case
from tests.records import rationale
from tests.words import REPOSITORY


@pytest.mark.parametrize(
    ("cases", "points"),
    [
        ("fit-nce-cached,predict,prepare,collect,run", 1),
        pytest.param("fit-neg,fit-nat,fit-nce,fit-nce-cached,fit-rank", 3, marks=pytest.mark.slow),
        pytest.param("predict,prepare,collect,run", 3, marks=pytest.mark.slow),
    ],
)
def test_killed_commands_lose_nothing(cases: str, points: int) -> None:
    command = [sys.executable, "-m", "tests.faults", "--points", str(points), "--only", cases]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [line.split(" | ") for line in done.stdout.strip().splitlines()[2:]]
    assert [cells[0].removeprefix("| ") for cells in rows] == cases.split(",")
    for _, killed, runs, same, different in rows:
        assert (int(killed), same, different) == (points, runs, "0 |")


def test_what_differs_from_the_undisturbed_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of samples the `logprob` may differ, by its rounding."""
    sample = rationale(0, 0, logprob=-12.5)
    records: dict[str, tuple[Rationale, list[str]]] = {
        "whole": (sample, []),
        "rounded": (replace(sample, logprob=-12.500001), []),
        "far": (replace(sample, logprob=-12.6), ["logprob of samples.jsonl differs by 1.0e-01"]),
        "turned": (replace(sample, rationale="Another one."), ["samples.jsonl differs"]),
        "other": (sample, ["1 losses differ, the first at . train 0:1"]),
    }
    for root, (record, _) in records.items():
        write_rationales(tmp_path / root / "samples.jsonl", [record])
        losses = "train 0:0 0x1p+0\ntrain 0:1 0x1p+1\n" + "train 0:1 0x1p+2\n" * (root == "other")
        (tmp_path / root / "losses.txt").write_text(losses, encoding="utf-8")
    monkeypatch.setattr(faults, "finish", lambda words, home: 0)
    case = Case("predict", lambda root: [], ("samples.jsonl",))
    expected = faults.contents(tmp_path / "whole", case.patterns)
    for root, (_, says) in records.items():
        assert faults.compared(case, tmp_path / root, tmp_path, expected, tmp_path / "whole") == says

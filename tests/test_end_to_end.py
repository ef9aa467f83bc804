"""The whole method in small, on the embedded student, a few steps a stage: the demo, twice, and the paper's tables."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from dust2gold import cli
from tests.dust2gold.run.test_tables import ROWS as TABLES
from tests.words import REPOSITORY

pytestmark = pytest.mark.filterwarnings("ignore")

STAGES = [
    "data",
    "cot-kd",
    "cot-kd-long",
    "mix",
    "neg",
    "nat",
    "nat-no-negatives",
    "samples",
    "nce",
    "rank",
    "votes",
    "report",
]
METHODS = {
    "cot-kd",
    "cot-kd-long",
    "mix",
    "nat-no-negatives",
    "neg",
    "nat",
    "nce",
    "sc",
    "ws",
    "asc",
    "asc-1+s",
    "asc-1+2s",
}
ROWS = METHODS - {"cot-kd-long"} | set(TABLES) - {"cot-kd-samples"}  # a stage without a row
DATA = ("data", "data-negatives-25", "data-negatives-50", "data-semantic")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the configs, the overlays of the embedded student cut down to a few steps."""
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    for overlay in [file for sizes in ("demo", "study") for file in (tmp_path / "configs" / sizes).glob("*.yaml")]:
        config = yaml.safe_load(overlay.read_text(encoding="utf-8"))
        if "trainer" not in config:  # what differs from student.yaml
            continue
        config["trainer"] |= {"max_steps": 3, "limit_val_batches": 1, "enable_progress_bar": False}
        if "sampling" in config.get("model", {}).get("init_args", {}):
            config["model"]["init_args"]["sampling"]["max_new_tokens"] = 24
        overlay.write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    both = "rank_data=[data/positive.jsonl, data/negative.jsonl]"  # few samples may all be wrong
    sizes = ("train_questions=20", "test_questions=20", "samples=2", "votes=4", "steps=3", both)
    words = ["run", "--config", "configs/demo.yaml", "--run", "runs/micro"]
    assert cli.main([*words, *(word for size in sizes for word in ("--set", size)), *more]) == 0
    return capsys.readouterr().out


def test_demo(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys)
    for stage in STAGES:
        assert f"] {stage}: done in" in told
    rows = json.loads((workplace / "runs/micro/results.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in rows} == METHODS
    for row in rows:
        assert row["n"] <= 20
        assert 0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1
        assert row["correct"] == pytest.approx(row["accuracy"] * row["n"])
    assert "NAT" in (workplace / "runs/micro/report.md").read_text(encoding="utf-8")
    for stage in ("cot-kd", "neg", "nat", "nce", "rank"):
        assert (workplace / "runs/micro" / stage / "adapter").is_dir()
        assert list((workplace / "runs/micro" / stage).rglob("events.out.tfevents.*"))
    made = {file: file.stat().st_mtime_ns for file in (workplace / "runs/micro").rglob("*.json*")}
    again = run(capsys)
    assert again.count("skipped (unchanged)") == len(STAGES)
    assert _table(again) == _table(told), "whoever runs it again sees the table again"
    assert again.count("report:  runs/micro/report.md") == 1
    assert {file: file.stat().st_mtime_ns for file in (workplace / "runs/micro").rglob("*.json*")} == made
    plan = run(capsys, "--dry-run")
    assert f"0 of {len(STAGES)} stages would run" in plan
    assert "python cli.py fit --config configs/nat.yaml --config configs/study/student.yaml" in plan


def _table(told: str) -> str:
    return told[told.index("## demo: accuracy in %") :].partition("results: ")[0]


@pytest.mark.slow
def test_every_row_of_the_papers_tables(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("train_questions=40", "test_questions=15", "other_questions=5", "samples=2", "votes=2")
    words = ["run", "--config", "configs/paper_tables_demo.yaml", "--run", "runs/tables"]
    assert cli.main([*words, *(word for size in sizes for word in ("--set", size))]) == 0
    rows = json.loads((workplace / "runs/tables/results.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in rows if row["dataset"] == "demo"} == ROWS
    for other in ("gsm8k-like", "multiarith-like"):
        assert {row["method"] for row in rows if row["dataset"] == other} == {"cot-kd", "nat", "nce"}
    kinds = {name: json.loads((workplace / f"runs/tables/{name}/summary.json").read_text()) for name in DATA}
    negative = {name: kind["negative"] for name, kind in kinds.items()}
    assert 0 < negative["data-negatives-25"] < negative["data-negatives-50"] < negative["data"]
    assert negative["data-semantic"] < negative["data"], "some only looked wrong"

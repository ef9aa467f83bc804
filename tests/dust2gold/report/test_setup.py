import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from dust2gold.core.errors import InputError
from dust2gold.report.analyses.accuracy import tabulate
from dust2gold.report.section import Section, Study
from dust2gold.report.setup import add_setup, trainings
from tests.dust2gold.report.analyses.synthetic import predictions

FACTS = {
    "steps": 1100,
    "trained_parameters": 17920,
    "frozen_parameters": 1250720,
    "processes": 2,
    "versions": {"torch": "2.13.0", "peft": "0.21.2"},
    "machine": {"cpu": "AMD | EPYC", "cores": 2, "vectors": "AVX2", "gpus": ["H100"]},
}


def write_training(root: Path, kind: str, facts: dict[str, Any] | None, data: dict[str, Any], **model: Any) -> None:
    """`<root>/fit/` as `fit` leaves it."""
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 4e-3}}
    arguments = {"student": "/models/mine", "quantization": "none", "optimizer": optimizer, **model}
    config = {
        "seed_everything": 3,
        "trainer": {"accumulate_grad_batches": 4 if kind == "nat.NATModel" else 1},
        "model": {"class_path": f"lightning_modules.{kind}", "init_args": arguments},
        "data": {"class_path": "RationaleDataModule", "init_args": data},
    }
    (root / "fit").mkdir(parents=True)
    (root / "fit/config.yaml").write_text(yaml.safe_dump(config))
    if facts is not None:
        (root / "fit/training.json").write_text(json.dumps(facts))


def shown(run: Path, seeds: Sequence[int] = (0,)) -> list[list[str]]:
    """The cells of all tables."""
    section = Section()
    answers = predictions("nat", {"A": [1, 0]})
    add_setup(section, dict.fromkeys(seeds, Study(run, answers, tabulate(answers), {})))
    return [
        [cell.strip() for cell in line.strip("|").replace("\\|", "/").split("|")]
        for line in section.lines
        if line.startswith("|")
    ]


def test_what_was_recorded(tmp_path: Path) -> None:
    tokens, units = {"tokens_per_batch": 4096, "batch_size": 16}, {"units": {"lr_factor": 0.25}}
    write_training(tmp_path / "nat", "nat.NATModel", {**FACTS, "frozen_parameters": 1268640}, tokens, **units)
    write_training(tmp_path / "neg", "negative.NegativeModel", {**FACTS, "processes": 1}, {"batch_size": 16})
    write_training(tmp_path / "rank", "rank.RankModel", None, {}, student=None, optimizer=None)
    write_training(tmp_path / ".stale/neg-1/neg", "negative.NegativeModel", FACTS, {})
    for name, counts in {
        "data/summary.json": {"questions": 1500, "positive": 5900, "negative": 6100},
        "raw/generate.json": {"seed": 7},
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(counts))
    rows = shown(tmp_path)
    data = "1,500 questions, 5,900 right samples (D_pos), 6,100 wrong ones (D_neg), generated with seed 7"
    assert rows[2:7] == [
        ["student", "mine, 1,250,720 parameters"],
        ["training data", data],
        ["test questions", "math 2"],
        ["versions", "torch 2.13.0, peft 0.21.2"],
        ["machine", "AMD / EPYC, 2 cores, AVX2, H100"],
    ]
    assert rows[9:] == [
        ["neg", "1,100", "0.004", "16 examples", "17,920", "3"],
        ["nat", "1,100", "0.004, units 0.001", "8 × 4,096 tokens", "17,920", "3"],
        ["rank", "-", "-", "-", "-", "3"],
    ]


def test_nothing_was_recorded(tmp_path: Path) -> None:
    names = ("student", "training data", "test questions", "versions", "machine")
    assert shown(tmp_path)[2:] == [[name, "math 2" if name == "test questions" else "-"] for name in names]
    assert shown(tmp_path, seeds=(0, 3))[-1] == ["seeds", "0, 3; the rest is of the first"]


@pytest.mark.parametrize("name", ["config.yaml", "training.json"])
@pytest.mark.parametrize("content", ["{", "[]", "[1]", "\0"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    write_training(tmp_path / "neg", "negative.NegativeModel", FACTS, {})
    (tmp_path / "neg/fit" / name).write_text(content)
    with pytest.raises(InputError) as caught:
        trainings(tmp_path)
    assert caught.value.file == str(tmp_path / "neg/fit" / name)

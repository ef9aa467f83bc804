"""A run directory as the pipeline leaves it: trained adapters of the tiny student, a summary and results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.components.adapters.nat import UnitSettings, build_nat, save_nat
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_student: Path) -> Path:
    """`nce` (a LoRA whose B is not zero), `nat` over it, and what a model card reads. Do not write into it."""
    directory = tmp_path_factory.mktemp("run")
    stack = AdapterStack(load_base(str(tiny_student)), str(tiny_student))
    torch.manual_seed(1)
    stack.add("student", LoraSettings())
    for parameter in stack.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    (directory / "nce" / "adapter").mkdir(parents=True)
    stack.save("student", directory / "nce" / "adapter", {"stage": "NCEModel"})
    nat = AdapterStack(load_base(str(tiny_student)), str(tiny_student))
    units = build_nat(nat, directory / "nce" / "adapter", LoraSettings(), UnitSettings(16, 16))
    (directory / "nat" / "adapter").mkdir(parents=True)
    save_nat(nat, units, directory / "nat" / "adapter")
    (directory / "data").mkdir()
    summary = {"source": "nuts", "questions": 3, "samples": 9, "positive": 5, "negative": 4, "grader": "string"}
    (directory / "data" / "summary.json").write_text(json.dumps(summary))
    row = {
        "method": "nce",
        "dataset": "nuts|<b>",
        "subject": "all",
        "n": 8,
        "correct": 2,
        "accuracy": 0.25,
        "ci_low": 0.1,
        "ci_high": 0.5,
    }
    (directory / "results.json").write_text(json.dumps([row, {**row, "method": "nat", "accuracy": 0.75}]))
    for version, train in ((0, "positive.jsonl"), (1, None)):  # fit, then test
        logs = directory / "nce" / "lightning_logs" / f"version_{version}"
        logs.mkdir(parents=True)
        config = {
            "seed_everything": 7,
            "model": {"class_path": "NCEModel"},
            "trainer": {"max_epochs": 3},
            "data": {"init_args": {"train": train}},
        }
        (logs / "config.yaml").write_text(yaml.safe_dump(config))
    return directory

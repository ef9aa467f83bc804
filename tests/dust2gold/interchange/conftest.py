"""A run directory as `run` leaves it: trained adapters of the tiny student, a summary and results."""

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
    for name in ("nce/adapter", "nat/adapter", "data"):
        (directory / name).mkdir(parents=True)
    stack, nat = (AdapterStack(load_base(str(tiny_student)), str(tiny_student)) for _ in range(2))
    torch.manual_seed(1)
    stack.add("student", LoraSettings())
    for parameter in stack.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    stack.save("student", directory / "nce" / "adapter", {"stage": "NCEModel"})
    units = build_nat(nat, directory / "nce" / "adapter", LoraSettings(), UnitSettings(16, 16))
    save_nat(nat, units, directory / "nat" / "adapter")
    summary = {"source": "nuts", "questions": 3, "samples": 9, "positive": 5, "negative": 4, "grader": "string"}
    (directory / "data" / "summary.json").write_text(json.dumps(summary))
    row = {"dataset": "nuts|<b>", "subject": "all", "n": 8, "correct": 2, "ci_low": 0.1, "ci_high": 0.5}
    rows = [{**row, "method": method, "accuracy": share} for method, share in (("nce", 0.25), ("nat", 0.75))]
    (directory / "results.json").write_text(json.dumps(rows))
    for verb, train in (("fit", "positive.jsonl"), ("test", None)):
        logs = directory / "nce" / verb
        logs.mkdir(parents=True)
        model = {"class_path": "NCEModel", "init_args": {"student": str(tiny_student), "adapter": f"{directory}/neg"}}
        config = {"seed_everything": 7, "model": model, "trainer": {"max_epochs": 3}}
        (logs / "config.yaml").write_text(yaml.safe_dump({**config, "data": {"init_args": {"train": train}}}))
    return directory

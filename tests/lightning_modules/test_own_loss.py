"""The example of docs/method.md, "Add a loss of your own", exactly as it stands there."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dust2gold import cli
from tests.lightning_modules.steps import held_out_parts
from tests.records import write_positive

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore")
def test_the_documented_loss_trains(
    tiny_student: Path, make_batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = (REPOSITORY / "docs/method.md").read_text(encoding="utf-8").partition("## Add a loss of your own")[2]
    for language, file in (("python", "focal.py"), ("yaml", "focal.yaml")):
        [text] = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
        (tmp_path / file).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["fit", "--config", str(REPOSITORY / "configs/neg.yaml"), "--config", str(tmp_path / "focal.yaml")]
    words += ["--data.train", write_positive(tmp_path / "positive.jsonl", 12)]
    words += ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    assert cli.main([*words, "--trainer.default_root_dir", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file()

    module = importlib.import_module("focal").FocalModel(gamma=0.0, student=str(tiny_student))
    module.configure_model()
    parts = held_out_parts(module, make_batch())
    torch.testing.assert_close(parts["loss"], -parts["logprob"])  # without γ it is maximum likelihood

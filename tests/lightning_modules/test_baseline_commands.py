"""Each baseline by its own config through the command line: trained, its adapter written, the questions answered."""

import json
from pathlib import Path

import pytest

from datamodules.components.records.records import write_rationales
from dust2gold import cli
from tests.records import rationale, write_asked

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["nt", "ul", "redi", "dpo", "cl", "kto", "glow", "opd"])
def test_a_baseline_trains_and_answers(
    name: str,
    tiny_student: Path,
    negative_directory: Path,
    nat_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file, first in (("positive", 0), ("negative", 1)):
        records = [rationale(q, k) for q in range(10) for k in range(first, 4, 2)]
        write_rationales(tmp_path / f"{file}.jsonl", records)
    run = tmp_path / name
    common = f"--config {CONFIGS}/{name}.yaml --config {CONFIGS}/demo/student.yaml --model.student {tiny_student}"
    common += f" --data.tokenizer {tiny_student} --trainer.default_root_dir {run} --trainer.enable_progress_bar false"
    fit = f"--data.train=[{tmp_path}/positive.jsonl,{tmp_path}/negative.jsonl] --data.validation_fraction 0.3"
    fit += " --trainer.max_steps 3 --trainer.accumulate_grad_batches 2"
    fit += f" --model.adapter {negative_directory}" if name in ("redi", "dpo", "opd") else ""
    fit += f" --model.nat {nat_directory} --model.sampling.max_new_tokens 5" if name == "opd" else ""
    assert cli.main(["fit", *common.split(), *fit.split()]) == 0
    assert (run / "adapter" / "adapter_config.json").is_file()
    assert json.loads((run / "adapter" / "dust2gold.json").read_text(encoding="utf-8"))["kind"] == "lora"
    test = f"--model.adapter {run}/adapter --model.sampling.max_new_tokens 5"
    test += f" --data.questions {write_asked(tmp_path / 'questions.jsonl', 4)}"
    assert cli.main(["test", *common.split(), *test.split()]) == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["method"] for row in rows] == [name] * 4
    assert "collapse:" not in capsys.readouterr().err

"""A key in the environment, and an endpoint that repeats it: it must be in no file of a run, nor printed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import cli
from tests import endpoint
from tests.records import write_asked

pytestmark = pytest.mark.filterwarnings("ignore")

REPOSITORY = Path(__file__).parents[1]
KEY = "sk-planted-0123456789abcdef"
ESCAPED = '{"model": "KEY", "choices": [{"message": {"content": "It is KEY: \\\\boxed{2}"}, "finish_reason": "KEY"}]}'
WRITTEN = {
    "config.yaml", "hparams.yaml", "last.ckpt", "adapter_model.safetensors", "adapter_config.json", "dust2gold.json",
    "collected.jsonl", "usage.json", "positive.jsonl", "samples.jsonl", "predictions.jsonl", "metrics.json",
    "results.json", "analyses.json", "report.md", "accuracy-nuts.png", "data.json", "README.md", "lock",
}  # fmt: skip


def commands(student: Path, questions: str, prompt: Path, base_url: str) -> list[dict[str, object]]:
    """Stages from collecting to exporting."""
    words = (
        f"--config {REPOSITORY}/configs/neg.yaml --model.student {student} --data.tokenizer {student} "
        "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.log_every_n_steps 1 "
    )
    asked = f"--data.questions {questions} --model.adapter {{run}}/neg/adapter --model.sampling.max_new_tokens 4 "
    collect = (
        f"collect --input {questions} --prompt {prompt} --endpoint.model m --endpoint.base_url {base_url} "
        "--sampling.n 2 --retry.first 0.01 --output {run}/data --journal {run}/journal.jsonl"
    )
    fit = (
        f"fit {words} --data.train {{run}}/data/positive.jsonl --data.batch_size 4 --trainer.max_epochs 1 "
        "--trainer.default_root_dir {run}/neg"
    )
    test, predict = (f"{verb} {words}{asked}--trainer.default_root_dir {{run}}/" for verb in ("test", "predict"))
    report, export = "report {run}", "export --run {run} --stage neg --output {run}/out"
    return [
        {"name": "data", "commands": [collect]},
        {"name": "neg", "needs": ["data"], "commands": [fit, f"{test}neg"]},
        {"name": "samples", "needs": ["neg"], "commands": [f"{predict}samples"]},
        {"name": "report", "needs": ["*"], "commands": [report, export], "directory": ["{run}/report", "{run}/out"]},
    ]


def test_no_file_of_a_run_holds_the_key(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, KEY)
    (tmp_path / "prompt.yaml").write_text('instructions: Solve.\nask: "Problem: {question}"\n', encoding="utf-8")

    def repeat(answer: endpoint.Body) -> None:
        answer["choices"][0]["message"]["content"] = f"The key is {KEY}, so \\boxed{{2}}"
        answer["model"] = f"m-{KEY}"

    with endpoint.serving() as server:
        refuses = endpoint.Misbehaviour(status=500, body=f'{{"error": {{"message": "not {KEY}"}}}}')
        spelled = ESCAPED.replace("KEY", KEY.replace("-", "\\u002d"))  # what JSON allows, and some servers do
        server.script = [refuses, endpoint.Misbehaviour(change=repeat), refuses, endpoint.Misbehaviour(body=spelled)]
        questions = write_asked(tmp_path / "asked.jsonl", 12)
        stages = commands(tiny_student, questions, tmp_path / "prompt.yaml", server.base_url)
        pipeline = {"run": str(tmp_path / "run"), "stages": stages}
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")
        assert cli.main(["run", "--config", str(tmp_path / "p.yaml")]) == 0
        assert any(KEY in headers.get("authorization", "") for _, headers, _, _ in server.asked)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= WRITTEN
    assert any(file.name.startswith("events.out") for file in files)
    journal = (tmp_path / "run/journal.jsonl").read_text(encoding="utf-8")
    assert "The key is ***" in journal
    assert "It is ***" in journal
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    printed = capfd.readouterr()
    assert KEY not in printed.out + printed.err

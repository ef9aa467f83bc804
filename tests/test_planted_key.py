"""A key in the environment, which an endpoint repeats, and one in an option: in no file of a run, nor printed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger

from dust2gold import cli
from dust2gold.run.stage import Stage
from tests import endpoint
from tests.own_stages import write_stages
from tests.records import write_asked

pytestmark = pytest.mark.filterwarnings("ignore")

REPOSITORY = Path(__file__).parents[1]
KEY = "sk-planted-0123456789abcdef"
ESCAPED = '{"model": "KEY", "choices": [{"message": {"content": "It is KEY: \\\\boxed{2}"}, "finish_reason": "KEY"}]}'
WRITTEN = {
    *"config.yaml hparams.yaml last.ckpt adapter_model.safetensors adapter_config.json dust2gold.json".split(),
    *"collected.jsonl usage.json positive.jsonl samples.jsonl predictions.jsonl metrics.json results.json".split(),
    *"analyses.json report.md accuracy-nuts.png data.json README.md lock".split(),
}


def commands(student: Path, questions: str, prompt: Path, base_url: str) -> list[Stage]:
    """Stages from collecting to exporting."""
    words = (
        f"--config {REPOSITORY}/configs/neg.yaml --model.student {student} "
        "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.log_every_n_steps 1 "
    )
    asked = f"--data.questions {questions} --model.adapter {{run}}/neg/adapter --model.sampling.max_new_tokens 4 "
    collect = (
        f"collect --input {questions} --prompt {prompt} --endpoint.model m --endpoint.base_url {base_url} "
        "--sampling.n 2 --output {run}/data --journal {run}/journal.jsonl"
    )
    fit = (
        f"fit {words} --data.train {{run}}/data/positive.jsonl --data.batch_size 4 --trainer.max_epochs 1 "
        "--trainer.default_root_dir {run}/neg"
    )
    test, predict = (f"{verb} {words}{asked}--trainer.default_root_dir {{run}}/" for verb in ("test", "predict"))
    report, export = "report {run}", "export --run {run} --stage neg --output {run}/out"
    return [
        Stage("data", "data", (collect,)),
        Stage("neg", "neg", (fit, f"{test}neg"), ("data",)),
        Stage("samples", "samples", (f"{predict}samples",), ("neg",)),
        Stage("report", "report", (report, export), ("*",), directories=("report", "out")),
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
        assert cli.main(["run", *write_stages(tmp_path / "p.py", *stages), "--run", str(tmp_path / "run")]) == 0
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


class KeyLogger(CSVLogger):
    """A logger that takes a key, as those of services do."""

    def __init__(self, save_dir: str, api_key: str | None = None) -> None:
        super().__init__(save_dir)


LOGGER = f"{__name__}.KeyLogger"
IN_ONE = f"{{class_path: {LOGGER}, init_args: {{save_dir: DIR, api_key: {KEY}}}}}"


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.logger", LOGGER, "--trainer.logger.save_dir", "DIR", "--trainer.logger.api_key", KEY],
        ["--trainer.logger", LOGGER, "--trainer.logger.save_dir", "DIR", f"--trainer.logger.api_key={KEY}"],
        ["--trainer.logger", IN_ONE],
        ["--trainer.logger", f"[{IN_ONE}]"],
        ["--config", "more.yaml"],
    ],
    ids=["word", "equals", "mapping", "list", "config"],
)
@pytest.mark.parametrize("alone", [True, False], ids=["fit", "run"])
def test_a_key_in_an_option_is_refused(
    words: list[str],
    alone: bool,
    tiny_student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(REPOSITORY)
    run = tmp_path / "run"
    more = {"trainer": {"logger": {"class_path": LOGGER, "init_args": {"save_dir": str(run), "api_key": KEY}}}}
    Path("more.yaml").write_text(yaml.safe_dump(more), encoding="utf-8")
    train = write_asked(tmp_path / "asked.jsonl", 1)  # refused before it is read
    fit = [
        *f"fit --config {REPOSITORY}/configs/neg.yaml --model.student {tiny_student} --data.train {train}".split(),
        *f"--trainer.accelerator cpu --trainer.default_root_dir {run}/neg".split(),
        *(word.replace("DIR", str(run)) for word in words),
    ]
    stages = write_stages(Path("p.py"), Stage("neg", "neg", (shlex.join(fit),)))
    assert cli.main(fit if alone else ["run", *stages]) == 1
    printed = capfd.readouterr()
    assert "holds a key or a password" in printed.err
    assert KEY not in printed.out + printed.err
    assert [file for file in run.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()] == []

"""A key in the environment, which an endpoint repeats, and one in an option: in no file of a run, nor printed."""

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
from tests.words import REPOSITORY, collect_words, stage_words

Patch = pytest.MonkeyPatch

pytestmark = pytest.mark.filterwarnings("ignore")
Capture = pytest.CaptureFixture[str]

KEY = "sk-planted-0123456789abcdef"
ESCAPED = '{"model": "KEY", "choices": [{"message": {"content": "It is KEY: \\\\boxed{2}"}, "finish_reason": "KEY"}]}'
WRITTEN = {
    *"config.yaml hparams.yaml last.ckpt adapter_model.safetensors adapter_config.json dust2gold.json".split(),
    *"collected.jsonl usage.json positive.jsonl samples.jsonl predictions.jsonl metrics.json results.json".split(),
    *"analyses.json report.md accuracy-nuts.png data.json README.md lock".split(),
}


def commands(student: Path, questions: str, collect: str) -> list[Stage]:
    """Stages from collecting to exporting."""

    def stage(verb: str, root: str, more: str) -> str:
        more = f"--trainer.log_every_n_steps 1 {more}"
        return " ".join(stage_words(verb, "neg", student, f"{{run}}/{root}", more))

    ask = f"--data.questions {questions} --model.adapter {{run}}/neg/adapter --model.sampling.max_new_tokens 4"
    train = "--data.train {run}/data/positive.jsonl --data.verdicts positive --data.batch_size 4 --trainer.max_epochs 1"
    report, export = "report {run}", "export --run {run} --stage neg --output {run}/out"
    return [
        Stage("data", "data", (collect,)),
        Stage("neg", "neg", (stage("fit", "neg", train), stage("test", "neg", ask)), ("data",)),
        Stage("samples", "samples", (stage("predict", "samples", ask),), ("neg",)),
        Stage("report", "report", (report, export), ("*",), directories=("report", "out")),
    ]


def test_no_file_of_a_run_holds_the_key(tiny_student: Path, tmp_path: Path, monkeypatch: Patch, capfd: Capture) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, KEY)

    def repeat(answer: endpoint.Body) -> None:
        answer["choices"][0]["message"]["content"] = f"The key is {KEY}, so \\boxed{{2}}"
        answer["model"] = f"m-{KEY}"

    with endpoint.serving() as server:
        refuses = endpoint.Misbehaviour(status=500, body=f'{{"error": {{"message": "not {KEY}"}}}}')
        spelled = ESCAPED.replace("KEY", KEY.replace("-", "\\u002d"))  # what JSON allows, and some servers do
        server.script = [refuses, endpoint.Misbehaviour(change=repeat), refuses, endpoint.Misbehaviour(body=spelled)]
        questions = write_asked(tmp_path / "asked.jsonl", 12)
        more = "--sampling.n 2 --journal {run}/journal.jsonl"
        collect = collect_words(tmp_path, questions, "{run}/data", server.base_url, more)
        stages = commands(tiny_student, questions, " ".join(collect))
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
IN_THREE = ["--trainer.logger", LOGGER, "--trainer.logger.save_dir", "DIR"]
WORDS = {
    "word": [*IN_THREE, "--trainer.logger.api_key", KEY],
    "equals": [*IN_THREE, f"--trainer.logger.api_key={KEY}"],
    "mapping": ["--trainer.logger", IN_ONE],
    "list": ["--trainer.logger", f"[{IN_ONE}]"],
    "config": ["--config", "more.yaml"],
}


@pytest.mark.parametrize("how", WORDS)
@pytest.mark.parametrize("verb", ["fit", "run"])
def test_a_key_in_an_option_is_refused(
    how: str, verb: str, tiny_student: Path, tmp_path: Path, monkeypatch: Patch, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(REPOSITORY)
    run = tmp_path / "run"
    config = {"trainer": {"logger": {"class_path": LOGGER, "init_args": {"save_dir": str(run), "api_key": KEY}}}}
    Path("more.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    train = write_asked(tmp_path / "asked.jsonl", 1)  # refused before it is read
    more = [word.replace("DIR", str(run)) for word in WORDS[how]]
    fit = stage_words("fit", "neg", tiny_student, run / "neg", f"--data.train {train}", *more)
    stages = write_stages(Path("p.py"), Stage("neg", "neg", (shlex.join(fit),)))
    assert cli.main(fit if verb == "fit" else ["run", *stages]) == 1
    printed = capfd.readouterr()
    assert "holds a key or a password" in printed.err
    assert KEY not in printed.out + printed.err
    assert [file for file in run.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()] == []

"""Hostile ids and names: nothing outside the work directory changes, no control sequence is printed."""

import json
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from datamodules.components.records.records import Question, Rationale, write_questions, write_rationales
from dust2gold import cli
from tests import endpoint
from tests.records import question, rationale
from tests.words import stage_words

pytestmark = pytest.mark.filterwarnings("ignore")

CLEAR = "\x1b[2J\x1b]0;title\x07"
NAMES = (
    *("../../x", "..", ".", "../../../victim.txt", "/{outside}/absolute", "a/../../../b", "..\\..\\x"),  # paths
    *("C:\\x", "CON", "~", "~root/x", "nul\x00nul", "x" * 300, "é" * 200, " "),
    *("-rf", "--help", "$(touch x)", "`touch x`", "%s%n{0}{x!r}", "*?[a-z]"),  # shells and formats
    *(CLEAR, "a\r\nb", "\u202egnp.exe", "\u2028", "\x85"),  # terminals
    *("[/red]", "[bold]x", "/dataloader_idx_0", "a|b", "**b**", "# h", "<script>alert(1)</script>"),  # markup
    *("![i](http://e.vil/x.png)", "$\\frac{1}", "_legend", "😀"),
)
Call = Callable[..., int]


class Wall:
    """A place to work in (`work`), what lies around it (`outside`: must stay as it is), and the hostile names."""

    def __init__(self, root: Path) -> None:
        self.outside = root / "outside"
        self.work = self.outside / "a" / "b" / "work"
        self.work.mkdir(parents=True)
        for place in self.work.parents[:3]:
            for name in ("victim.txt", "x", "x.json", "b.jsonl"):
                (place / name).write_text(f"{place} {name}", encoding="utf-8")
        self.names = [name.replace("/{outside}", str(self.outside)) for name in NAMES]
        self.before = self.around()

    def around(self) -> dict[str, str]:
        """Everything outside the working directory, by path."""
        found = {}
        for place, directories, files in os.walk(self.outside):
            if Path(place) == self.work.parent:
                directories.remove("work")
            for name in files:
                path = Path(place, name)
                found[str(path)] = os.readlink(path) if path.is_symlink() else sha256(path.read_bytes()).hexdigest()
            found.update((str(Path(place, name)), "a directory") for name in directories)
        return found


@pytest.fixture
def wall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wall]:
    wall = Wall(tmp_path)
    monkeypatch.chdir(wall.work)
    yield wall
    assert wall.around() == wall.before


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command line, split at spaces, and more words; any exception but argparse's fails the test."""

    def run(words: str, *more: str, code: int | None = None) -> int:
        try:
            ended = cli.main([*words.split(), *more])
        except SystemExit as error:
            ended = int(error.code or 0)
        out, err = capsys.readouterr()
        assert ended in ((0, 1, 2) if code is None else (code,)), err
        assert "Traceback" not in err
        unseen = {char for char in out + err if ord(char) < 32 or char in "\x7f\x85\u202e\u2028\u2029"}
        assert unseen <= set("\n\r"), (words, unseen)
        return ended

    return run


def asked(names: list[str]) -> list[Question]:
    """A question for each name, every name of it hostile."""
    return [question(k, id=name, subject=name, level=name, source=name) for k, name in enumerate(names)]


def written(names: list[str]) -> list[Rationale]:
    """A right and a wrong rationale for each, with the ids they have."""
    return [
        rationale(k, n, id=f"{name}/{n}", question_id=name, subject=name, level=name, source=name, writer=name)
        for k, name in enumerate(names)
        for n in range(2)
    ]


def lines(file: str) -> list[Any]:
    return [json.loads(line) for line in Path(file).read_bytes().splitlines()]


def write_lines(file: str, rows: list[Any]) -> None:
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_prepare(wall: Wall, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", wall.work / "cache")  # not what the machine's own holds
    rows = [record.to_json() for record in asked(wall.names)]
    write_lines("in.jsonl", rows + [record.to_json() for record in written(wall.names)])
    call("prepare --input in.jsonl --format records --output out", code=0)
    assert len(lines("out/positive.jsonl")) == len(wall.names)
    assert sorted(os.listdir("out")) == ["negative.jsonl", "positive.jsonl", "questions.jsonl", "summary.json"]
    write_lines("math.jsonl", [{"problem": "1?", "solution": "\\boxed{1}"}])
    prepare = "prepare --format math --output out"
    for name in wall.names:
        call(prepare, "--input", "math.jsonl", "--source", name)
        if not os.path.exists(name.replace("\0", "")):
            call(prepare, "--input", f"hub:{name}", f"--split={name}", code=1)
        call(prepare, "--input", f"absent{name}", code=1)


def test_train_sample_test_report_export(wall: Wall, call: Call, tiny_student: Path) -> None:
    def stage(verb: str, root: str, more: str, code: int = 0) -> None:
        call("", *stage_words(verb, "neg", tiny_student, root, more), code=code)

    write_rationales(Path("train.jsonl"), written(wall.names))
    write_questions(Path("asked.jsonl"), asked(wall.names))
    train = "--data.train train.jsonl --data.verdicts both --trainer.max_epochs 1"
    stage("fit", "run/neg", f"{train} --data.drop_longer true")
    stage("fit", "run/nan", f"{train} --model.optimizer.init_args.lr=1e30 --trainer.gradient_clip_val=null", code=1)
    assert any(Path("run/nan/stopped").glob("step-*"))
    ask = "--model.adapter run/neg/adapter --data.questions asked.jsonl --model.sampling.max_new_tokens 3"
    stage("predict", "run/samples", ask)
    stage("test", "run/neg", ask)
    assert len(lines("run/samples/samples.jsonl")) % len(wall.names) == 0
    check_shown_as_text(Path("run/samples"))
    answers = lines("run/neg/predictions.jsonl")
    for k, name in enumerate(wall.names):
        (Path("run") / f"m{k}").mkdir()
        rows = [{**row, "method": name} for row in answers if row["dataset"] == wall.names[k // 3]]
        write_lines(f"run/m{k}/predictions.jsonl", rows)
    call("report run", code=0)
    assert max(len(name) for name in os.listdir("run/report")) <= 120
    for k, name in enumerate(wall.names):
        call(f"export --run run --output e{k}", "--stage", name)
        assert not Path(f"e{k}").exists()
        call(f"export-task --questions asked.jsonl --output t{k}", "--name", name)
    call("export --run run --stage neg --output exported", code=0)
    call("export-data --rationales train.jsonl --output pairs.jsonl", code=0)
    for name in wall.names:
        call("import-data --input pairs.jsonl --output imported", "--source", name)


def check_shown_as_text(root: Path) -> None:
    """What TensorBoard shows as Markdown."""
    accumulator = EventAccumulator(str(root / "predict"), {"tensors": 0})
    accumulator.Reload()
    texts = [accumulator.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in accumulator.Tags()["tensors"]]
    assert texts
    for text in texts:
        title, _, body = text.partition("\n\n")
        assert not {"\x1b", "\n"} & set(title)
        assert "<script" not in text
        assert body.count("\n") == 0


def test_collect(wall: Wall, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    write_questions(Path("asked.jsonl"), asked(wall.names))
    Path("prompt.yaml").write_text('instructions: Solve.\nask: "Problem: {question}"\n', encoding="utf-8")

    def hostile(answer: dict[str, Any]) -> None:
        answer["model"] = answer["id"] = wall.names[0]
        for choice in answer["choices"]:
            choice["message"]["content"] = f"{CLEAR} \\boxed{{2}}"

    with endpoint.serving() as server:
        server.script = [endpoint.Misbehaviour(change=hostile)] * len(wall.names)

        def collect(words: str, output: str = "out", model: str = "m", code: int | None = None) -> None:
            ask = {"model": model, "base_url": server.base_url, "timeout": 10}
            settings = {"input": "asked.jsonl", "output": output, "prompt": "prompt.yaml", "sampling": {"n": 1}}
            Path("c.yaml").write_text(yaml.safe_dump({**settings, "endpoint": ask}), encoding="utf-8")
            call(f"collect --config c.yaml {words}", code=code)

        for model in ("m", wall.names[0], "nul\x00nul", CLEAR):
            collect("", model=model, code=0)
        collect("--evaluate --output evaluated", model=CLEAR, code=0)
        for name in ("nul\x00nul", "x" * 300, "\x1b[2J"):
            collect("--limit 1", output=name, model=CLEAR)


def test_stages_and_files_of_a_run(wall: Wall, call: Call) -> None:
    generate = "generate --output run/s --train-questions 2 --test-questions 1"

    def run(code: int | None = 1, **changes: Any) -> int:
        stage = {"name": "s", "about": "", "commands": (generate,), **changes}
        own = "from dust2gold.run.stage import Stage\ndef stages(settings):\n    return [Stage(**{})]\n"
        Path("own.py").write_text(own.format(ascii(stage)), encoding="utf-8")
        Path("p.yaml").write_text("run: run\n", encoding="utf-8")
        return call("run --config p.yaml --stages own.py", code=code)

    run(0)
    os.symlink(wall.outside, "run/link")
    os.symlink("loop", "run/loop")
    for name in wall.names:
        run(None if name == "CON" else 1, name=name)
        run(None, outputs=(name, "s"))
        run(None, directories=(name,))
        run(None, inputs=(name,))
    for directory in ("link", "link/x", "loop", "loop/x", ".", "..", str(wall.outside)):
        run(1, directories=(directory,))
    record = Path("run/.stages/s.json")
    for name in ("../../../x", str(wall.outside / "x")):
        record.write_text(json.dumps({**json.loads(record.read_text()), "stage": name}))
        run(0, about=name)


def test_links_in_the_place_of_files_that_grow(wall: Wall, call: Call, tiny_student: Path) -> None:
    write_questions(Path("asked.jsonl"), asked(["q"]))
    write_rationales(Path("train.jsonl"), [rationale(k, n) for k in range(6) for n in range(2)])
    for link in ("run/samples.part-0.jsonl", "run/samples.jsonl", "out/math-verify.jsonl"):
        Path(link).parent.mkdir(exist_ok=True)
        os.symlink(wall.outside / "victim.txt", link)
    more = "--data.questions asked.jsonl --model.sampling.max_new_tokens 3 --trainer.logger false"
    call("", *stage_words("predict", "neg", tiny_student, "run", more), code=0)
    assert not Path("run/samples.jsonl").is_symlink()
    call("prepare --input train.jsonl --format records --grader semantic --workers 1 --output out")


def test_a_checkpoint_cannot_have_other_files_removed(wall: Wall, call: Call, tiny_student: Path) -> None:
    """Lightning removes the checkpoint that a new one replaces, by the path that the old one holds."""
    write_rationales(Path("train.jsonl"), written([f"q{k}" for k in range(6)]))
    more = "--data.train train.jsonl --data.verdicts both --data.batch_size 2"
    more += " --trainer.callbacks+=callbacks.checkpoints.RunCheckpoint"
    more += " --trainer.callbacks.every_n_train_steps=1 --trainer.callbacks.save_top_k=1"
    words = stage_words("fit", "neg", tiny_student, "run", more)
    call("", *words, "--trainer.max_epochs", "1", code=0)
    last = Path("run/checkpoints/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    ours = next(name for name in checkpoint["callbacks"] if name.startswith("RunCheckpoint"))
    victim = f"{last.parent.resolve()}/../../../../../victim.txt"
    assert Path(victim).is_file()
    paths = dict.fromkeys(("last_model_path", "best_model_path", "kth_best_model_path"), victim)
    checkpoint["callbacks"][ours].update(paths, best_k_models={victim: 0})
    torch.save(checkpoint, last)
    call("", *words, "--trainer.max_epochs", "2", "--ckpt_path", "last", code=0)

"""A disk that fills up and one that turns read-only: a real one, where this process may mount it.

Every verb writes on a tmpfs. Filled to the last blocks, it must end with exit code 1 and two lines that say so, and
leave what was there; with room again, the same command must do its work.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from datamodules.components.records.records import write_rationales
from dust2gold import cli
from dust2gold.run.stage import Stage
from tests import endpoint
from tests.own_stages import write_stages
from tests.records import rationale, write_asked, write_positive

pytestmark = pytest.mark.filterwarnings("ignore")

REPOSITORY = Path(__file__).parents[1]


class Disk:
    """A tmpfs.

    Attributes:
        path: Where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, left: int) -> None:
        """Fills it but for so many bytes."""
        free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize
        with (self.path / ".ballast").open("wb") as stream:
            stream.write(bytes(max(0, free - left)))

    def empty(self) -> None:
        """Takes out what `fill` put there."""
        (self.path / ".ballast").unlink(missing_ok=True)

    def mount(self, options: str) -> None:
        """Mounts it anew; files that an ended command left open are closed first, as they are with its process."""
        gc.collect()
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)

    def contents(self, *roots: str) -> dict[str, str]:
        """Hashes of the finished files below some directories: no logs, nothing hidden."""
        files = [file for root in roots for file in (self.path / root).rglob("*") if file.is_file()]
        return {
            str(file.relative_to(self.path)): sha256(file.read_bytes()).hexdigest()
            for file in files
            if not file.name.startswith(("events", ".")) and not any(p.startswith(".") for p in file.parts)
        }


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a real full disk needs the right to mount one")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def decoder(tiny_student: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The words of a command on the tiny student."""
    train, questions = write_positive(tmp_path / "p.jsonl", 8), write_asked(tmp_path / "q.jsonl", 6)

    def words(verb: str, config: str, root: Path, *more: str) -> list[str]:
        data = f"--data.questions {questions} --model.sampling.max_new_tokens 4"
        if verb == "fit":
            data = f"--data.train {train} --trainer.max_epochs 1 --data.batch_size 4"
        return [
            *f"{verb} --config {REPOSITORY}/configs/{config}.yaml --model.student {tiny_student} {data}".split(),
            *"--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.log_every_n_steps 1".split(),
            *f"--trainer.default_root_dir {root}".split(),
            *more,
        ]

    return words


Attempt = Callable[[list[str], str, int], None]


@pytest.fixture
def attempt(disk: Disk, capsys: pytest.CaptureFixture[str]) -> Attempt:
    """Runs a command line on a disk with too little room, on a read-only one, then on a good one."""

    def refused(words: list[str], says: str) -> None:
        capsys.readouterr()
        assert cli.main(words) == 1
        err = capsys.readouterr().err
        assert "Traceback" not in err
        said = err[err.index("dust2gold: error: ") :].rstrip("\n").split("\n")
        assert len(said) == 2, said
        assert says in said[0]
        assert str(disk.path) in said[0]

    def run(words: list[str], keeps: str, left: int) -> None:
        before = disk.contents(keeps)
        disk.fill(left)
        refused(words, "No space left on device")
        disk.empty()
        assert disk.contents(keeps).items() >= before.items()
        disk.mount("ro")
        refused(words, "Read-only file system")
        disk.mount("rw")
        assert disk.contents(keeps).items() >= before.items()
        assert cli.main(words) == 0

    return run


@pytest.mark.parametrize("left", [0, pytest.param(64 << 10, marks=pytest.mark.slow), 160 << 10])  # config; log; weights
def test_fit(disk: Disk, attempt: Attempt, decoder: Callable[..., list[str]], left: int) -> None:
    words = decoder("fit", "neg", disk.path / "run", "--model.lora.r", "64")
    assert cli.main(words) == 0
    attempt(words, "run/adapter", left)


def test_predict_and_test(disk: Disk, attempt: Attempt, decoder: Callable[..., list[str]]) -> None:
    more = ["--model.sampling.samples", "64", "--data.question_batch_size", "1"]
    words = decoder("predict", "neg", disk.path / "run", *more)
    attempt(words, "run", 32 << 10)
    assert len((disk.path / "run/samples.jsonl").read_bytes().splitlines()) == 6 * 64
    attempt(decoder("test", "neg", disk.path / "run", "--trainer.logger=false"), "run", 0)
    assert (disk.path / "run/predictions.jsonl").is_file()


def test_cached_teachers(disk: Disk, attempt: Attempt, decoder: Callable[..., list[str]], tmp_path: Path) -> None:
    assert cli.main(decoder("fit", "neg", tmp_path / "neg")) == 0
    negative = ["--model.negative", str(tmp_path / "neg/adapter")]
    assert cli.main(decoder("fit", "nat", tmp_path / "nat", *negative)) == 0
    words = decoder(
        "fit",
        "nce",
        disk.path / "run",
        *f"--model.nat {tmp_path}/nat/adapter --model.teacher cached --model.cache.storage float32".split(),
    )
    attempt(words, "run", 24 << 10)
    part = next((disk.path / "run/teacher").glob("*/part-0-*.safetensors"))
    assert part.stat().st_size > 24 << 10  # so it was the cache that did not fit
    shutil.rmtree(disk.path / "run")


def test_prepare_and_its_cache(disk: Disk, attempt: Attempt, tmp_path: Path) -> None:
    write_rationales(tmp_path / "raw.jsonl", [rationale(q, k) for q in range(40) for k in range(4)])
    words = ["prepare", "--input", str(tmp_path / "raw.jsonl"), "--format", "records", "--output", f"{disk.path}/data"]
    attempt(words, "data", 16 << 10)
    assert len((disk.path / "data/positive.jsonl").read_bytes().splitlines()) == 80
    attempt([*words, "--grader", "semantic", "--workers", "1"], "data", 16 << 10)


def test_run_and_report(disk: Disk, attempt: Attempt, tmp_path: Path) -> None:
    generate = "generate --output {run}/data --train-questions 60 --test-questions 5"
    words = ["run", *write_stages(tmp_path / "p.py", Stage("data", "", (generate,))), "--run", f"{disk.path}/run"]
    attempt(words, "run", 8 << 10)
    assert (disk.path / "run/data/train.jsonl").is_file()
    row = {"method": "sc", "dataset": "d", "question_id": "q", "subject": "", "level": "", "correct": 1}
    (disk.path / "run/predictions.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    attempt(["report", f"{disk.path}/run"], "run", 8 << 10)


@pytest.mark.slow
def test_exports(disk: Disk, attempt: Attempt, decoder: Callable[..., list[str]], tmp_path: Path) -> None:
    assert cli.main(decoder("fit", "neg", tmp_path / "run/neg")) == 0
    export = ["export", "--run", str(tmp_path / "run"), "--stage", "neg", "--output"]
    attempt([*export, f"{disk.path}/adapter"], ".", 8 << 10)
    attempt([*export, f"{disk.path}/merged", "--merge"], ".", 32 << 10)
    write_rationales(tmp_path / "both.jsonl", [rationale(q, k) for q in range(200) for k in range(4)])
    data = ["export-data", "--rationales", str(tmp_path / "both.jsonl"), "--output"]
    attempt([*data, f"{disk.path}/pairs.jsonl"], ".", 8 << 10)
    attempt([*data, f"{disk.path}/pairs.parquet"], ".", 4 << 10)
    questions = write_asked(tmp_path / "many.jsonl", 200)
    attempt(["export-task", "--questions", questions, "--output", f"{disk.path}/task"], ".", 8 << 10)


def test_collect(disk: Disk, attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    (tmp_path / "prompt.yaml").write_text('instructions: Solve.\nask: "Problem: {question}"\n', encoding="utf-8")
    with endpoint.serving() as server:
        settings = {
            "input": write_asked(tmp_path / "asked.jsonl", 30),
            "output": f"{disk.path}/out",
            "prompt": str(tmp_path / "prompt.yaml"),
            "sampling": {"n": 4},
            "endpoint": {"model": "m", "base_url": server.base_url, "timeout": 10, "concurrency": 4},
        }
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        attempt(["collect", "--config", str(tmp_path / "c.yaml")], ".", 12 << 10)
        answers = sum(1 for _ in server.billed)
    assert (disk.path / "out/questions.jsonl").is_file()
    assert 30 <= answers <= 34  # but for those under way when the disk was full, all were paid once

"""Every verb on a tmpfs that fills up or turns read-only: an error that says so, and with room again it works."""

import gc
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from datamodules.components.records.records import write_rationales
from dust2gold import cli
from dust2gold.run.stage import Stage
from tests import endpoint
from tests.own_stages import write_stages
from tests.records import rationale, write_asked, write_positive
from tests.words import collect_words, stage_words

pytestmark = pytest.mark.filterwarnings("ignore")
Attempt = Callable[[list[str], str, int], None]
Words = Callable[..., list[str]]
KIB = 1 << 10


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a real full disk needs the right to mount one")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def finished(root: Path) -> dict[str, str]:
    """Hashes of the finished files below a directory: no logs, nothing hidden."""
    return {
        str(file): sha256(file.read_bytes()).hexdigest()
        for file in root.rglob("*")
        if file.is_file() and not file.name.startswith("events") and "/." not in str(file)
    }


@pytest.fixture
def attempt(disk: Path, complaint: Callable[..., str]) -> Attempt:
    """Runs a command line on a disk with so few bytes left, on a read-only one, then on a good one."""

    def refused(words: list[str], says: str) -> None:
        first = complaint(*words).partition("\n")[0]
        assert says in first
        assert str(disk) in first

    def mount(options: str) -> None:
        gc.collect()  # closes what an ended command left open, as the end of its process would
        subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)

    def run(words: list[str], keeps: str, left: int) -> None:
        before, space = finished(disk / keeps), os.statvfs(disk)
        ballast = disk / ".ballast"
        ballast.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - left)))
        refused(words, "No space left on device")
        ballast.unlink()
        assert finished(disk / keeps).items() >= before.items()
        mount("ro")
        refused(words, "Read-only file system")
        mount("rw")
        assert finished(disk / keeps).items() >= before.items()
        assert cli.main(words) == 0

    return run


@pytest.fixture
def decoder(tiny_student: Path, tmp_path: Path) -> Words:
    """The words of a command on the tiny student."""
    train, questions = write_positive(tmp_path / "p.jsonl", 8), write_asked(tmp_path / "q.jsonl", 6)

    def words(verb: str, config: str, root: Path, more: str = "") -> list[str]:
        data = f"--data.questions {questions} --model.sampling.max_new_tokens 4"
        if verb == "fit":
            data = f"--data.train {train} --data.verdicts positive --trainer.max_epochs 1 --data.batch_size 4"
        return stage_words(verb, config, tiny_student, root, f"{data} --trainer.log_every_n_steps 1 {more}")

    return words


@pytest.mark.parametrize("left", [0, pytest.param(64 * KIB, marks=pytest.mark.slow), 160 * KIB])  # config; log; weights
def test_fit(disk: Path, attempt: Attempt, decoder: Words, left: int) -> None:
    words = decoder("fit", "neg", disk / "run", "--model.lora.r 64")
    assert cli.main(words) == 0
    attempt(words, "run/adapter", left)


def test_predict_and_test(disk: Path, attempt: Attempt, decoder: Words) -> None:
    more = "--model.sampling.samples 64 --data.question_batch_size 1"
    attempt(decoder("predict", "neg", disk / "run", more), "run", 32 * KIB)
    assert len((disk / "run/samples.jsonl").read_bytes().splitlines()) == 6 * 64
    attempt(decoder("test", "neg", disk / "run", "--trainer.logger=false"), "run", 0)
    assert (disk / "run/predictions.jsonl").is_file()


def test_cached_teachers(disk: Path, attempt: Attempt, decoder: Words, tmp_path: Path) -> None:
    assert cli.main(decoder("fit", "neg", tmp_path / "neg")) == 0
    assert cli.main(decoder("fit", "nat", tmp_path / "nat", f"--model.negative {tmp_path}/neg/adapter")) == 0
    cached = f"--model.nat {tmp_path}/nat/adapter --model.teacher cached --model.cache.storage float32"
    attempt(decoder("fit", "nce", disk / "run", cached), "run", 24 * KIB)
    part = next((disk / "run/teacher").glob("*/part-0-*.safetensors"))
    assert part.stat().st_size > 24 * KIB  # so it was the cache that did not fit
    shutil.rmtree(disk / "run")


def test_prepare_and_its_cache(disk: Path, attempt: Attempt, tmp_path: Path) -> None:
    write_rationales(tmp_path / "raw.jsonl", [rationale(q, k) for q in range(40) for k in range(4)])
    words = f"prepare --input {tmp_path}/raw.jsonl --format records --output {disk}/data".split()
    attempt(words, "data", 16 * KIB)
    assert len((disk / "data/positive.jsonl").read_bytes().splitlines()) == 80
    attempt([*words, "--grader", "semantic", "--workers", "1"], "data", 16 * KIB)


def test_run_and_report(disk: Path, attempt: Attempt, tmp_path: Path) -> None:
    generate = "generate --output {run}/data --train-questions 60 --test-questions 5"
    words = ["run", *write_stages(tmp_path / "p.py", Stage("data", "", (generate,))), "--run", f"{disk}/run"]
    attempt(words, "run", 8 * KIB)
    assert (disk / "run/data/train.jsonl").is_file()
    row = {"method": "sc", "dataset": "d", "question_id": "q", "subject": "", "level": "", "correct": 1}
    (disk / "run/predictions.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    attempt(["report", f"{disk}/run"], "run", 8 * KIB)


@pytest.mark.slow
def test_exports(disk: Path, attempt: Attempt, decoder: Words, tmp_path: Path) -> None:
    assert cli.main(decoder("fit", "neg", tmp_path / "run/neg")) == 0
    write_rationales(tmp_path / "both.jsonl", [rationale(q, k) for q in range(200) for k in range(4)])
    export, data = f"export --run {tmp_path}/run --stage neg", f"export-data --rationales {tmp_path}/both.jsonl"
    for words, left in {
        f"{export} --output {disk}/adapter": 8,
        f"{export} --merge --output {disk}/merged": 32,
        f"{data} --output {disk}/pairs.jsonl": 8,
        f"{data} --output {disk}/pairs.parquet": 4,
        f"export-task --questions {write_asked(tmp_path / 'many.jsonl', 200)} --output {disk}/task": 8,
    }.items():
        attempt(words.split(), ".", left * KIB)


def test_collect(disk: Path, attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    asked, more = write_asked(tmp_path / "asked.jsonl", 30), "--sampling.n 4 --endpoint.concurrency 4"
    with endpoint.serving() as server:
        attempt(collect_words(tmp_path, asked, disk / "out", server.base_url, more), ".", 12 * KIB)
        answers = len(server.billed)
    assert (disk / "out/questions.jsonl").is_file()
    assert 30 <= answers <= 34  # but for those under way when the disk was full, all were paid once

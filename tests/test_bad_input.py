"""What a user sees of a mistake: two lines on stderr that name file, line, field and the way out; no traceback."""

import contextlib
import errno
import gzip
import itertools
import json
import lzma
import os
import resource
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from dust2gold import cli
from dust2gold.core import jsonl
from tests.records import rationale, write_positive
from tests.words import REPOSITORY, stage_words

Fit = Callable[..., list[str]]
Complaint = Callable[..., str]
Patch = pytest.MonkeyPatch
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("elsewhere")]

NEG = str(REPOSITORY / "configs/neg.yaml")


@pytest.fixture
def fit(tiny_student: Path, tmp_path: Path) -> Fit:
    """The words of a short `fit` of M_neg on the tiny student."""

    def words(train: str, *more: str) -> list[str]:
        options = f"--data.train {train} --data.verdicts positive --data.batch_size 8 --trainer.max_epochs 1"
        return stage_words("fit", "neg", tiny_student, tmp_path / "run", options, *more)

    return words


def adapter(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (root / "run/adapter").iterdir()}


GOOD = json.dumps(rationale(0).to_json())
LONG = json.dumps(rationale(3, rationale="1+1=2 " * 200).to_json())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param((GOOD + "\n" + GOOD[:50] + "\n").encode(), ":2: malformed JSON", id="malformed JSON"),
        pytest.param(GOOD.replace('"verdict"', '"verdikt"').encode(), ":1: field 'verdict': missing", id="no field"),
        pytest.param(GOOD.replace('"score": null', '"score": "x"').encode(), ":1: field 'score': ", id="wrong type"),
        pytest.param(GOOD.replace("{", '{"extra": 1, ', 1).encode(), ":1: field 'extra': unknown", id="unknown field"),
        pytest.param(f"{GOOD}\nN\xfcsse".encode("latin-1"), ":2: not UTF-8 (", id="no UTF-8"),
        pytest.param(b"PAR1\x15\x04", ": is Parquet, and JSON lines were expected", id="Parquet"),
        pytest.param(b"\x28\xb5\x2f\xfd\x04", ": is zstandard, and", id="zstandard"),
        pytest.param(gzip.compress(GOOD.encode()), ": is gzip, and", id="gzip by another name"),
        pytest.param(f"[{GOOD},\n{GOOD}]".encode(), ": is a JSON array, and", id="JSON array"),
        pytest.param(b"", ": holds no rationale to train on", id="empty D_neg"),
        pytest.param(None, ": no such file", id="missing"),
        pytest.param(f"{GOOD}\n{LONG}".encode(), ":2: field 'rationale': 'q3/0' has ", id="longer than the context"),
    ],
)
def test_damaged_training(fit: Fit, complaint: Complaint, tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "negative.jsonl"
    if content is not None:
        file.write_bytes(content)
    said = complaint(*fit(str(file), "--data.max_length", "5000"))
    assert said.startswith(f"dust2gold: error: {file}")
    assert says in said
    assert not (tmp_path / "run/adapter").exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "socket"])
def test_what_is_no_file(fit: Fit, complaint: Complaint, tmp_path: Path, kind: str) -> None:
    there = Path("/dev/zero") if kind == "device" else tmp_path / "there"
    if kind == "pipe":
        os.mkfifo(there)
    elif kind == "directory":
        there.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(there))
    prepare = f"prepare --input {there} --format records --output {tmp_path}/out".split()
    for words in (fit(str(there)), prepare, ["fit", "--config", str(there)]):
        assert f"{there}: is a {kind}, not a file" in complaint(*words)


def test_a_process_substitution(complaint: Complaint, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, GOOD.encode())
    os.close(write)
    said = complaint("prepare", "--input", f"/dev/fd/{read}", "--format", "records", "--output", str(tmp_path / "out"))
    assert "is a pipe, not a file\n  write it into a file first" in said
    os.close(read)


def test_a_byte_order_mark(fit: Fit, tmp_path: Path) -> None:
    write_positive(train := tmp_path / "p.jsonl", 4)
    config = f"{{data: {{init_args: {{train: {train}.gz}}}}}}"
    (tmp_path / "more.yaml").write_text(config, encoding="utf-8-sig")
    with gzip.open(f"{train}.gz", "wt", encoding="utf-8-sig") as stream:
        stream.write(train.read_text(encoding="utf-8"))
    train.unlink()
    words = fit("unused", "--config", str(tmp_path / "more.yaml"))
    assert cli.main(words) == 0


@pytest.mark.parametrize("opened", [open, gzip.open, lzma.open])
def test_an_endless_line(opened: Any, complaint: Complaint, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(jsonl, "_LONGEST", 1 << 20)
    file = tmp_path / {open: "a.jsonl", gzip.open: "a.jsonl.gz", lzma.open: "a.jsonl.xz"}[opened]
    with opened(file, "wt") as stream:
        stream.write(GOOD + "\n")
        for _ in range(64):
            stream.write(" " * (1 << 20))
    tracemalloc.start()
    said = complaint(*f"prepare --input {file} --format records --output {tmp_path}/out".split())
    assert f"{file}:2: longer than 1,048,576 bytes" in said
    assert tracemalloc.get_traced_memory()[1] < 48 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("rate", ["-1", "0", ".nan", ".inf", "-.inf", "1.0e999", "nan", "often"])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_learning_rates_that_are_none(
    fit: Fit, complaint: Complaint, tmp_path: Path, rate: str, optimizer: str
) -> None:
    words = fit(write_positive(tmp_path / "p.jsonl", 4), "--model.optimizer", optimizer)
    said = complaint(*words, f"--model.optimizer.init_args.lr={rate}")
    assert "field 'model.optimizer" in said
    assert not (tmp_path / "run/adapter").exists()


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("model:\n  init_args:\n    lorra: 3\n", "more.yaml:3: field 'model.lorra': no such option"),
        ("model:\n  init_args:\n    lora:\n      rank: 3\n", "more.yaml:4: field 'model.lora.rank': no such option"),
        ("data:\n  init_args:\n    batch_size: many\n", "more.yaml:3: field 'data.batch_size': int was expected"),
        ("trainer:\n  max_epoks: 3\n", "more.yaml:2: field 'trainer.max_epoks': no such option"),
        ("modell:\n  a: 3\n", "more.yaml:2: field 'modell.a': no such option"),
        ("trainer:\n  callbacks:\n  - class_path: callbacks.gates.GateMonitorr\n", "no attribute 'GateMonitorr'"),
        ("model: [a, b\n  c: d\n", "more.yaml:2: not YAML"),
        ("- a\n- b\n", "more.yaml: a mapping was expected, found list"),
        ("model:\n  x: \xff\n", "more.yaml: not UTF-8"),
    ],
)
def test_config_that_cannot_be_used(complaint: Complaint, tmp_path: Path, yaml: str, says: str) -> None:
    (tmp_path / "more.yaml").write_bytes(yaml.encode("latin-1"))
    said = complaint("fit", "--config", NEG, "--config", str(tmp_path / "more.yaml"))
    assert says in said
    assert str(tmp_path / "more.yaml") in said


def test_rationales_that_a_stage_does_not_train_on(complaint: Complaint, tiny_student: Path, tmp_path: Path) -> None:
    train = write_positive(tmp_path / "p.jsonl", 2)
    says = complaint(*stage_words("fit", "neg", tiny_student, tmp_path / "run", f"--data.train {train}"))
    assert f"{train}:1: field 'verdict': 'q0/0' is right, and this stage trains on negative rationales" in says
    assert "--data.verdicts positive" in says


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--model.lorra 3", "field 'model.lorra': no such option"),
        ("--model.lora.rank 3", "field 'model.lora.rank': no such option"),
        ("--model.optimizer.init_args.lrr=3", "field 'model.optimizer.lrr': no such option"),
        ("--trainer.max_epoks 3", "field 'trainer.max_epoks': no such option"),
        ("--data.batch_size many", "field 'data.batch_size': int was expected, found many"),
        ("--model.sampling.top_p 2", "field 'top_p': must be in (0, 1], found 2.0"),
        ("--seed_everything -1", "-1 is not in bounds, numpy accepts from 0 to"),
        ("stray", "unrecognized arguments: stray"),
        ("--config absent.yaml", "absent.yaml: no such file"),
        ("--trainer.accelerator abacus", "accelerator='abacus'"),
        ("", "field 'data.train': nothing to train on"),
        ("fit", "name a config, as in dust2gold fit --config configs/nat.yaml"),
        ("prepare --input absent.jsonl --format tdg --output out", "absent.jsonl"),
        ("report nowhere", "nowhere"),
        ("run --config absent.yaml", "absent.yaml: no such file"),
    ],
)
def test_command_line_that_cannot_be_used(complaint: Complaint, words: str, says: str) -> None:
    verb = words.partition(" ")[0] in ("fit", "prepare", "report", "run")
    assert says in complaint(*(words if verb else f"fit --config {NEG} {words}").split())


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="no such option"):
        cli.main(["fit", "--config", NEG, "--model.lorra", "3", "--debug"])


# Places that cannot be written.


def test_a_file_where_the_run_should_be(fit: Fit, complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    assert str(tmp_path / "run") in complaint(*fit(write_positive(tmp_path / "p.jsonl", 4)))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_system_error_messages(fit: Fit, complaint: Complaint, tmp_path: Path, monkeypatch: Patch, number: int) -> None:
    words = fit(write_positive(tmp_path / "p.jsonl", 4))
    assert cli.main(words) == 0
    before, last = adapter(tmp_path), str(tmp_path / "run/checkpoints/last.ckpt")
    monkeypatch.setattr(torch, "save", Mock(side_effect=OSError(number, os.strerror(number), last)))
    said = complaint(*words, "--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.every_n_train_steps=1")
    assert os.strerror(number) in said
    assert last in said
    assert adapter(tmp_path) == before


def test_other_system_errors_are_bugs_of_ours(monkeypatch: Patch) -> None:
    monkeypatch.setattr(cli, "dispatch", Mock(side_effect=OSError(errno.EBADF, "Bad file descriptor")))
    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.main(["fit"])


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Limits how long a file may grow: the nearest thing to a full disk that needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:  # before pytest writes: its own output may go to a longer file
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_full_disk_in_the_thread_of_tensorboard(
    fit: Fit, complaint: Complaint, tmp_path: Path, lines: int, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(threading, "excepthook", printed := Mock())
    full = itertools.repeat(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr(
        "tensorboard.summary.writer.record_writer.RecordWriter.write",
        Mock(side_effect=itertools.chain([None] * lines, full)),
    )
    said = complaint(*fit(write_positive(tmp_path / "p.jsonl", 4), "--trainer.log_every_n_steps", "1"))
    assert f"{tmp_path}/run: No space left on device" in said
    printed.assert_not_called()


@pytest.mark.parametrize(  # config.yaml; TensorBoard's log; weights and checkpoints
    "size", [pytest.param(500, marks=pytest.mark.slow), pytest.param(4_000, marks=pytest.mark.slow), 12_000]
)
def test_a_full_disk_while_training(fit: Fit, complaint: Complaint, tmp_path: Path, size: int) -> None:
    words = fit(write_positive(tmp_path / "p.jsonl", 12), "--model.lora.r", "32", "--trainer.log_every_n_steps", "1")
    assert cli.main(words) == 0
    before = adapter(tmp_path)
    with small_disk(size):
        said = complaint(*words)
    assert "File too large" in said
    assert adapter(tmp_path) == before

"""What a user sees of a mistake: two lines on stderr that name file, line, field and the way out; no traceback."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dust2gold import cli
from tests.records import rationale, write_asked, write_positive

Fit = Callable[..., list[str]]
Complaint = Callable[..., str]
Patch = pytest.MonkeyPatch
pytestmark = pytest.mark.filterwarnings("ignore")

REPOSITORY = Path(__file__).parents[1]
NEG = str(REPOSITORY / "configs/neg.yaml")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must fail and returns what it says, after checking its form."""

    def run(*words: str) -> str:
        capsys.readouterr()
        assert cli.main(list(words)) == 1
        gc.collect()  # whatever an abandoned object has to say, a progress bar say, it says now
        err = capsys.readouterr().err
        assert "Traceback" not in err
        said = err[err.index("dust2gold: error: ") :].rstrip("\n").split("\n")
        assert len(said) == 2, said
        assert said[1].startswith("  ")
        assert len(said[1].strip()) > 10
        return "\n".join(said)

    return run


@pytest.fixture
def fit(tiny_student: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The words of a short `fit` of M_neg on the tiny student."""

    def words(train: str, *more: str) -> list[str]:
        return [
            *f"fit --config {NEG} --model.student {tiny_student} --data.train {train} --data.batch_size 8".split(),
            *"--trainer.max_epochs 1 --trainer.accelerator cpu --trainer.enable_progress_bar false".split(),
            *f"--trainer.default_root_dir {tmp_path}/run".split(),
            *more,
        ]

    return words


GOOD = json.dumps(rationale(0).to_json())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param((GOOD + "\n" + GOOD[:50] + "\n").encode(), ":2: malformed JSON", id="malformed JSON"),
        pytest.param(GOOD.replace('"verdict"', '"verdikt"').encode(), ":1: field 'verdict': missing", id="no field"),
        pytest.param(GOOD.replace('"score": null', '"score": "x"').encode(), ":1: field 'score': ", id="wrong type"),
        pytest.param(
            GOOD.replace('"schema": 1', '"schema": 1, "extra": 1').encode(),
            ":1: field 'extra': unknown",
            id="unknown field",
        ),
        pytest.param(GOOD.replace("nuts", "N\xfcsse").encode("latin-1"), ": not UTF-8 (", id="no UTF-8"),
        pytest.param(b"", ": holds no rationale to train on", id="empty D_neg"),
        pytest.param(None, ": no such file", id="missing"),
    ],
)
def test_damaged_training_file(
    fit: Fit, complaint: Complaint, tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "negative.jsonl"
    if content is not None:
        file.write_bytes(content)
    said = complaint(*fit(str(file)))
    assert said.startswith(f"dust2gold: error: {file}")
    assert says in said
    assert not (tmp_path / "run/adapter").exists()


def test_rationale_longer_than_the_context(fit: Fit, complaint: Complaint, tmp_path: Path) -> None:
    record = rationale(3, rationale="1+1=2 " * 200).to_json()
    (tmp_path / "p.jsonl").write_text(GOOD + "\n" + json.dumps(record) + "\n", encoding="utf-8")
    said = complaint(*fit(str(tmp_path / "p.jsonl"), "--data.max_length", "5000"))
    assert f"{tmp_path}/p.jsonl:2: field 'rationale': 'q3/0' has " in said
    assert "more than the student's context of 256" in said
    assert "--data.drop_longer true" in said


def test_adapter_of_another_base(fit: Fit, complaint: Complaint, tmp_path: Path, tiny_student: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert cli.main(fit(write_positive(tmp_path / "p.jsonl", 4))) == 0
    torch.manual_seed(3)
    other: Any = AutoModelForCausalLM.from_pretrained(tiny_student)
    other.get_input_embeddings().weight.data.normal_()
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_student).save_pretrained(tmp_path / "other")
    adapter = str(tmp_path / "run/adapter")
    predict = ["--data.questions", write_asked(tmp_path / "q.jsonl"), "--model.student", str(tmp_path / "other")]
    said = complaint("predict", "--config", NEG, "--model.adapter", adapter, *predict, "--trainer.logger", "false")
    assert f"error: {adapter}: the adapter was trained on another base" in said
    assert "--model.student" in said


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


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model.lorra", "3"], "field 'model.lorra': no such option"),
        (["--model.lora.rank", "3"], "field 'model.lora.rank': no such option"),
        (["--model.optimizer.init_args.lrr=3"], "field 'model.optimizer.lrr': no such option"),
        (["--trainer.max_epoks", "3"], "field 'trainer.max_epoks': no such option"),
        (["--data.batch_size", "many"], "field 'data.batch_size': int was expected, found many"),
        (["--model.sampling.top_p", "2"], "field 'top_p': must be in (0, 1], found 2.0"),
        (["--seed_everything", "-1"], "field 'seed_everything': -1 is not in bounds"),
        (["stray"], "unrecognized arguments: stray"),
        (["--config", "absent.yaml"], "absent.yaml: no such file"),
        (["--trainer.accelerator", "abacus"], "accelerator='abacus'"),
        ([], "field 'data.train': nothing to train on"),
    ],
)
def test_command_line_that_cannot_be_used(complaint: Complaint, words: list[str], says: str) -> None:
    assert says in complaint("fit", "--config", NEG, *words)


def test_no_config_at_all(complaint: Complaint) -> None:
    assert "name a config, as in dust2gold fit --config configs/nat.yaml" in complaint("fit")


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="no such option"):
        cli.main(["fit", "--config", NEG, "--model.lorra", "3", "--debug"])


# Places that cannot be written.


def test_other_verbs_name_the_file_too(complaint: Complaint, tmp_path: Path) -> None:
    assert "absent.jsonl" in complaint("prepare", "--input", "absent.jsonl", "--format", "tdg", "--output", "out")
    assert "nowhere" in complaint("report", "nowhere")
    assert "absent.yaml: no such file" in complaint("run", "--config", "absent.yaml")


def test_a_file_where_the_run_should_be(fit: Fit, complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    said = complaint(*fit(write_positive(tmp_path / "p.jsonl", 4)))
    assert str(tmp_path / "run") in said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_system_errors_become_messages(
    fit: Fit, complaint: Complaint, tmp_path: Path, monkeypatch: Patch, number: int
) -> None:
    import torch

    words = fit(write_positive(tmp_path / "p.jsonl", 4))
    assert cli.main(words) == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "run/adapter").iterdir()}

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "run/checkpoints/last.ckpt"))

    monkeypatch.setattr(torch, "save", fail)
    said = complaint(
        *words, "--trainer.callbacks+=callbacks.checkpoints.RunCheckpoint", "--trainer.callbacks.every_n_train_steps=1"
    )
    assert os.strerror(number) in said
    assert str(tmp_path / "run/checkpoints/last.ckpt") in said
    assert {file.name: file.read_bytes() for file in (tmp_path / "run/adapter").iterdir()} == before


def test_other_system_errors_are_bugs_of_ours(monkeypatch: Patch) -> None:
    def fail(words: list[str]) -> int:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(cli, "dispatch", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.main(["fit"])


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Limits how long a file may grow: the nearest thing to a full disk that needs no rights.

    Lifted before pytest writes a word: its own output may go to a file longer than that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(  # config.yaml; TensorBoard's log; weights and checkpoints
    "size", [pytest.param(500, marks=pytest.mark.slow), pytest.param(4_000, marks=pytest.mark.slow), 12_000]
)
def test_a_full_disk_while_training(fit: Fit, complaint: Complaint, tmp_path: Path, size: int) -> None:
    words = fit(write_positive(tmp_path / "p.jsonl", 12), "--model.lora.r", "32", "--trainer.log_every_n_steps", "1")
    assert cli.main(words) == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "run/adapter").iterdir()}
    with small_disk(size):
        said = complaint(*words)
    assert "File too large" in said
    assert {file.name: file.read_bytes() for file in (tmp_path / "run/adapter").iterdir()} == before

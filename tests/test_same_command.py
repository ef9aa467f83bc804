"""The same command again, after a kill, a signal or damage: what `fit` goes on from, and what it says."""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpoint_files import read_checkpoint
from datamodules.components.records.records import read_rationales, write_rationales
from dust2gold import cli
from dust2gold.core.errors import InputError
from tests.records import rationale, write_asked, write_held, write_positive
from tests.weights import check_same, check_same_but_for_rounding, weights
from tests.words import CPU, REPOSITORY, stage_words

Patch = pytest.MonkeyPatch

Killed = Callable[..., None]
Capture = pytest.CaptureFixture[str]
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("elsewhere")]

NEG = f"--config {REPOSITORY}/configs/neg.yaml"
HERE = f"{CPU} --trainer.logger false --without_callbacks [LearningRateMonitor]"
Words = Callable[..., list[str]]


@pytest.fixture
def words(tiny_student: Path, tmp_path: Path) -> Words:
    """A `fit` of configs/neg.yaml on the tiny student, 6 batches an epoch, a checkpoint every 2 of them."""

    def make(root: str, *more: str) -> list[str]:
        train, validation = write_positive(tmp_path / "t.jsonl", 12), write_held(tmp_path / "v.jsonl", 3, 1)
        return [
            *f"fit {NEG} --model.student {tiny_student} --data.train {train} --data.validation {validation} "
            "--data.verdicts positive".split(),
            *"--data.batch_size 4 --model.lora.dropout 0.3 --model.warmup_steps 2 --trainer.max_epochs 2".split(),
            *f"--model.optimizer.init_args.lr 0.01 {HERE} --trainer.default_root_dir {tmp_path}/{root}".split(),
            *"--trainer.callbacks+=RunCheckpoint --trainer.callbacks.every_n_train_steps=2".split(),
            *more,
        ]

    return make


@pytest.fixture
def killed(words: Words) -> Killed:
    """Trains in `root` and is stopped after so many batches, without a chance to save."""

    def run(root: str, after: int = 7, *more: str) -> None:
        kill = f"--trainer.callbacks+=tests.interruptions.Kill --trainer.callbacks.after={after}".split()
        assert cli.main(words(root, *more, *kill, "--trainer.callbacks.politely=true")) == 130

    return run


def step(root: Path) -> int:
    return int(read_checkpoint(root / "checkpoints/last.ckpt")["global_step"])


def test_the_same_command_goes_on(words: Words, killed: Killed, tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(words("whole")) == 0
    killed("killed")
    assert "the same command goes on from here" in capsys.readouterr().err
    assert step(tmp_path / "killed") == 6
    shutil.copy(tmp_path / "t.jsonl", tmp_path / "moved.jsonl")  # a moved file is the same
    same = f"--data.num_workers 0 --model.sampling.temperature 0.5 --data.train {tmp_path}/moved.jsonl".split()
    assert cli.main(words("killed", *same)) == 0
    assert f"resuming from step 6 ({tmp_path}/killed/checkpoints/last.ckpt)" in capsys.readouterr().err
    check_same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("after", [pytest.param(5, marks=pytest.mark.slow), 6, pytest.param(7, marks=pytest.mark.slow)])
def test_without_validation(words: Words, killed: Killed, tmp_path: Path, after: int) -> None:
    more = ["--data.validation", "[]", "--data.validation_fraction", "0", "--trainer.max_epochs", "3"]
    assert cli.main(words("whole", *more)) == 0
    killed("run", after, *more)
    assert step(tmp_path / "run") == {5: 4, 6: 4, 7: 6}[after]
    assert cli.main(words("run", *more)) == 0
    check_same(tmp_path / "whole", tmp_path / "run")


def test_a_finished_run_begins_anew(words: Words, tmp_path: Path, capsys: Capture) -> None:
    def said(*more: str) -> str:
        assert cli.main(words("run", *more)) == 0
        return capsys.readouterr().err

    said()
    first = weights(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/adapter-last")
    assert "resuming" not in said()
    assert all(torch.equal(first[name], value) for name, value in weights(tmp_path / "run").items())
    for unless in ("last", "same"):
        assert "resuming from step 12" in said("--ckpt_path", unless)
    assert re.search(r"beginning anew: .*\(model\.lora\.r\)", said("--ckpt_path", "same", "--model.lora.r", "4"))


@pytest.mark.parametrize("change", ["file", pytest.param("none", marks=pytest.mark.slow)])
def test_another_run_begins_anew(words: Words, killed: Killed, tmp_path: Path, capsys: Capture, change: str) -> None:
    killed("run")
    before = (tmp_path / "run/checkpoints/last.ckpt").read_bytes()
    command = words("run", *(["--ckpt_path", "none"] if change == "none" else []))
    if change == "file":
        write_positive(tmp_path / "t.jsonl", 13)
    assert cli.main(command) == 0
    said = capsys.readouterr().err
    assert bool(re.search(r"beginning anew: .*\(data\.train\)", said)) == (change == "file")
    aside = tmp_path / "run/checkpoints/aside-1.ckpt"
    assert f"kept the checkpoint of another run: {aside}" in said
    assert aside.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_signals(words: Words, tmp_path: Path, capsys: Capture, monkeypatch: Patch, number: signal.Signals) -> None:
    for name in (
        "NTASKS=1",
        "JOB_ID=7",
        "JOB_NAME=job",
        "PROCID=0",
        "LOCALID=0",
        "NODEID=0",
    ):  # where Lightning would save in the middle of a step, and requeue by itself
        monkeypatch.setenv(*f"SLURM_{name}".split("="))
    stop = ["--trainer.callbacks+=tests.interruptions.Signal", f"--trainer.callbacks.number={int(number)}"]
    more = ["--trainer.accumulate_grad_batches", "2", "--trainer.max_epochs", "4"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(words("run", *more, *stop, "--trainer.callbacks.after=3"))
    assert stopped.value.code == 128 + number
    assert f"{number.name}: saved at step 2; the same command goes on from here" in capsys.readouterr().err
    assert step(tmp_path / "run") == 2
    assert not list((tmp_path / "run").glob("hpc_ckpt*"))
    assert cli.main(words("run", *more)) == 0
    assert "resuming from step 2" in capsys.readouterr().err
    assert cli.main(words("whole", *more)) == 0
    check_same(tmp_path / "whole", tmp_path / "run")


def test_a_signal_before_validation_saves_after_it(words: Words, tmp_path: Path) -> None:
    stop = ["--trainer.callbacks+=tests.interruptions.Signal", "--trainer.callbacks.after=6"]
    with pytest.raises(SystemExit):
        cli.main(words("run", *stop))
    assert (tmp_path / "run/adapter").is_dir()  # the validation took place
    assert step(tmp_path / "run") == 6
    assert cli.main(words("run")) == 0
    assert cli.main(words("whole")) == 0
    check_same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(words: Words, tmp_path: Path) -> None:
    def fit(root: str, *more: str) -> subprocess.CompletedProcess[str]:
        two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "4", *more]
        command = [sys.executable, str(REPOSITORY / "cli.py"), *words(root, *two)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)

    assert fit("whole").returncode == 0
    stop = ["--trainer.callbacks+=tests.interruptions.Signal", "--trainer.callbacks.after=5"]
    stopped = fit("run", *stop, "--trainer.callbacks.rank=1")  # the other process hears of it
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr[-2000:]
    assert stopped.stderr.count("SIGTERM: saved at step 5") == 1
    states = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["callbacks"]["RandomStateCheckpoint"]["ranks"]
    assert len(states) == 2
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])
    assert "resuming from step 5" in fit("run").stderr
    check_same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("how", ["a bit", *(pytest.param(h, marks=pytest.mark.slow) for h in ("truncated", "empty"))])
def test_a_damaged_checkpoint(words: Words, killed: Killed, tmp_path: Path, capsys: Capture, how: str) -> None:
    killed("run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    whole = last.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"/data/1") + 200] ^= 16  # in a tensor's bytes
    damaged = {"truncated": whole[: len(whole) // 2], "empty": b"", "a bit": bytes(flipped)}[how]
    last.write_bytes(damaged)
    assert cli.main(words("run")) == 0
    said = capsys.readouterr().err
    assert f"warning: {last}: the checkpoint is damaged: " in said
    assert f"resuming from step 4 ({last.with_name('previous.ckpt')})" in said
    assert last.with_name("aside-1.ckpt").read_bytes() == damaged  # nothing is overwritten
    assert cli.main(words("whole")) == 0
    check_same(tmp_path / "whole", tmp_path / "run")


def test_samples_of_another_checkpoint_are_not_gone_on_with(words: Words, tmp_path: Path, capsys: Capture) -> None:
    for root, rate in (("a", "0.01"), ("b", "0.02")):
        assert cli.main(words(root, "--trainer.max_epochs", "1", "--model.optimizer.init_args.lr", rate)) == 0
    options = words("samples")
    base, place = options[1 : options.index("--data.train")], options[options.index("--trainer.accelerator") :]
    asked = ["--data.questions", write_asked(tmp_path / "q.jsonl", 3), "--data.question_batch_size", "1"]
    predict = ["predict", *base, *place, *asked, "--model.sampling.max_new_tokens", "6"]
    of = {root: ["--ckpt_path", str(tmp_path / root / "checkpoints/last.ckpt")] for root in "ab"}
    kill = ["--trainer.callbacks+=tests.interruptions.KillPrediction", "--trainer.callbacks.after=1"]
    assert cli.main([*predict, *of["a"], *kill]) == 130
    capsys.readouterr()
    assert cli.main([*predict, *of["b"], *kill]) == 130
    assert "sampling anew: made otherwise (checkpoint, writer); kept: " in capsys.readouterr().err
    assert cli.main([*predict, *of["b"]]) == 0
    assert "resuming: 1 of 3 questions" in capsys.readouterr().out
    assert [record.writer for record in read_rationales(tmp_path / "samples/samples.jsonl")] == ["b"] * 3


def test_a_ranker_is_validated_by_its_checkpoint_alone(tiny_student: Path, tmp_path: Path) -> None:
    for first, name in enumerate(("both", "held")):
        write_rationales(tmp_path / f"{name}.jsonl", [rationale(q, k) for q in (first, 2 + first) for k in range(2)])
    data = f"--data.train {tmp_path}/both.jsonl --data.validation {tmp_path}/held.jsonl --trainer.max_epochs 1"
    for verb, more in (("fit", ""), ("validate", "--ckpt_path last")):
        assert cli.main(stage_words(verb, "rank", tiny_student, tmp_path / "rank", f"{data} {more}")) == 0


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


def test_a_pickled_payload_is_refused(words: Words, killed: Killed, tmp_path: Path, capsys: Capture) -> None:
    killed("run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    torch.save({**read_checkpoint(last), "more": Payload(tmp_path / "touched")}, last)
    for more in ([], ["--ckpt_path", "last"], ["--ckpt_path", str(last)]):
        assert cli.main(words("run", *more)) == 1
        assert f"{last}: the checkpoint holds more than tensors and plain values" in capsys.readouterr().err
    predict = f"predict {NEG} --data.questions {write_asked(tmp_path / 'q.jsonl')} --trainer.logger false".split()
    assert cli.main([*predict, "--ckpt_path", str(last)]) == 1
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Payload(tmp_path / "touched")))
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(tmp_path / "plain.ckpt")
    assert not (tmp_path / "touched").exists()


def test_missing_checkpoint_is_named(words: Words, capsys: Capture) -> None:
    assert cli.main(words("run", "--ckpt_path", "nowhere.ckpt")) == 1
    assert "nowhere.ckpt: field 'ckpt_path': no such checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("by_signal", [False, True])
def test_predict_goes_on(tiny_student: Path, tmp_path: Path, capsys: Capture, by_signal: bool) -> None:
    sampling = "--data.question_batch_size 2 --model.sampling.max_new_tokens 6 --model.sampling.samples 2"
    questions = write_asked(tmp_path / "q.jsonl", 6)
    words = f"predict {NEG} --model.student {tiny_student} --data.questions {questions} {sampling} {HERE}"

    def predict(root: str, *more: str) -> int:
        return cli.main([*words.split(), "--trainer.default_root_dir", str(tmp_path / root), *more])

    assert predict("whole") == 0
    stop = ["--trainer.callbacks+=tests.interruptions.KillPrediction", "--trainer.callbacks.after=2"]
    if by_signal:
        with pytest.raises(SystemExit) as stopped:
            predict("killed", *stop, "--trainer.callbacks.by_signal=true")
        assert stopped.value.code == 128 + signal.SIGTERM
    else:
        assert predict("killed", *stop) == 130
    assert not (tmp_path / "killed/samples.jsonl").exists()
    assert predict("killed") == 0
    done = 3 if by_signal else 4  # the signal is heard after a question, Ctrl-C comes after a batch
    assert f"resuming: {done} of 6 questions" in capsys.readouterr().out
    check_same_but_for_rounding(tmp_path / "whole/samples.jsonl", tmp_path / "killed/samples.jsonl")

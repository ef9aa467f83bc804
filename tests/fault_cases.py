"""What `tests.faults` kills: commands on tiny data, and the files they must make whatever happens to them."""

import atexit
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datamodules.components.records.records import write_rationales
from dust2gold.run.stage import Stage
from tests import endpoint
from tests.forks import ending, finish, fork, last_words
from tests.own_stages import write_stages
from tests.records import rationale, write_asked, write_held, write_positive
from tests.students import write_tiny_student
from tests.words import collect_words, stage_words

NOTED = (
    "--trainer.logger false --without_callbacks [LearningRateMonitor] --trainer.callbacks+=RunCheckpoint "
    "--trainer.callbacks.every_n_train_steps=2 --trainer.callbacks+=tests.interruptions.LossFile"
)
"""A checkpoint every 2 steps, and all losses written down."""
THREE_EPOCHS = "--trainer.max_epochs 3 --data.batch_size 4 --trainer.accumulate_grad_batches 2"


@dataclass
class Case:
    """A command and what it must make, whatever happens to it."""

    name: str  # as `--only` takes it
    words: Callable[[Path], list[str]]  # makes the command line for a directory
    patterns: tuple[str, ...]  # the files of that directory that count


def cases(home: Path) -> list[Case]:
    """All cases, with what they need made in `home`."""
    if (code := ending(fork(partial(write_inputs, home), home))) != 0:  # saving a model leaves threads behind
        raise SystemExit(f"cannot make the inputs ({code}): {last_words(home)}")
    fits = {
        "fit-neg": partial(fit, home, "neg", ""),
        "fit-nat": partial(fit, home, "nat", f"--model.negative {home}/neg/adapter"),
        "fit-nce": partial(fit, home, "nce", f"--model.nat {home}/nat/adapter"),
        "fit-nce-cached": partial(fit, home, "nce", f"--model.nat {home}/nat/adapter --model.teacher cached"),
        "fit-rank": partial(fit_rank, home),
    }
    for name in ("neg", "nat"):
        if (code := finish(fits[f"fit-{name}"](home / name), home)) != 0:
            raise SystemExit(f"cannot make {name}/adapter ({code}): {last_words(home)}")
    # Grades 1,200 rationales, those that strings reject by math-verify
    prepare = f"prepare --input {home}/raw.jsonl --format records --grader semantic --workers 1"
    return [
        *(Case(name, words, ("adapter*/**/*.safetensors",)) for name, words in fits.items()),
        Case("predict", partial(predict, home), ("samples.jsonl",)),
        Case("prepare", lambda root: [*prepare.split(), "--output", str(root)], ("*.jsonl", "summary.json")),
        collecting(home),
        running(home),
    ]


def write_inputs(home: Path) -> None:
    write_tiny_student(home / "student")
    write_positive(home / "train.jsonl", 11)
    write_held(home / "validation.jsonl", 3, 1)
    write_rationales(home / "both.jsonl", [rationale(q, k) for q in range(11) for k in range(4)])
    write_rationales(home / "raw.jsonl", [rationale(q, k) for q in range(300) for k in range(4)])
    write_asked(home / "questions.jsonl", 12)


def fit(home: Path, config: str, more: str, root: Path) -> list[str]:
    options = (
        f"{NOTED} --data.train {home}/train.jsonl --data.validation {home}/validation.jsonl {THREE_EPOCHS} {more} "
        "--data.verdicts positive --model.lora.dropout 0.3 --model.warmup_steps 2 --model.optimizer.init_args.lr 0.01"
    )
    return stage_words("fit", config, home / "student", root, options)


def fit_rank(home: Path, root: Path) -> list[str]:
    options = f"{NOTED} --data.train {home}/both.jsonl --data.validation_fraction 0.2 {THREE_EPOCHS}"
    return stage_words("fit", "rank", home / "student", root, options)


def predict(home: Path, root: Path) -> list[str]:
    options = (
        f"--trainer.logger false --model.adapter {home}/neg/adapter --data.questions {home}/questions.jsonl "
        "--data.question_batch_size 2 --model.sampling.samples 3 --model.sampling.max_new_tokens 12"
    )
    return stage_words("predict", "neg", home / "student", root, options)


def collecting(home: Path) -> Case:
    """Thirty questions from an endpoint that numbers samples: one that was lost or paid twice leaves a gap."""
    asked, addresses = write_asked(home / "asked.jsonl", 30), {}
    more = "--endpoint.concurrency 4 --sampling.n 3 --sampling.max_tokens 64 --prices.prompt 1 --prices.completion 2"

    def words(root: Path) -> list[str]:
        if root not in addresses:
            addresses[root] = serve_apart(home / f"{root.name}.address")
        return collect_words(home, asked, root, addresses[root], more)

    return Case("collect", words, ("positive.jsonl", "negative.jsonl", "questions.jsonl"))


def serve_apart(note: Path) -> str:
    """Starts an endpoint in a process of its own, for as long as this one lives, and returns its address."""
    process = os.fork()
    if process == 0:
        with endpoint.serving() as server:
            server.pause = 0.05
            fresh = note.with_suffix(".new")
            fresh.write_text(server.base_url, encoding="utf-8")
            fresh.replace(note)
            parent = os.getppid()
            while os.getppid() == parent:
                time.sleep(0.2)
        os._exit(0)
    atexit.register(os.kill, process, signal.SIGKILL)
    while not note.exists():
        time.sleep(0.01)
    return note.read_text(encoding="utf-8")


def running(home: Path) -> Case:
    """A run of data, M_neg, its answers to the test questions and samples."""

    def stage(verb: str, root: str, more: str) -> str:
        return " ".join(stage_words(verb, "neg", home / "student", f"{{run}}/{root}", more))

    ask = "--trainer.logger false --model.adapter {run}/neg/adapter --model.sampling.max_new_tokens 8 --data.questions"
    data = (
        "generate --output {run}/raw --train-questions 12 --test-questions 6 --samples 2 --levels 1,2",
        "prepare --input {run}/raw/train.jsonl --format tdg --source t --output {run}/data",
        "prepare --input {run}/raw/test.jsonl --format math --source t --output {run}/test",
    )
    train = f"{NOTED} --data.train {{run}}/data/positive.jsonl --data.verdicts positive --data.drop_longer true"
    neg = (
        stage("fit", "neg", f"{train} --data.batch_size 4 --trainer.max_epochs 2"),
        stage("test", "neg", f"{ask} {{run}}/test/questions.jsonl"),
    )
    samples = (stage("predict", "samples", f"{ask} {{run}}/data/questions.jsonl --data.question_batch_size 3"),)
    options = write_stages(
        home / "stages.py",
        Stage("data", "data", data, directories=("raw", "data", "test"), outputs=("data", "test")),
        Stage("neg", "neg", neg, ("data",), outputs=("neg/adapter", "neg/predictions.jsonl")),
        Stage("samples", "samples", samples, ("data", "neg"), outputs=("samples/samples.jsonl",)),
    )
    made = ("*/adapter*/*.safetensors", "*/predictions.jsonl", "*/samples.jsonl", "data/*.jsonl", "test/*.jsonl")
    return Case("run", lambda root: ["run", *options, "--run", str(root)], made)

"""Two processes make what one makes with twice the accumulation: losses, weights, samples, scores, votes, metrics."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from callbacks.checkpoint_files import read_checkpoint
from datamodules.components.records.records import Rationale, read_rationales, write_questions, write_rationales
from dust2gold import cli
from tests.records import question, rationale, write_asked
from tests.together import free_port, together
from tests.weights import distance

pytestmark = pytest.mark.filterwarnings("ignore")

REPOSITORY = Path(__file__).parents[1]
ONE, TWO = (1, 2), (2, 1)
"""(processes, accumulated batches) of the same optimizer steps."""


def on(processes: int) -> str:
    """The options of so many processes on the CPU."""
    strategy = "ddp" if processes > 1 else "auto"
    shared = "--trainer.accelerator cpu --trainer.enable_progress_bar false"
    return f"{shared} --trainer.devices {processes} --trainer.strategy {strategy}"


@dataclass
class Project:
    """A directory of data and runs on the tiny student."""

    home: Path
    student: str

    def rationales(self, name: str, verdicts: str, questions: int) -> str:
        """A file of the first so many questions, right and wrong rationales as `verdicts` says."""
        places = {"right": (0, 2), "wrong": (1, 3), "both": (0, 1, 2, 3)}[verdicts]
        path = self.home / f"{name}.jsonl"
        write_rationales(path, [rationale(q, k) for q in range(questions) for k in places])
        return str(path)

    def words(self, verb: str, config: str, root: str, split: tuple[int, int] = (1, 1), *more: str) -> list[str]:
        """A command line of so many processes, all else being equal."""
        student = "--model.backbone.init_args.student" if config == "rank" else "--model.student"
        return [
            *f"{verb} --config {REPOSITORY}/configs/{config}.yaml {student} {self.student} {on(split[0])}".split(),
            *f"--trainer.default_root_dir {self.home}/{root} --trainer.callbacks+=tests.interruptions.Shares".split(),
            *more,
        ]

    def fit(self, stage: str, root: str, split: tuple[int, int], *more: str) -> list[str]:
        """A command that trains without dropout and logs every step."""
        config = stage.removesuffix("-cached")
        kind = {"neg": "wrong", "nat": "right", "nce": "right", "nt": "both", "rank": "both"}[config]
        before = {"nat": "--model.negative {}/neg/adapter", "nce": "--model.nat {}/nat/adapter"}.get(config, "")
        lora = "--model.backbone.init_args.lora" if config == "rank" else "--model.lora"
        cached = "--model.teacher cached" if stage.endswith("cached") else ""
        train, validation = self.rationales("train", kind, 10), self.rationales("validation", kind, 3)
        options = (
            f"{before.format(self.home)} {lora}.dropout 0 --data.train {train} --data.validation {validation} {cached} "
            "--data.batch_size 3 --model.optimizer.init_args.lr 0.01 --model.warmup_steps 2 --trainer.max_epochs 2 "
            f"--trainer.accumulate_grad_batches {split[1]} --trainer.log_every_n_steps 1 "
            "--trainer.logger lightning.pytorch.loggers.CSVLogger --trainer.logger.version logs "
            f"--trainer.logger.save_dir {self.home}/{root}"
        )
        return self.words("fit", config, root, split, *options.split(), *more)

    def run(self, words: list[str], processes: int = 1) -> None:
        """Runs a command in so many processes, started as torchrun starts them."""
        root = Path(words[words.index("--trainer.default_root_dir") + 1])
        assert together(partial(cli.main, words), root / "processes", processes) == [0] * processes


@pytest.fixture
def project(tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, str(tiny_student))


def curve(root: Path) -> dict[tuple[str, int], float]:
    """What was logged, by name and step, but for what depends on the clock."""
    with next(root.rglob("logs/metrics.csv")).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {
        (name, int(row["step"])): float(value)
        for row in rows
        for name, value in row.items()
        if value and name.startswith(("train/", "val/"))
    }


def check_fit_is_the_same(one: Path, other: Path, steps: int) -> None:
    logged, again = curve(one), curve(other)
    losses = {step: value for (name, step), value in logged.items() if name == "train/loss"}
    assert len(losses) == len(set(losses.values())) == steps  # it learns
    assert again == pytest.approx(logged, rel=1e-6, abs=1e-6)
    for key in (key for key in logged if key[0].endswith("/loss")):
        assert again[key] == pytest.approx(logged[key], rel=1e-6)
    assert distance(one, other) <= 1e-5


def shares(root: Path, kind: str) -> list[list[tuple[int, str]]]:
    """What each process trained on or answered: (epoch, id)."""
    files = sorted(root.glob("share-*.jsonl"))
    notes = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
    return [[(note.get("epoch", 0), name) for note in each for name in note.get(kind, [])] for each in notes]


def check_halves(root: Path, kind: str, of: int) -> None:
    """Two processes had about half each, nothing twice."""
    both = shares(root, kind)
    assert len(both) == 2
    assert len({row for share in both for row in share}) == sum(map(len, both)) == of
    assert max(map(len, both)) <= 0.65 * of


def test_two_processes_train_what_one_does_with_ragged_ends(project: Project) -> None:
    """11 batches of single rows in steps of 2; one validation row, which the second process has no share of.

    The two read what one of them has encoded.
    """
    train = project.rationales("ragged", "wrong", 6)
    lines = Path(train).read_text(encoding="utf-8").splitlines(keepends=True)
    Path(train).write_text("".join(lines[:11]), encoding="utf-8")
    (project.home / "one.jsonl").write_text(lines[-1], encoding="utf-8")
    more = ["--data.batch_size", "1", "--data.validation", str(project.home / "one.jsonl"), "--data.train", train]
    project.run(project.fit("neg", "one", ONE, *more))
    project.run(project.fit("neg", "two", TWO, *more, "--data.encoded", str(project.home / "encoded")), 2)
    assert sum(path.is_dir() for path in (project.home / "encoded").iterdir()) == 2  # training and validation
    check_fit_is_the_same(project.home / "one", project.home / "two", steps=12)
    check_halves(project.home / "two", "trained", 2 * 11)


def test_the_alarm_takes_both_processes_where_one_repeats_a_row(project: Project) -> None:
    """5 batches of single rows an epoch: the second process repeats one, and its windows must fill with the first's.

    A process that looked at a full window alone would wait for the other: 30 seconds, then it is an error.
    """
    train = project.rationales("ragged", "both", 2)
    lines = Path(train).read_text(encoding="utf-8").splitlines(keepends=True)
    Path(train).write_text("".join(lines[:5]), encoding="utf-8")
    words = project.fit(
        "nt",
        "nt",
        TWO,
        *f"--data.batch_size 1 --data.train {train} --trainer.max_epochs 8".split(),
        *"--trainer.strategy lightning.pytorch.strategies.DDPStrategy".split(),
        *"--trainer.strategy.init_args.timeout 0:00:30".split(),
    )
    project.run(words, 2)
    with next((project.home / "nt").rglob("logs/metrics.csv")).open(encoding="utf-8") as stream:
        told = [int(row["step"]) for row in csv.DictReader(stream) if row["collapse/fallen"]]
    assert told == [20]  # once in 20 batches, in steps of one batch a process


@pytest.mark.slow
def test_every_stage_is_the_same_in_two_processes(project: Project) -> None:
    for stage in ("neg", "nat", "nce", "nce-cached", "rank"):
        one, two = project.home / stage, project.home / f"{stage}-2"
        project.run(project.fit(stage, stage, ONE))
        project.run(project.fit(stage, two.name, TWO), 2)
        check_fit_is_the_same(one, two, steps=10 if stage == "rank" else 8)
        if stage != "rank":
            check_halves(two, "trained", 2 * 20)
    asked = [asked_by(rank, project.home / "nce-cached-2") for rank in range(2)]
    assert max(asked) <= 0.65 * sum(asked)  # each process asked the teachers about its own samples
    project.run(project.fit("nce-cached", "nce-cached-2", (1, 2), "--ckpt_path", "none"))  # one reads what two wrote
    assert "teacher targets of 20 samples are there" in said(project.home / "nce-cached-2")


def asked_by(rank: int, root: Path) -> int:
    """How many samples a process keeps in a teacher cache."""
    return sum(len(load_file(file)["keys"]) for file in root.rglob(f"part-{rank}-*.safetensors"))


def said(root: Path, rank: int = 0) -> str:
    return (root / "processes" / str(rank) / "log").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["devices", "torchrun"])
def test_started_by_a_user(project: Project, how: str) -> None:
    project.run(project.fit("neg", "one", ONE))
    module = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    start = [sys.executable, *(module if how == "torchrun" else [])]
    command = [*start, str(REPOSITORY / "cli.py"), *project.fit("neg", "two", TWO)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    check_fit_is_the_same(project.home / "one", project.home / "two", steps=8)
    check_halves(project.home / "two", "trained", 2 * 20)


def test_processes_of_torchrun_that_would_each_train_alone(project: Project) -> None:
    words = project.fit("neg", "alone", (1, 1))
    assert together(partial(cli.main, words), project.home / "alone/processes", 2) == [1, 1]
    assert "torchrun has started 2 processes" in said(project.home / "alone")
    assert not (project.home / "alone/checkpoints").exists()


# Going on with another number of processes.


def stopped(project: Project, root: str, split: tuple[int, int], after: int, *more: str) -> None:
    """Trains and is told to stop after so many batches of each process; the optimizer step under way is finished."""
    stop = ["--trainer.callbacks+=tests.interruptions.Signal", f"--trainer.callbacks.after={after}"]
    words = project.fit("neg", root, split, *more, *stop)
    assert set(together(partial(cli.main, words), project.home / root / "processes", split[0])) == {143}


@pytest.mark.parametrize(
    ("first", "then"),
    [(ONE, TWO), pytest.param(TWO, ONE, marks=pytest.mark.slow), pytest.param((2, 2), (1, 4), marks=pytest.mark.slow)],
)
def test_going_on_in_steps_of_the_same_size_is_the_undisturbed_run(
    project: Project, first: tuple[int, int], then: tuple[int, int]
) -> None:
    steps = 8 // (first[0] * first[1]) * 2
    project.run(project.fit("neg", "whole", first), first[0])
    stopped(project, "run", first, first[1])
    project.run(project.fit("neg", "run", then), then[0])
    assert [n for n, _ in sorted(shares(project.home / "run", "trained")[0])].count(0) <= 20
    assert distance(project.home / "whole", project.home / "run") <= 1e-5
    assert steps_of(project.home / "run") == steps


def steps_of(root: Path) -> int:
    return int(read_checkpoint(root / "checkpoints/last.ckpt")["global_step"])


def test_going_on_in_steps_of_another_size_is_refused(project: Project) -> None:
    stopped(project, "run", (1, 1), 3)
    for then in ((2, 1), (1, 2)):
        words = project.fit("neg", "run", then, "--ckpt_path", "last")
        assert together(partial(cli.main, words), project.home / "run/processes", then[0]) == [1] * then[0]
        assert (
            "the checkpoint was made by 1 process(es) accumulating 1 batch(es), 1 an optimizer step;"
            f" here are {then[0]} accumulating {then[1]}, 2 a step"
        ) in said(project.home / "run")
    project.run(project.fit("neg", "run", (1, 1)))


# Sampling, grading, scoring, voting.


def sampling(project: Project, verb: str, root: str, processes: int, questions: int, *more: str) -> list[str]:
    options = (
        f"--data.questions {write_asked(project.home / f'{questions}.jsonl', questions)} --data.question_batch_size 2 "
        "--model.sampling.max_new_tokens 6 --model.sampling.samples 3 --trainer.logger false"
    )
    return project.words(verb, "neg", root, (processes, 1), *options.split(), *more)


def samples(root: Path, name: str = "samples.jsonl") -> list[Rationale]:
    return list(read_rationales(root / name))


def check_same_samples(one: list[Rationale], other: list[Rationale]) -> None:
    """To the bit, but for what rounds differently beside other questions."""
    assert [replace(r, logprob=None, score=None) for r in one] == [replace(r, logprob=None, score=None) for r in other]
    for field in ("logprob", "score"):
        expected = [getattr(record, field) for record in one]
        assert [getattr(record, field) for record in other] == pytest.approx(expected, abs=1e-5)


def vote(project: Project, root: str, processes: int, samples: Path) -> list[str]:
    return (
        f"test --config {REPOSITORY}/configs/vote.yaml --data.batch_size 2 --data.samples {samples} {on(processes)} "
        f"--trainer.default_root_dir {project.home}/{root}"
    ).split()


def check_same_files(one: Path, other: Path) -> None:
    for name in ("predictions.jsonl", "metrics.json"):
        assert (one / name).read_text(encoding="utf-8") == (other / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_samples_and_answers_are_the_same(project: Project) -> None:
    """7 questions do not divide by 2 processes."""
    able, tokens = replace(project, student="embedded"), ["--model.sampling.max_new_tokens", "40"]
    project.run(sampling(able, "test", "before", 1, 7, *tokens))
    lines = (project.home / "before/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [str(json.loads(line)["answer"]) for line in lines]
    golds = [answer if number % 2 else "0" for number, answer in enumerate(answers)]  # so that some are right
    write_questions(project.home / "golds.jsonl", [question(n, gold=gold) for n, gold in enumerate(golds)])
    tokens += ["--model.sampling.temperature", "0.2"]
    more = [*tokens, "--data.questions", str(project.home / "golds.jsonl")]
    for processes in (1, 2):
        for verb in ("test", "predict"):
            project.run(sampling(able, verb, f"{processes}/nuts", processes, 7, *more), processes)
    one, two = project.home / "1/nuts", project.home / "2/nuts"
    assert len(samples(one)) == 3 * 7
    check_same_samples(samples(one), samples(two))
    check_same_files(one, two)
    assert json.loads((one / "metrics.json").read_text(encoding="utf-8"))["test/accuracy"] == pytest.approx(3 / 7)
    assert len({record.verdict for record in samples(one)}) > 1


@pytest.mark.parametrize("questions", [pytest.param(5, marks=pytest.mark.slow), 1])
def test_scores_and_votes_are_the_same(project: Project, questions: int) -> None:
    """5 questions do not divide by 2 processes; of 1 question the second process has none."""
    project.run(project.fit("rank", "rank", (1, 1), "--trainer.max_epochs", "1"))
    given = project.rationales("given", "both", questions)
    for root, processes in (("one", 1), ("two", 2)):
        project.run(scoring(project, root, processes, given), processes)
        project.run(vote(project, f"{root}/votes", processes, project.home / "one/scored.jsonl"), processes)
    one, two = project.home / "one", project.home / "two"
    assert len(samples(one, "scored.jsonl")) == 4 * questions
    check_same_samples(samples(one, "scored.jsonl"), samples(two, "scored.jsonl"))
    check_same_files(one / "votes", two / "votes")


@pytest.mark.slow
def test_one_question_for_two_processes(project: Project) -> None:
    for processes in (1, 2):
        for verb in ("test", "predict"):
            project.run(sampling(project, verb, f"{processes}/nuts", processes, 1), processes)
    check_same_samples(samples(project.home / "1/nuts"), samples(project.home / "2/nuts"))
    check_same_files(project.home / "1/nuts", project.home / "2/nuts")


def scoring(project: Project, root: str, processes: int, given: str) -> list[str]:
    options = f"--model.trained {project.home}/rank/adapter --data.predict {given} --data.score_batch_size 4"
    return project.words("predict", "rank", root, (processes, 1), *options.split(), "--trainer.logger", "false")


@pytest.mark.slow
def test_sampling_and_scoring_are_shared(project: Project) -> None:
    project.run(project.fit("rank", "rank", (1, 1), "--trainer.max_epochs", "1"))
    for verb in ("test", "predict"):
        project.run(sampling(project, verb, verb, 2, 9), 2)
        check_halves(project.home / verb, "answered", 9)
    project.run(scoring(project, "scores", 2, f"{project.home}/predict/samples.jsonl"), 2)
    check_halves(project.home / "scores", "answered", 27)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 2)])
def test_predict_goes_on_with_another_number_of_processes(project: Project, before: int, after: int) -> None:
    kill = "--trainer.callbacks+=tests.interruptions.KillPrediction"
    stop = [kill, "--trainer.callbacks.after=1", "--trainer.callbacks.by_signal=true"]
    project.run(sampling(project, "predict", "whole", 1, 9))
    words = sampling(project, "predict", "run", before, 9, *stop)
    assert together(partial(cli.main, words), project.home / "run/processes", before) == [143] * before
    assert not (project.home / "run/samples.jsonl").exists()
    project.run(sampling(project, "predict", "run", after, 9), after)
    assert f"resuming: {before} of 9 questions" in said(project.home / "run")
    check_same_samples(samples(project.home / "whole"), samples(project.home / "run"))
    assert not list((project.home / "run").glob("*.part-*"))

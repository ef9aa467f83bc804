"""Two processes make what one makes with twice the accumulation: losses, weights, samples, scores, votes, metrics."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from callbacks.checkpoint_files import read_checkpoint
from datamodules.components.records.records import write_questions, write_rationales
from dust2gold import cli
from tests.forks import log_of
from tests.records import question, rationale, write_asked
from tests.together import free_port, together
from tests.weights import check_same_but_for_rounding, distance
from tests.words import CPU, REPOSITORY, stage_words

pytestmark = pytest.mark.filterwarnings("ignore")

ONE, TWO = (1, 2), (2, 1)
"""(processes, accumulated batches) of the same optimizer steps."""
PLACES = {"right": (0, 2), "wrong": (1, 3), "both": (0, 1, 2, 3)}
KINDS = {"neg": "wrong", "nat": "right", "nce": "right", "nt": "both", "rank": "both"}


def on(processes: int) -> str:
    return f"--trainer.devices {processes} --trainer.strategy {'ddp' if processes > 1 else 'auto'}"


@dataclass
class Project:
    """A directory of data and runs on the tiny student."""

    home: Path
    student: str

    def rationales(self, name: str, verdicts: str, questions: int, most: int | None = None) -> str:
        """A file of the first questions' rationales, `most` at most."""
        path = self.home / f"{name}.jsonl"
        records = [rationale(q, k, writer=name) for q in range(questions) for k in PLACES[verdicts]]
        write_rationales(path, records[:most])
        return str(path)

    def words(self, verb: str, config: str, root: str, processes: int, more: str) -> list[str]:
        """A command line of so many processes, all else being equal."""
        more = f"{on(processes)} --trainer.callbacks+=tests.interruptions.Shares {more}"
        return stage_words(verb, config, self.student, self.home / root, more)

    def fit(self, stage: str, root: str, split: tuple[int, int], more: str = "") -> list[str]:
        """A command that trains without dropout and logs every step."""
        config = stage.removesuffix("-cached")
        before = {"nat": f"--model.negative {self.home}/neg/adapter", "nce": f"--model.nat {self.home}/nat/adapter"}
        lora = "--model.backbone.init_args.lora" if config == "rank" else "--model.lora"
        train, validation = self.rationales("train", KINDS[config], 10), self.rationales("val", KINDS[config], 3)
        options = (
            f"{before.get(config, '')} {lora}.dropout 0 --data.train {train} --data.validation {validation} "
            f"{'--model.teacher cached --data.num_workers 2' if stage.endswith('cached') else ''} "
            "--data.batch_size 3 --model.optimizer.init_args.lr 0.01 --model.warmup_steps 2 --trainer.max_epochs 2 "
            f"--trainer.accumulate_grad_batches {split[1]} --trainer.log_every_n_steps 1 "
            "--trainer.logger lightning.pytorch.loggers.CSVLogger --trainer.logger.version logs "
            f"--trainer.logger.save_dir {self.home}/{root} {more}"
        )
        return self.words("fit", config, root, split[0], options)

    def ask(self, verb: str, root: str, processes: int, questions: int, more: str = "") -> list[str]:
        """A command that answers or samples the first questions, 3 samples each."""
        asked = write_asked(self.home / f"{questions}.jsonl", questions)
        options = f"--data.questions {asked} --data.question_batch_size 2 --trainer.logger false"
        options += " --model.sampling.max_new_tokens 6 --model.sampling.samples 3"
        return self.words(verb, "neg", root, processes, f"{options} {more}")

    def run(self, words: list[str], processes: int = 1, code: int = 0) -> None:
        """Runs a command in so many processes, started as torchrun starts them."""
        root = Path(words[words.index("--trainer.default_root_dir") + 1])
        assert together(partial(cli.main, words), root / "processes", processes) == [code] * processes

    def stop(self, root: str, split: tuple[int, int], after: int) -> None:
        """Trains until told to stop after so many batches of each process; the step under way is finished."""
        stop = f"--trainer.callbacks+=tests.interruptions.Signal --trainer.callbacks.after={after}"
        self.run(self.fit("neg", root, split, stop), split[0], code=143)

    def said(self, root: str) -> str:
        """What the first process of the last command said."""
        return log_of(self.home / root / "processes" / "0")


@pytest.fixture
def project(tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, str(tiny_student))


def logged_rows(root: Path) -> list[dict[str, str]]:
    with next(root.rglob("logs/metrics.csv")).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def check_fit_is_the_same(one: Path, other: Path, steps: int) -> None:
    logged, again = (
        {
            (name, int(row["step"])): float(value)
            for row in logged_rows(root)
            for name, value in row.items()
            if value and name.startswith(("train/", "val/"))  # the others depend on the clock
        }
        for root in (one, other)
    )
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
    """11 single rows in steps of 2, encoded by one process; the second has no share of the one validation row."""
    train, validation = project.rationales("ragged", "wrong", 6, 11), project.rationales("one", "wrong", 1, 1)
    more = f"--data.batch_size 1 --data.validation {validation} --data.train {train}"
    project.run(project.fit("neg", "one", ONE, more))
    project.run(project.fit("neg", "two", TWO, f"{more} --data.encoded {project.home}/encoded"), 2)
    assert sum(path.is_dir() for path in (project.home / "encoded").iterdir()) == 2  # training and validation
    check_fit_is_the_same(project.home / "one", project.home / "two", steps=12)
    check_halves(project.home / "two", "trained", 2 * 11)


def test_the_alarm_takes_both_processes_where_one_repeats_a_row(project: Project) -> None:
    """A process that looked at a full window alone would wait for the other: 30 seconds, then it is an error."""
    train = project.rationales("ragged", "both", 2, 5)
    more = f"--data.batch_size 1 --data.train {train} --trainer.max_epochs 8"
    strategy = "--trainer.strategy lightning.pytorch.strategies.DDPStrategy --trainer.strategy.init_args.timeout"
    project.run(project.fit("nt", "nt", TWO, f"{more} {strategy} 0:00:30"), 2)
    told = [int(row["step"]) for row in logged_rows(project.home / "nt") if row["collapse/fallen"]]
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
    parts = [(project.home / "nce-cached-2").rglob(f"part-{rank}-*.safetensors") for rank in range(2)]
    asked = [sum(len(load_file(file)["keys"]) for file in files) for files in parts]
    assert max(asked) <= 0.65 * sum(asked)  # each process asked the teachers about its own samples
    project.run(project.fit("nce-cached", "nce-cached-2", (1, 2), "--ckpt_path none"))  # one reads what two wrote
    assert "teacher targets of 20 samples are there" in project.said("nce-cached-2")


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
    project.run(project.fit("neg", "alone", (1, 1)), 2, code=1)
    assert "torchrun has started 2 processes" in project.said("alone")
    assert not (project.home / "alone/checkpoints").exists()


# Going on with another number of processes.


@pytest.mark.parametrize(
    ("first", "then"),
    [(ONE, TWO), pytest.param(TWO, ONE, marks=pytest.mark.slow), pytest.param((2, 2), (1, 4), marks=pytest.mark.slow)],
)
def test_going_on_in_steps_of_the_same_size(project: Project, first: tuple[int, int], then: tuple[int, int]) -> None:
    project.run(project.fit("neg", "whole", first), first[0])
    project.stop("run", first, first[1])
    project.run(project.fit("neg", "run", then), then[0])
    assert [epoch for epoch, _ in shares(project.home / "run", "trained")[0]].count(0) <= 20
    assert distance(project.home / "whole", project.home / "run") <= 1e-5
    last = read_checkpoint(project.home / "run/checkpoints/last.ckpt")
    assert last["global_step"] == 2 * (8 // (first[0] * first[1]))


def test_going_on_in_steps_of_another_size_is_refused(project: Project) -> None:
    project.stop("run", (1, 1), 3)
    for then in ((2, 1), (1, 2)):
        project.run(project.fit("neg", "run", then, "--ckpt_path last"), then[0], code=1)
        assert (
            "the checkpoint was made by 1 process(es) accumulating 1 batch(es), 1 an optimizer step;"
            f" here are {then[0]} accumulating {then[1]}, 2 a step"
        ) in project.said("run")
    project.run(project.fit("neg", "run", (1, 1)))


@pytest.mark.slow
def test_a_checkpoint_that_one_machine_cannot_see(project: Project) -> None:
    """Each process has a disk of its own: `disk-<rank>`."""

    def fit(code: int, more: str = "") -> str:
        options = f"--trainer.callbacks+=RunCheckpoint --trainer.callbacks.every_n_train_steps=1 {more}"
        words = {str(rank): project.fit("neg", f"disk-{rank}", TWO, options) for rank in range(2)}
        logs = project.home / "logs"
        assert together(lambda: cli.main(words[os.environ["RANK"]]), logs) == [code] * 2
        return log_of(logs / "0") + log_of(logs / "1")

    one, two = project.home / "disk-0", project.home / "disk-1"
    fit(143, "--trainer.callbacks+=tests.interruptions.Signal --trainer.callbacks.after=3")
    assert (one / "checkpoints/last.ckpt").is_file()
    assert not (two / "checkpoints/last.ckpt").exists()
    said = fit(1)
    assert "ranks 1 see another checkpoint than rank 0, or none\n  put trainer.default_root_dir" in said
    shutil.copytree(one / "checkpoints", two / "checkpoints", dirs_exist_ok=True)
    assert "resuming from step 3" in fit(0)
    assert len(load_file(one / "adapter-last/adapter_model.safetensors")) >= 8
    assert not (two / "adapter-last").exists()  # rank 0 writes the results


# Sampling, grading, scoring, voting.


def check_same_answers(one: Path, other: Path) -> None:
    for name in ("predictions.jsonl", "metrics.json"):
        assert (one / name).read_text(encoding="utf-8") == (other / name).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("questions", [7, 1])
def test_samples_and_answers_are_the_same(project: Project, questions: int) -> None:
    """7 questions do not divide by 2 processes; of 1 question the second process has none."""
    able, tokens = replace(project, student="embedded"), "--model.sampling.max_new_tokens 40"
    project.run(able.ask("test", "before", 1, questions, tokens))
    lines = (project.home / "before/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [str(json.loads(line)["answer"]) for line in lines]
    golds = [answer if number % 2 else "0" for number, answer in enumerate(answers)]  # so that some are right
    write_questions(project.home / "golds.jsonl", [question(n, gold=gold) for n, gold in enumerate(golds)])
    more = f"{tokens} --model.sampling.temperature 0.2 --data.questions {project.home}/golds.jsonl"
    for processes in (1, 2):
        for verb in ("test", "predict"):
            project.run(able.ask(verb, f"{processes}/{verb}", processes, questions, more), processes)
    one, two = project.home / "1", project.home / "2"
    samples = check_same_but_for_rounding(one / "predict/samples.jsonl", two / "predict/samples.jsonl", 1e-5)
    check_same_answers(one / "test", two / "test")
    assert len(samples) == 3 * questions
    if questions == 7:
        metrics = json.loads((one / "test/metrics.json").read_text(encoding="utf-8"))
        assert metrics["test/accuracy"] == pytest.approx(3 / 7)
        assert len({record.verdict for record in samples}) > 1
        for verb in ("test", "predict"):
            check_halves(two / verb, "answered", 7)


@pytest.mark.parametrize("questions", [pytest.param(5, marks=pytest.mark.slow), 1])
def test_scores_and_votes_are_the_same(project: Project, questions: int) -> None:
    project.run(project.fit("rank", "rank", (1, 1), "--trainer.max_epochs 1"))
    options = f"--model.trained {project.home}/rank/adapter --data.score_batch_size 4 --trainer.logger false"
    options += f" --data.predict {project.rationales('given', 'both', questions)}"
    one, two = project.home / "one", project.home / "two"
    for root, processes in ((one, 1), (two, 2)):
        project.run(project.words("predict", "rank", root.name, processes, options), processes)
        vote = f"test --config {REPOSITORY}/configs/vote.yaml --data.batch_size 2 --data.samples {one}/scored.jsonl"
        where = f"{CPU} {on(processes)} --trainer.default_root_dir {root}/votes"
        project.run([*vote.split(), *where.split()], processes)
    scored = check_same_but_for_rounding(one / "scored.jsonl", two / "scored.jsonl", 1e-5)
    assert len(scored) == 4 * questions
    check_same_answers(one / "votes", two / "votes")
    if questions > 1:
        check_halves(two, "answered", 4 * questions)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 2)])
def test_predict_goes_on_with_another_number_of_processes(project: Project, before: int, after: int) -> None:
    stop = "--trainer.callbacks+=tests.interruptions.KillPrediction --trainer.callbacks.after=1"
    project.run(project.ask("predict", "whole", 1, 9))
    project.run(project.ask("predict", "run", before, 9, f"{stop} --trainer.callbacks.by_signal=true"), before, 143)
    assert not (project.home / "run/samples.jsonl").exists()
    project.run(project.ask("predict", "run", after, 9), after)
    assert f"resuming: {before} of 9 questions" in project.said("run")
    whole, run = (project.home / root / "samples.jsonl" for root in ("whole", "run"))
    check_same_but_for_rounding(whole, run, 1e-5)
    assert not list((project.home / "run").glob("*.part-*"))

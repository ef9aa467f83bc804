"""Which adapter lies where when a run ends, is resumed, or fails to write."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from safetensors import SafetensorError
from transformers import AutoTokenizer

from callbacks.adapters import AdapterWriter
from datamodules.components.records.records import write_questions, write_rationales
from dust2gold import cli
from dust2gold.core.errors import InputError
from tests.callbacks.conftest import OneWeight
from tests.lightning_modules.steps import loader, quiet_trainer
from tests.records import question, rationale, write_asked

NAN = float("nan")


class Scripted(OneWeight):
    """Validates with scores from a list; what it writes is the number of the step."""

    def __init__(self, scores: list[float], failure: Exception | None = None) -> None:
        super().__init__()
        self.scores = iter(scores)
        self.failure = failure

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", next(self.scores), batch_size=1)

    def write_adapter(self, directory: Path) -> None:
        (directory / "step.json").write_text(json.dumps(self.global_step), encoding="utf-8")
        if self.failure is not None:
            raise self.failure


Fit = Callable[..., dict[str, int]]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Trains two steps an epoch, one epoch a score, and returns which step each directory holds."""

    def run(
        scores: list[float], writer: AdapterWriter | None = None, failure: Exception | None = None, **kwargs: Any
    ) -> dict[str, int]:
        options = {"max_epochs": len(scores) or 1, "limit_val_batches": 1, **kwargs}
        trainer = quiet_trainer(tmp_path / "run", writer or AdapterWriter(), **options)
        trainer.fit(Scripted(scores, failure), loader(0, 1), loader(0, 1) if scores else None)
        return written(tmp_path / "run")

    return run


def written(root: Path) -> dict[str, int]:
    return {file.parent.name: json.loads(file.read_text()) for file in root.glob("*/step.json")}


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ([3.0, 1.0, 2.0], "min", 4),
        ([3.0, 1.0, 2.0], "max", 2),
        ([1.0, 1.0], "min", 2),
        ([2.0, NAN], "min", 2),
        ([NAN, 5.0, 6.0], "min", 4),
        ([NAN], "min", 2),
    ],
)
def test_best_and_last(fit: Fit, scores: list[float], mode: Literal["min", "max"], best: int) -> None:
    assert fit(scores, AdapterWriter(mode=mode)) == {"adapter": best, "adapter-last": 2 * len(scores)}


def test_the_last_if_no_score_is_monitored(fit: Fit) -> None:
    writer = AdapterWriter(monitor=None)
    writer.load_state_dict({"best": 0.5})  # of a run that kept the best
    assert fit([1.0, 2.0, 3.0], writer) == {"adapter": 6, "adapter-last": 6}


def test_what_an_earlier_run_left_is_replaced(fit: Fit) -> None:
    assert fit([], max_steps=1) == {"adapter": 1, "adapter-last": 1}  # without validation the last is the best
    assert fit([]) == {"adapter": 2, "adapter-last": 2}
    fit([0.1, 0.2, 0.3])
    assert fit([5.0, 4.0])["adapter"] == 4


def test_a_resumed_run_keeps_the_better_adapter(fit: Fit) -> None:
    writer = AdapterWriter()
    fit([1.0], writer)
    for scores, best in (([3.0, 2.0], 2), ([3.0, 0.5], 4)):
        state = writer.state_dict()
        writer = AdapterWriter()
        writer.load_state_dict(state)
        assert fit(scores, writer) == {"adapter": best, "adapter-last": 4}


def test_a_resumed_run_puts_back_the_best_adapter(fit: Fit, tmp_path: Path) -> None:
    """Its process was killed between the two renames that replace the directory."""
    fit([3.0])
    work = tmp_path / "run" / ".adapter.abcd1234.part"
    work.mkdir()
    (work / "lock").touch()
    (tmp_path / "run" / "adapter").rename(work / "old")
    writer = AdapterWriter()
    writer.load_state_dict({"best": 3.0})
    assert fit([4.0, 5.0], writer) == {"adapter": 2, "adapter-last": 4}
    assert not work.exists()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), SafetensorError("No space left")])
def test_a_failed_write_leaves_the_older_adapter(fit: Fit, tmp_path: Path, failure: Exception) -> None:
    before = fit([1.0])
    with pytest.raises(InputError, match=r"run/adapter: cannot write \(No space left.*\n.*free some space"):
        fit([0.5], failure=failure, accumulate_grad_batches=2)  # at step 1, not 2
    assert written(tmp_path / "run") == before
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["adapter", "adapter-last"]


def test_validation_alone_and_the_sanity_check_write_nothing(fit: Fit, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path / "run", AdapterWriter(), limit_val_batches=1)
    trainer.validate(Scripted([1.0]), loader(0), verbose=False)
    assert written(tmp_path / "run") == {}
    assert fit([0.1, 0.9], num_sanity_val_steps=1, max_epochs=1) == {"adapter": 2, "adapter-last": 2}


@pytest.fixture(scope="module")
def trained(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with NEG, NAT and RANK, one optimizer step each, and beside it `moved`, the student, and `other`.

    `other` is the student with another tokenizer: its last two tokens have each other's ids.
    """
    root = tmp_path_factory.mktemp("trained")
    for kind, first in (("positive", 0), ("negative", 1)):
        write_rationales(root / f"{kind}.jsonl", [rationale(q, k) for q in range(8) for k in range(first, 4, 2)])
    write_asked(root / "questions.jsonl", 2)
    for name in ("moved", "other"):
        shutil.copytree(tiny_student, root / name)
    state = json.loads((root / "other/tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = state["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (root / "other/tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    for stage, options in FITS.items():
        assert cli.main(command(root, "fit", stage, str(tiny_student), options)) == 0
    return root


def command(root: Path, verb: str, stage: str, student: str, options: str, run: Path | None = None) -> list[str]:
    """A command of a stage, whose directory is in `run`, by default in `root`."""
    reader = "model.backbone.init_args.student" if stage == "rank" else "model.student"
    words = f"{verb} --config {CONFIGS}/{stage}.yaml --{reader} {student} {HERE}"
    return f"{words} --trainer.default_root_dir {run or root}/{stage} {options}".format(root=root).split()


CONFIGS = Path(__file__).parents[2] / "configs"
HERE = "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.logger false --trainer.max_steps 1"
HERE += " --without_callbacks [LearningRateMonitor]"
BOTH = "--data.train=[{root}/positive.jsonl,{root}/negative.jsonl] --data.validation_fraction 0"
ASKED = "--data.questions {root}/questions.jsonl --model.sampling.max_new_tokens 2"
FITS = {
    "neg": "--data.train {root}/negative.jsonl --data.validation_fraction 0",
    "nat": "--model.negative {root}/neg/adapter --data.train {root}/positive.jsonl --data.validation_fraction 0",
    "rank": BOTH,
}
READS = {
    "model.adapter": ("test", "neg", f"--model.adapter {{root}}/neg/adapter {ASKED}"),
    "model.adapter of NAT": ("predict", "nat", f"--model.adapter {{root}}/nat/adapter {ASKED}"),
    "model.negative": ("fit", "nat", f"{FITS['nat']}"),
    "model.nat": ("fit", "nce", "--model.nat {root}/nat/adapter --data.train {root}/positive.jsonl"),
    "model.reference": ("fit", "dpo", f"--model.adapter {{root}}/neg/adapter {BOTH}"),
    "model.trained": ("predict", "rank", "--model.trained {root}/rank/adapter --data.predict {root}/positive.jsonl"),
    "model.backbone.adapter": ("fit", "rank", f"--model.backbone.adapter {{root}}/neg/adapter {BOTH}"),
    "ckpt_path, test": ("test", "neg", f"--ckpt_path {{root}}/neg/checkpoints/last.ckpt {ASKED}"),
    "ckpt_path, fit": (
        "fit",
        "neg",
        f"{FITS['neg']} --ckpt_path {{root}}/neg/checkpoints/last.ckpt --trainer.max_steps 2",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reads", READS)
def test_what_another_tokenizer_trained_is_refused(
    reads: str, trained: Path, tiny_student: Path, tmp_path: Path, complaint: Callable[..., str]
) -> None:
    verb, stage, options = READS[reads]
    said = complaint(*command(trained, verb, stage, f"{trained}/other", options, tmp_path))
    assert "trained with another tokenizer" in said
    assert f"'{tiny_student.name}'" in said
    assert "'other'" in said
    assert (
        cli.main(command(trained, verb, stage, f"{trained}/moved", options, tmp_path)) == 0
    )  # the same at another path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reads", READS)
def test_what_another_prompt_trained_is_refused(
    reads: str, trained: Path, tiny_student: Path, tmp_path: Path, complaint: Callable[..., str]
) -> None:
    verb, stage, options = READS[reads]
    (tmp_path / "short.txt").write_text("Q: {question}\nA:")
    options = f"{options} --data.prompt {tmp_path}/short.txt"
    said = complaint(*command(trained, verb, stage, str(tiny_student), options, tmp_path))
    assert "trained with another prompt, plain" in said
    assert said.endswith("give --data.prompt plain, or train again")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", ["neg", "rank"])
def test_a_tokenizer_that_is_not_the_students_is_refused(
    stage: str, trained: Path, tmp_path: Path, complaint: Callable[..., str]
) -> None:
    options = FITS[stage] + " --data.tokenizer {root}/"
    said = complaint(*command(trained, "fit", stage, f"{trained}/moved", f"{options}other", tmp_path))
    assert "the student was trained with another tokenizer, 'moved'" in said
    assert "'other'" in said
    (tmp_path / "bare").mkdir()
    for file in ("config.json", "model.safetensors"):  # of which nobody knows the tokenizer
        shutil.copy(trained / "moved" / file, tmp_path / "bare")
    assert cli.main(command(trained, "fit", stage, f"{tmp_path}/bare", f"{options}other", tmp_path)) == 0


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_does_not_say_its_tokenizer_is_taken(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "nat/adapter", tmp_path / "old")
    for file in (tmp_path / "old").rglob("dust2gold.json"):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        assert manifest.pop("tokenizer").keys() == {"name", "ids"}
        file.write_text(json.dumps(manifest), encoding="utf-8")
    options = f"--model.adapter {tmp_path}/old {ASKED}"
    assert cli.main(command(trained, "test", "nat", f"{trained}/other", options, tmp_path)) == 0
    assert f"{tmp_path}/old: does not say which tokenizer" in capsys.readouterr().err


EXTENDED = {
    "training": ("fit", "neg", "--data.train {root}/word.jsonl --data.validation_fraction 0", "word.jsonl:2"),
    "validation": (
        "fit",
        "nt",
        "--data.train=[{root}/positive.jsonl,{root}/negative.jsonl] --data.validation {root}/word.jsonl",
        "word.jsonl:2",
    ),
    "answering": ("test", "neg", f"--model.adapter {{root}}/neg/adapter {ASKED}", "questions.jsonl:2"),
    "RANK": ("fit", "rank", BOTH.replace("negative", "word"), "word.jsonl:2"),
    "scoring": ("predict", "rank", READS["model.trained"][2].replace("positive", "word"), "word.jsonl:2"),
    "padding": ("fit", "neg", FITS["neg"], "data.tokenizer"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", EXTENDED)
def test_a_token_beyond_the_embedding_is_refused_by_its_line(
    where: str, trained: Path, tiny_student: Path, tmp_path: Path, complaint: Callable[..., str]
) -> None:
    for name in ("neg", "rank"):
        shutil.copytree(trained / name, tmp_path / name)
    for manifest in tmp_path.rglob("dust2gold.json"):  # as adapters of others, which say no tokenizer
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        manifest.write_text(json.dumps({**facts, "tokenizer": None}), encoding="utf-8")
    shutil.copytree(tiny_student, tmp_path / "more")
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    tokenizer.add_tokens(["zebra"])
    if where == "padding":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "more")
    for file, kinds in (("positive", (0, 2)), ("negative", (1, 3))):
        write_rationales(tmp_path / f"{file}.jsonl", [rationale(q, k) for q in range(8) for k in kinds])
    word = [rationale(q, 1, writer="held", rationale=f"A {'zebra' * q}.") for q in range(3)]
    write_rationales(tmp_path / "word.jsonl", word)
    write_questions(tmp_path / "questions.jsonl", [question(q, question="Why?" + "zebra" * q) for q in range(2)])
    verb, stage, options, said = EXTENDED[where]
    told = complaint(*command(tmp_path, verb, stage, str(tmp_path / "more"), options, tmp_path / "run"))
    name, size = ("[PAD]", 321) if where == "padding" else ("zebra", 320)
    assert f"token '{name}' has the id {size}, and the student's embedding has 320 rows" in told
    assert said in told

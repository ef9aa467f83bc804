import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from datamodules.components.encoding.prompts import PLAIN, Prompt
from datamodules.components.records.records import write_rationales
from datamodules.contrasts import ContrastDataModule
from datamodules.pairs import PairDataModule
from datamodules.rationales import RationaleDataModule
from datamodules.training import TrainingDataModule
from dust2gold.core.errors import InputError
from tests.lightning_modules.steps import quiet_trainer
from tests.records import question, rationale

STAGES: list[type[TrainingDataModule]] = [RationaleDataModule, ContrastDataModule, PairDataModule]
SHARED = set(inspect.signature(TrainingDataModule).parameters)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A file of right and one of wrong rationales, with an ungradable and a long one."""
    write_rationales(tmp_path / "right.jsonl", [rationale(q, 2 * k) for q in range(8) for k in range(2)])
    wrong = [rationale(q, 1) for q in range(8)]
    wrong += [rationale(9, 1, verdict="ungradable", answer=None), rationale(3, 5, rationale="long " * 60)]
    write_rationales(tmp_path / "wrong.jsonl", wrong)
    return [str(tmp_path / "right.jsonl"), str(tmp_path / "wrong.jsonl")]


def options(stage: type[TrainingDataModule]) -> set[str]:
    """The names that the command line offers."""
    parser = ArgumentParser()
    parser.add_class_arguments(stage, "data")
    return {action.dest.removeprefix("data.") for action in parser._actions if action.dest.startswith("data.")}


def test_options_are_shared_and_documented_once() -> None:
    questions = {"questions", "limit_questions", "question_batch_size", "max_new_tokens"}
    assert options(RationaleDataModule) == SHARED | questions | {"tokens_per_batch", "packing", "loss_on_prompt"}
    groups = {"rationales_per_question", "groups_per_question", "right_only"}
    assert options(ContrastDataModule) == SHARED | questions | groups
    pairs = {"predict", "pairs_per_question", "score_batch_size", "max_scored_length"}
    assert options(PairDataModule) == SHARED - {"allow_ungradable"} | pairs  # RANK's pairs need a verdict


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_asks_in_the_chat_template_unless_told_otherwise(
    stage: type[TrainingDataModule], files: list[str], tiny_student: Path, tmp_path: Path, capsys: Any
) -> None:
    student = shutil.copytree(tiny_student, tmp_path / "instruct")
    (student / "chat_template.jinja").write_text(CHAT)
    wanted: Any = {"drop_longer": True, **({} if stage is PairDataModule else {"allow_ungradable": True})}
    for prompt, asked in ((None, "<s>user:{}<pad><s>assistant:"), ("plain", "<s>Problem:\n{}\nSolution:\n")):
        data = stage(str(student), files, prompt=prompt, **wanted)
        data.setup("fit")
        end = data.tokenizer.pad_token_id if prompt is None else data.tokenizer.eos_token_id
        for example in data.train_examples:
            ids, head = example.tokens, example.prompt
            number = int(example.question_id[1:])
            assert data.tokenizer.decode(ids[:head]) == asked.format(question(number).question)
            assert (ids[-1], ids[head:].count(end)) == (end, 1)
        told = "instruct: prompts are made by its chat template; --data.prompt plain gives the paper's\n"
        assert (told in capsys.readouterr().err) == (prompt is None)


CHAT = """{% for message in messages %}{{ '<s>' + message.role + ':' + message.content + '<pad>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"""


@pytest.mark.parametrize("saved", [None, "plain", "chat"])
def test_a_checkpoint_of_another_prompt_is_refused(saved: str | None, files: list[str], tiny_student: Path) -> None:
    """One of an older version, which says nothing, was trained with the paper's."""
    data = RationaleDataModule(str(tiny_student), files[0])
    data.setup("fit")
    chat = Prompt("chat", "<s>", "</s>")
    noted = {None: {}, "plain": {"prompt": PLAIN.to_json()}, "chat": {"prompt": chat.to_json()}}[saved]
    state = {"batch": 0, "tokenizer": data.tokenizer_identity.to_json(), **noted}
    if saved == "chat":
        with pytest.raises(InputError, match="the checkpoint was trained with another prompt"):
            data.load_state_dict(state)
    else:
        data.load_state_dict(state)
    data.prompt = chat
    if saved != "chat":
        with pytest.raises(InputError, match=r"give --data\.prompt plain"):
            data.load_state_dict(state)


def test_all_stages_map_one_set_of_tables(files: list[str], tiny_student: Path, tmp_path: Path) -> None:
    found = []
    for stage in STAGES:  # whoever comes first makes them for all
        kept = None, str(tmp_path / "encoded")
        modules = [stage(str(tiny_student), files, max_characters=300, encoded=encoded) for encoded in kept]
        for data in modules:
            data.allow_ungradable = True
            data.setup("fit")
        assert list(modules[0].train_examples) == list(modules[1].train_examples)
        found.append({path: path.stat().st_ino for path in (tmp_path / "encoded").glob("[!.]*/*")})
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_limits_lengths(
    stage: type[TrainingDataModule], files: list[str], tiny_student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = stage(str(tiny_student), files, max_length=120)
    data.allow_ungradable = True
    with pytest.raises(InputError) as caught:
        data.setup("fit")
    assert (caught.value.file, caught.value.line, caught.value.field) == (files[1], 10, "rationale")
    data.max_characters = 200
    data.setup("fit")
    assert "left out 1 rationales of 200 characters or more, question and headings included" in capsys.readouterr().err
    assert "q3/5" not in {example.id for example in data.train_examples}


@pytest.mark.parametrize("stage", STAGES)
def test_ungradable_rationales_never_train_silently(
    stage: type[TrainingDataModule], files: list[str], tiny_student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = stage(str(tiny_student), files, drop_longer=True, validation_fraction=0.0)
    if stage is PairDataModule:
        data.setup("fit")
        assert f"{files[1]}: left out 1 ungradable rationales" in capsys.readouterr().err
        return
    with pytest.raises(InputError, match=r"--data\.allow_ungradable true") as caught:
        data.setup("fit")
    assert (caught.value.line, caught.value.field) == (9, "verdict")
    data.allow_ungradable = True
    data.setup("fit")
    assert [e.positive for e in data.train_examples if e.id == "q9/1"] == [False]


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        *[(stage, {"train": None}, "data.train.*nothing to train on") for stage in STAGES],
        *[(stage, {"validation_fraction": 1.0}, "lower --data.validation_fraction") for stage in STAGES],
        *[(stage, {"train": "positive"}, "data.train.*no question has both") for stage in STAGES[1:]],
        *[
            (stage, {"train": "others", "validation": "positive"}, "data.validation.*no question has both")
            for stage in STAGES[1:]
        ],
        (ContrastDataModule, {"train": "positive", "right_only": True}, "data.train.*no question has both"),
        (ContrastDataModule, {"rationales_per_question": 1}, "data.rationales_per_question.*at least 2"),
        (ContrastDataModule, {"groups_per_question": 0}, "data.groups_per_question.*at least 1"),
        (PairDataModule, {"pairs_per_question": 0}, "data.pairs_per_question.*at least 1"),
        (PairDataModule, {"stage": "predict"}, "data.predict.*nothing to score"),
    ],
)
def test_what_cannot_be_used(make: Any, stage: type[TrainingDataModule], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        make(stage, **options)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verdicts": "positive"}, "negative.jsonl:1: field 'verdict': 'q0/1' is wrong"),
        ({"verdicts": "negative", "train": "positive"}, "positive.jsonl:1: field 'verdict': 'q0/0' is right"),
        ({"verdicts": "positive", "train": "positive", "validation": "wrong"}, "negative.jsonl:1: field 'verdict'"),
        ({"verdicts": "both", "train": "positive"}, "field 'data.train': no negative rationale"),
        (
            {"train": "others", "validation": "others"},
            "others.jsonl:1: field 'id': 'q20/0' comes twice, first in .*others.jsonl:1",
        ),
        ({"validation": "positive"}, "positive.jsonl:1: field 'id': 'q0/0' comes twice, first in .*positive.jsonl:1"),
    ],
)
def test_wrong_labels(make: Any, stage: type[TrainingDataModule], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(stage, **options)


class Recorder(BoringModel):
    """A model that only remembers the batches it saw."""

    seen: list[list[list[int]]]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append(batch["input_ids"].tolist())
        return self.layer.weight.sum()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_resumed_mid_epoch_sees_the_batches_it_has_not_seen(
    stage: type[TrainingDataModule], make: Any, tmp_path: Path
) -> None:
    def fit(checkpoint: Path | None = None) -> list[list[list[int]]]:
        data = make(stage, batch_size=4)
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
        trainer = quiet_trainer(tmp_path, saver, max_epochs=3, enable_checkpointing=True)
        model = Recorder()
        model.seen = []
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=False)
        return model.seen

    whole = fit()
    epoch = len(whole) // 3
    assert whole[:epoch] != whole[epoch : 2 * epoch]
    assert fit(tmp_path / f"step={epoch // 4 * 4 + 4}.ckpt") == whole[epoch // 4 * 4 + 4 :]

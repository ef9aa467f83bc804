"""gates.jsonl and betas.jsonl against α_neg and the divergence computed by hand."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from callbacks.accuracy import AnswerAccuracy
from callbacks.token_values import BetaWriter, GateWriter
from datamodules.rationales import RationaleDataModule
from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.nat import NATModel
from lightning_modules.nce import NCEModel
from tests.callbacks.test_gates import gates_by_hand, no_hooks
from tests.lightning_modules.steps import quiet_trainer
from tests.records import question, write_asked, write_held, write_positive
from tests.together import together

pytestmark = pytest.mark.filterwarnings("ignore")


class Answers(L.Callback):
    """Keeps what `test` answers, by question."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.tokens |= {batch["questions"][one.question_index]["id"]: one.token_ids for one in outputs}


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def questions(tiny_student: Path, tmp_path: Path) -> RationaleDataModule:
    asked = write_asked(tmp_path / "q.jsonl", 6)
    return RationaleDataModule(str(tiny_student), questions=asked, question_batch_size=4)


def nat_model(tiny_student: Path, nat_directory: Path) -> NATModel:
    sampling = SamplingSettings(max_new_tokens=12)
    return NATModel(student=str(tiny_student), adapter=str(nat_directory), sampling=sampling)


def check_gates(module: NATModel, data: RationaleDataModule, answers: Answers, rows: list[dict[str, Any]]) -> None:
    """The rows are those of q0, q1, …, and hold the gates that the formula gives for prompt and answer."""
    assert [row["question_id"] for row in rows] == [f"q{number}" for number in range(len(rows))]
    for (asked, prompt), row in zip(data.questions, rows, strict=False):
        assert [row[n] for n in ("question", "gold", "subject", "dataset")] == [
            *(asked.question, asked.gold, asked.subject, asked.source)
        ]
        if (answer := answers.tokens.get(asked.id)) is None:
            continue  # another process has it
        ids = torch.tensor([[*prompt.tolist(), *answer]])
        by_layer = gates_by_hand(module, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        expected = torch.stack(list(by_layer.values())).mean(0)[len(prompt) :]
        assert expected.std() > 0.01
        assert row["alpha_negative"] == pytest.approx(expected.tolist(), abs=2e-4)
        assert "".join(row["tokens"]) == data.tokenizer.decode(answer)
        assert len(row["tokens"]) == len(answer)


def test_gates_of_the_first_answers(tiny_student: Path, nat_directory: Path, tmp_path: Path, make_trainer: Any) -> None:
    module, data, answers = nat_model(tiny_student, nat_directory), questions(tiny_student, tmp_path), Answers()
    make_trainer(AnswerAccuracy(), GateWriter(5), answers).test(module, data, verbose=False)
    assert no_hooks(module)
    rows = rows_of(tmp_path / "run" / "gates.jsonl")
    assert len(rows) == 5
    check_gates(module, data, answers, rows)


def test_students_without_a_gate_leave_none(student_model: Any, tiny_student: Path, tmp_path: Path) -> None:
    quiet_trainer(tmp_path / "run", GateWriter()).test(
        student_model(), questions(tiny_student, tmp_path), verbose=False
    )
    assert not (tmp_path / "run" / "gates.jsonl").exists()


def test_two_processes_write_one_file(tiny_student: Path, nat_directory: Path, tmp_path: Path) -> None:
    def work() -> None:
        module, data, answers = nat_model(tiny_student, nat_directory), questions(tiny_student, Path.cwd()), Answers()
        trainer = quiet_trainer(tmp_path / "run", GateWriter(5), answers, strategy="ddp", devices=2)
        trainer.test(module, data, verbose=False)
        assert 0 < len(answers.tokens) < 6, "each process has some of the questions"
        check_gates(module, data, answers, rows_of(tmp_path / "run" / "gates.jsonl") if trainer.is_global_zero else [])

    assert together(work, tmp_path / "processes") == [0, 0]
    assert len(rows_of(tmp_path / "run" / "gates.jsonl")) == 5


@torch.no_grad()
def divergences_by_hand(module: NCEModel, ids: Tensor) -> Tensor:
    """KL(P_neg ‖ P_NAT) of what each token [T] is predicted by, from all probabilities: [T − 1]."""
    logs = {}
    for name in (NEGATIVE, POSITIVE):
        with module.adapters.using(name):
            logs[name] = module.adapters(ids[None], torch.ones_like(ids)[None])[0, :-1].double().log_softmax(-1)
    divergences: Tensor = (logs[NEGATIVE].exp() * (logs[NEGATIVE] - logs[POSITIVE])).sum(-1)
    return divergences


@pytest.mark.parametrize(
    ("data_options", "options"),
    [({}, {}), ({"packing": True, "max_length": 200}, {}), ({}, {"per_token": True}), ({}, {"teacher": "cached"})],
)
def test_betas_of_the_first_samples(
    tiny_student: Path, nat_directory: Path, tmp_path: Path, data_options: dict[str, Any], options: dict[str, Any]
) -> None:
    held = write_held(tmp_path / "v.jsonl", 2)
    train = write_positive(tmp_path / "p.jsonl", 4, 2)
    data = RationaleDataModule(str(tiny_student), train, validation=held, batch_size=3, **data_options)
    lora = LoraSettings(r=2, alpha=8)
    module = NCEModel(str(nat_directory), student=str(tiny_student), lora=lora, **options)
    trainer = quiet_trainer(tmp_path / "run", BetaWriter(5), max_epochs=2)
    trainer.fit(module, data)
    rows = rows_of(tmp_path / "run" / "betas.jsonl")
    assert len({row["id"] for row in rows}) == 5
    examples = {example.id: example for example in data.train_examples.take(list(range(8)))}
    module.eval()
    for row in rows:
        example = examples[row["id"]]
        ids, start = torch.tensor(example.tokens), example.prompt
        expected = divergences_by_hand(module, ids)[start - 1 :]
        close = 2e-3 if options.get("teacher") else 2e-4  # the cache holds half precision
        assert row["token_betas"] == pytest.approx(expected.tanh().tolist(), abs=close)
        assert row["beta"] == pytest.approx(float(expected.mean().tanh()), abs=close)
        assert "".join(row["tokens"]) == data.tokenizer.decode(ids[start:])
        assert question(int(row["id"][1])).question in row["prompt"]


def test_a_resumed_training_keeps_them_and_one_without_beta_has_none(
    tiny_student: Path, nat_directory: Path, tmp_path: Path
) -> None:
    train = write_positive(tmp_path / "p.jsonl", 4, 2)

    def fit(steps: int, checkpoint: str | None = None, **options: Any) -> L.Trainer:
        data = RationaleDataModule(str(tiny_student), train, validation_fraction=0.01, batch_size=2)
        trainer = quiet_trainer(tmp_path / "run", BetaWriter(4), max_steps=steps)
        trainer.fit(NCEModel(str(nat_directory), student=str(tiny_student), **options), data, ckpt_path=checkpoint)
        return trainer

    file = tmp_path / "run" / "betas.jsonl"
    fit(1, calibrated=False)
    assert not file.exists()
    fit(1).save_checkpoint(tmp_path / "one.ckpt")
    assert len(rows_of(file)) == 2, "the epoch ended before there were four"
    fit(2, str(tmp_path / "one.ckpt"))
    assert len(rows_of(file)) == 2
    fit(2)
    assert len(rows_of(file)) == 4

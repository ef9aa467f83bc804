from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules.components.encoding.prompts import PLAIN
from datamodules.components.encoding.tokenization import load_tokenizer
from datamodules.components.records.records import write_rationales
from datamodules.pairs import PairDataModule
from dust2gold.core.errors import InputError
from tests.records import question, rationale

Make = Callable[..., PairDataModule]


def test_batch_reads_each_rationale_once_and_pairs_right_with_wrong_ones_of_its_question(
    make: Make, tiny_student: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_student))
    # The records by their texts: (number of the question, whether it is right).
    records = {
        (r.question, r.rationale): (q, k % 2 == 0) for q in range(12) for k in range(8) for r in [rationale(q, k)]
    }
    seen = []
    for batch in make(PairDataModule).train_dataloader():
        assert set(batch) == {"input_ids", "attention_mask", "rationale_mask", "pairs", "question_ids", "step"}
        assert batch["input_ids"].dtype == batch["pairs"].dtype == torch.int64
        fields = batch["input_ids"], batch["attention_mask"], batch["rationale_mask"]
        texts = []
        for ids, real, mark in zip(*fields, strict=True):
            asked, own = ids[(real == 1) & (mark == 0)].tolist(), ids[mark == 1].tolist()
            assert ids[: int(real.sum())].tolist() == asked + own  # right-padded; the marked tokens are the last ones
            assert own[-1] == tokenizer.eos_token_id
            texts.append((str(tokenizer.decode(asked[1:])), str(tokenizer.decode(own[:-1]))))
        assert len(texts) == len(set(texts))
        assert set(batch["pairs"].flatten().tolist()) == set(range(len(texts)))
        found = [records[asked.removeprefix("Problem:\n").removesuffix("\nSolution:\n"), own] for asked, own in texts]
        for (right, wrong), name in zip(batch["pairs"].tolist(), batch["question_ids"], strict=True):
            number = int(name[1:])
            assert (found[right], found[wrong]) == ((number, True), (number, False))
            assert texts[right][0] == PLAIN.ask(question(number).question)
            seen.append((texts[right], texts[wrong]))
    assert len(seen) == len(set(seen)) == 12 * 4


def test_batch_size_counts_pairs(make: Make) -> None:
    sizes = [len(batch["pairs"]) for batch in make(PairDataModule, batch_size=10).train_dataloader()]
    assert sizes == [8] * 6  # of 12 questions with 4 pairs each, two a batch
    assert len(next(iter(make(PairDataModule, batch_size=2).train_dataloader()))["pairs"]) == 4
    with pytest.raises(InputError, match=r"data\.batch_size"):
        make(PairDataModule, batch_size=0).train_dataloader()


def test_validation_questions_never_train(make: Make, both: list[str]) -> None:
    data = make(PairDataModule, validation_fraction=0.4)
    trained, held = set(data.train_pairs.questions), set(data.validation_pairs.questions)
    assert min(len(trained), len(held)) > 0
    assert sorted([*trained, *held]) == sorted(f"q{n}" for n in range(12))
    first, second = [[b["input_ids"].tolist() for b in data.val_dataloader()] for _ in range(2)]
    assert first == second
    given = make(PairDataModule, train="others", validation=both)
    assert given.validation_pairs.questions.keys() == {*trained, *held}
    assert make(PairDataModule).val_dataloader() == []


def test_scoring_batches_hold_each_record_once(make: Make, both: list[str]) -> None:
    data = make(PairDataModule, "predict", predict=both[1], score_batch_size=8)
    batches = list(data.predict_dataloader())
    assert [len(batch["records"]) for batch in batches] == [8] * 6 + [4]
    ids = [record["id"] for batch in batches for record in batch["records"]]
    assert sorted(ids) == sorted(record.id for record in data.records)
    write_rationales(Path(both[0]), [rationale(0, 0)] * 2)
    with pytest.raises(InputError, match="'q0/0' comes twice"):
        make(PairDataModule, "predict", predict=both[0])

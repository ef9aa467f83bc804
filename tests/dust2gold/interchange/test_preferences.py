"""Preference data sets: what stands in them, and the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.encoding.prompts import prompt
from datamodules.components.records.records import read_questions, read_rationales, write_rationales
from dust2gold import cli
from dust2gold.interchange.preferences import preference_rows, read_rows, unpaired_rows, write_rows
from tests.records import question, rationale

RIGHT_AND_WRONG = [rationale(0, k) for k in range(5)] + [rationale(1, 0)] + [rationale(2, 1)]
"""Question 0: right 0, 2, 4 and wrong 1, 3; question 1 only right, question 2 only wrong."""


def test_pairs_use_every_rationale_and_no_other_question() -> None:
    rows = list(preference_rows(RIGHT_AND_WRONG))
    texts = {k: rationale(0, k).rationale for k in range(5)}
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        (texts[0], texts[1]),
        (texts[2], texts[3]),
        (texts[4], texts[1]),
    ]
    assert {row["prompt"] for row in rows} == {prompt(question(0).question)}
    assert [row["id"] for row in rows] == ["q0/0", "q0/1", "q0/2"]
    assert len(list(preference_rows(RIGHT_AND_WRONG, most=2))) == 2


def test_unpaired_rows_carry_the_verdict() -> None:
    rows = list(unpaired_rows([*RIGHT_AND_WRONG, rationale(3, 0, verdict="ungradable")]))
    assert {row["id"] for row in rows if row["label"]} == {"q0/0", "q0/2", "q0/4", "q1/0"}
    assert {row["id"] for row in rows if not row["label"]} == {"q0/1", "q0/3", "q2/1"}


@pytest.mark.parametrize("layout", ["preference", "unpaired"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_there_and_back(tmp_path: Path, layout: str, suffix: str) -> None:
    source, middle, back = tmp_path / "samples.jsonl", tmp_path / f"data{suffix}", tmp_path / "back"
    write_rationales(source, RIGHT_AND_WRONG[:5])
    assert cli.main(f"export-data --rationales {source} --layout {layout} --output {middle}".split()) == 0
    assert cli.main(f"import-data --input {middle} --layout {layout} --output {back}".split()) == 0
    (asked,) = read_questions(back / "questions.jsonl")
    assert (asked.question, asked.gold) == (question(0).question, question(0).gold)
    for verdict in ("positive", "negative"):
        texts = [r.rationale for r in RIGHT_AND_WRONG[:5] if r.verdict == verdict]
        records = list(read_rationales(back / f"{verdict}.jsonl"))
        assert [r.rationale for r in records] == texts
        assert all(r.verdict == verdict and r.question_id == asked.id for r in records)


def test_equal_samples_of_a_question_come_back_unpaired(tmp_path: Path) -> None:
    """A teacher often writes the same twice; a pair repeats rationales by itself, an unpaired row does not."""
    source, middle, back = tmp_path / "samples.jsonl", tmp_path / "data.jsonl", tmp_path / "back"
    twice = [rationale(0, 0), replace(rationale(0, 0), id="q0/2"), rationale(0, 1)]
    write_rationales(source, twice)
    for layout, right in (("unpaired", 2), ("preference", 1)):
        assert cli.main(f"export-data --rationales {source} --layout {layout} --output {middle}".split()) == 0
        assert cli.main(f"import-data --input {middle} --layout {layout} --output {back}".split()) == 0
        assert len(list(read_rationales(back / "positive.jsonl"))) == right


def test_parquet_is_what_datasets_reads(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = list(preference_rows(RIGHT_AND_WRONG))
    assert write_rows(tmp_path / "p.parquet", rows) == 3
    assert datasets.Dataset.from_parquet(str(tmp_path / "p.parquet"), cache_dir=str(tmp_path / "c")).to_list() == rows
    assert [row for _, row in read_rows(tmp_path / "p.parquet")] == rows
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".part")] == []


@pytest.mark.parametrize(
    ("row", "field", "said"),
    [
        ({"prompt": "Q", "chosen": "a"}, "rejected", "NoneType"),
        ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "prompt", "conversation"),
        ({"prompt": "Q", "chosen": "", "rejected": "b"}, "chosen", "non-empty"),
    ],
)
def test_bad_row_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], field: str, said: str
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("\n" + json.dumps(row) + "\n")
    assert cli.main(["import-data", "--input", str(file), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"{file}:2" in error
    assert f"'{field}'" in error
    assert said in error
    assert not (tmp_path / "out").exists()


def test_label_must_be_boolean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"prompt": "Q", "completion": "a", "label": 1}) + "\n")
    assert cli.main(["import-data", "--layout", "unpaired", "--input", str(file), "--output", str(tmp_path / "o")]) == 1
    assert "'label'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "y.jsonl"])
def test_unusable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    if name == "x.parquet":
        (tmp_path / name).write_bytes(b"PAR1 no")
    source = tmp_path / "samples.jsonl"
    write_rationales(source, RIGHT_AND_WRONG)
    reading = f"import-data --input {tmp_path}/{name} --output {tmp_path}/o"
    writing = f"export-data --rationales {source} --output {tmp_path}/{name}"
    assert cli.main((writing if name == "x.csv" else reading).split()) == 1
    assert name in capsys.readouterr().err


def test_nothing_to_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "samples.jsonl"
    write_rationales(source, [rationale(1, 0), rationale(2, 1)])
    assert cli.main(["export-data", "--rationales", str(source), "--output", str(tmp_path / "o.jsonl")]) == 1
    assert "no question has both" in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()

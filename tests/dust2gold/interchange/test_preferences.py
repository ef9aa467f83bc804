import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from datamodules.components.encoding.prompts import PLAIN
from datamodules.components.records.records import Rationale, read_questions, read_rationales, write_rationales
from dust2gold import cli
from dust2gold.interchange.preferences import preference_rows, unpaired_rows, write_rows
from dust2gold.prepare.rows import read_rows
from tests.records import question, rationale

ONE_QUESTION = [rationale(0, k) for k in range(5)]  # right 0, 2, 4 and wrong 1, 3
RIGHT_AND_WRONG = [*ONE_QUESTION, rationale(1, 0), rationale(2, 1)]  # of question 1 only right, of 2 only wrong


@pytest.fixture
def failing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs a command that fails and leaves no output (`out`), and returns what it says."""

    def call(words: str) -> str:
        assert cli.main(words.split()) == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    return call


def there_and_back(tmp_path: Path, rationales: list[Rationale], layout: str, suffix: str) -> Path:
    """Exports rationales and imports them again, into the directory returned."""
    source, middle, back = tmp_path / "samples.jsonl", tmp_path / f"data{suffix}", tmp_path / "back"
    write_rationales(source, rationales)
    assert cli.main(f"export-data --rationales {source} --layout {layout} --output {middle}".split()) == 0
    assert cli.main(f"import-data --input {middle} --layout {layout} --output {back}".split()) == 0
    return back


def test_pairs_use_every_rationale_and_no_other_question() -> None:
    rows = list(preference_rows(RIGHT_AND_WRONG))
    pairs = [(rationale(0, k).rationale, rationale(0, j).rationale) for k, j in ((0, 1), (2, 3), (4, 1))]
    assert [(row["chosen"], row["rejected"]) for row in rows] == pairs
    assert {row["prompt"] for row in rows} == {PLAIN.ask(question(0).question)}
    assert [row["id"] for row in rows] == ["q0/0", "q0/1", "q0/2"]
    assert len(list(preference_rows(RIGHT_AND_WRONG, most=2))) == 2


def test_unpaired_rows_carry_the_verdict() -> None:
    rows = list(unpaired_rows([*RIGHT_AND_WRONG, rationale(3, 0, verdict="ungradable")]))
    assert {row["id"] for row in rows if row["label"]} == {"q0/0", "q0/2", "q0/4", "q1/0"}
    assert {row["id"] for row in rows if not row["label"]} == {"q0/1", "q0/3", "q2/1"}


@pytest.mark.parametrize("layout", ["preference", "unpaired"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_there_and_back(tmp_path: Path, layout: str, suffix: str) -> None:
    back = there_and_back(tmp_path, ONE_QUESTION, layout, suffix)
    (asked,) = read_questions(back / "questions.jsonl")
    assert (asked.question, asked.gold) == (question(0).question, question(0).gold)
    for verdict in ("positive", "negative"):
        records = [(r.rationale, r.verdict, r.question_id) for r in read_rationales(back / f"{verdict}.jsonl")]
        assert records == [(r.rationale, verdict, asked.id) for r in ONE_QUESTION if r.verdict == verdict]


@pytest.mark.parametrize(("layout", "right"), [("unpaired", 2), ("preference", 1)])
def test_equal_samples_of_a_question_come_back_unpaired(tmp_path: Path, layout: str, right: int) -> None:
    """A teacher often writes the same twice; a pair repeats rationales by itself, an unpaired row does not."""
    twice = [rationale(0, 0), replace(rationale(0, 0), id="q0/2"), rationale(0, 1)]
    back = there_and_back(tmp_path, twice, layout, ".jsonl")
    assert len(list(read_rationales(back / "positive.jsonl"))) == right


def test_parquet_is_what_datasets_reads(tmp_path: Path) -> None:
    rows = list(preference_rows(RIGHT_AND_WRONG))
    assert write_rows(tmp_path / "p.parquet", rows) == 3
    assert datasets.Dataset.from_parquet(str(tmp_path / "p.parquet"), cache_dir=str(tmp_path / "c")).to_list() == rows
    assert [row for _, row in read_rows(tmp_path / "p.parquet")] == rows
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ({"prompt": "Q", "chosen": "a"}, "rejected", "NoneType"),
        ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "prompt", "conversation"),
        ({"prompt": "Q", "chosen": "", "rejected": "b"}, "chosen", "non-empty"),
        ({"prompt": "Q", "completion": "a", "label": 1}, "label", "true or false"),
    ],
)
def test_bad_row_is_named(
    tmp_path: Path, failing: Callable[[str], str], row: dict[str, Any], field: str, says: str
) -> None:
    file, layout = tmp_path / "in.jsonl", "unpaired" if "label" in row else "preference"
    file.write_text("\n" + json.dumps(row) + "\n")
    error = failing(f"import-data --layout {layout} --input {file} --output {tmp_path}/out")
    for text in (f"{file}:2", f"'{field}'", says):
        assert text in error


def test_unusable_files(tmp_path: Path, failing: Callable[[str], str]) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    for name in ("x.parquet", "none.parquet", "none.jsonl"):
        assert name in failing(f"import-data --input {tmp_path}/{name} --output {tmp_path}/out")
    samples = tmp_path / "samples.jsonl"
    write_rationales(samples, RIGHT_AND_WRONG)
    assert "x.csv" in failing(f"export-data --rationales {samples} --output {tmp_path}/x.csv")
    write_rationales(samples, [rationale(1, 0), rationale(2, 1)])
    assert "no question has both" in failing(f"export-data --rationales {samples} --output {tmp_path}/out")

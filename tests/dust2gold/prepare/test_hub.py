"""`prepare --input hub:...` on a local directory that `datasets` loads, and without a network."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from dust2gold.commands.prepare import add_arguments, main
from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import read_json_lines
from dust2gold.prepare.hub import fetch, input_file

ROWS = [
    {"question": "How many?", "answer": "1+1 = <<1+1=2>>2\n#### 2"},
    {"question": "How much?", "answer": "#### 1,080"},
    {"question": "And now?", "answer": "#### -3"},
]


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two splits as parquet, as most data sets on the hub are kept."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    directory = tmp_path / "word problems"
    directory.mkdir()
    Dataset.from_list(ROWS).to_parquet(directory / "test-00000-of-00001.parquet")
    Dataset.from_list(ROWS[:1]).to_parquet(directory / "train-00000-of-00001.parquet")
    return directory


def prepare(output: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args(["--format", "gsm8k", "--output", str(output), *words]))


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(path)]


def test_a_split_is_fetched_kept_and_prepared(
    data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, again = tmp_path / "out", tmp_path / "again"
    assert prepare(output, "--input", f"hub:{data_set}") == 0
    (kept,) = output.glob("*-test.jsonl")
    assert rows(kept) == ROWS
    assert f"3 rows of hub:{data_set} in {kept}" in capsys.readouterr().out
    assert [row["gold"] for row in rows(output / "questions.jsonl")] == ["2", "1080", "-3"]
    assert json.loads((output / "summary.json").read_text())["input"]["name"] == kept.name
    prepare(again, "--input", str(kept))
    for name in ("questions.jsonl", "solutions.jsonl", "summary.json"):
        assert (again / name).read_bytes() == (output / name).read_bytes(), "what was fetched stands for the hub"


def test_split_and_subsets(data_set: Path, tmp_path: Path) -> None:
    assert rows(fetch(str(data_set), tmp_path, split="train")) == ROWS[:1]
    kept = fetch(str(data_set), tmp_path, ("default", "default"))
    assert rows(kept) == [*ROWS, *ROWS]
    assert kept.name.endswith("--word_problems-default-default-test.jsonl")


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [("--split", "tst", 'Unknown split "tst"'), ("--subset", "other", "BuilderConfig 'other' not found")],
)
def test_unknown_parts_are_named(data_set: Path, tmp_path: Path, option: str, value: str, problem: str) -> None:
    with pytest.raises(InputError, match=f"{problem}(?s:.*)--split and --subset") as caught:
        prepare(tmp_path / "out", "--input", f"hub:{data_set}", option, value)
    assert caught.value.file == f"hub:{data_set}"
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_without_a_hub_the_way_out_is_named(tmp_path: Path) -> None:
    kept = tmp_path / "openai--gsm8k-main-test.jsonl"
    offline = "(?s)Couldn't reach 'openai/gsm8k'.*HF_HUB_OFFLINE, or read a copy of the file with --input FILE"
    with pytest.raises(InputError, match=offline):  # HF_HUB_OFFLINE, conftest.py
        fetch("openai/gsm8k", tmp_path, ("main",))
    kept.write_text("{}\n")
    with pytest.raises(InputError, match=f"or read {kept}, fetched earlier,"):
        fetch("openai/gsm8k", tmp_path, ("main",))
    with pytest.raises(InputError, match="check the name"):
        fetch(str(tmp_path / "none"), tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.jsonl", Path(), ["x"], None, None), "--subset"),
        (("a.jsonl", Path(), [], "x", None), "--split"),
        (("a.jsonl", Path(), [], None, "x"), "--revision"),
        (("hub:", Path(), [], None, None), "no name"),
    ],
)
def test_options_of_a_hub_are_refused_for_a_file(words: Any, message: str) -> None:
    assert input_file("a.jsonl", Path(), (), None, None) == Path("a.jsonl")
    with pytest.raises(InputError, match=message):
        input_file(*words)

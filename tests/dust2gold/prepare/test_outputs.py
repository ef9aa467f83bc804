"""Commands that write files do not destroy what they read, nor what was made of another file."""

import json
from pathlib import Path

import pytest

from dust2gold.cli import main
from dust2gold.core.errors import InputError
from dust2gold.prepare.prepare import prepare


def teacher_file(path: Path, answers: list[str]) -> Path:
    question = {"question": "Problem:\n1 + 1?", "answer": "\\boxed{2}", "level": "Level 1", "type": "Algebra"}
    line = {**question, "generated_answer": [f"Solution:\nso \\boxed{{{answer}}}" for answer in answers]}
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    return path


def contents(directory: Path) -> dict[str, str]:
    return {str(file.relative_to(directory)): file.read_text() for file in directory.rglob("*") if file.is_file()}


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    prepare(teacher_file(tmp_path / "teacher.jsonl", ["2", "3"]), "tdg", tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["negative.jsonl", "questions.jsonl", "solutions.jsonl"])
def test_prepare_into_its_inputs_directory_is_refused(prepared: Path, name: str) -> None:
    before = contents(prepared)
    link = prepared.with_name("link.jsonl")
    link.symlink_to(prepared / name)
    for file in (prepared / name, link):
        with pytest.raises(InputError, match="would be replaced"):
            prepare(file, "records", prepared)
    assert contents(prepared) == before


def test_results_of_another_file_are_kept(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(prepared)
    other = teacher_file(prepared.with_name("other.jsonl"), ["4"])
    for _ in range(2):  # the second time they are its own
        prepare(other, "tdg", prepared)
    assert contents(prepared / "earlier-1") == before
    assert not (prepared / "earlier-2").exists()
    assert "earlier-1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "augment --positive {data}/positive.jsonl --samples {data}/negative.jsonl --output {data}/negative.jsonl",
        "export-data --rationales {data}/positive.jsonl {data}/negative.jsonl --output {data}/positive.jsonl",
        "import-data --input {data}/negative.jsonl --output {data}",
    ],
)
def test_no_command_replaces_what_it_reads(
    prepared: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(prepared)
    monkeypatch.setattr("sys.argv", ["dust2gold", *command.format(data=prepared).split()])
    assert main() == 1
    assert "is read and would be replaced" in capsys.readouterr().err
    assert contents(prepared) == before

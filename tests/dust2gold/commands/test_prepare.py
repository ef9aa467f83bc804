import argparse
import json
from pathlib import Path

import pytest

from dust2gold.commands.prepare import add_arguments, main


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_line_and_the_table_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, object] = {"question": "?", "answer": "\\boxed{2}", "level": "", "type": "Algebra"}
    row["generated_answer"] = ["\\boxed{2}", "\\boxed{3}", "no box"]
    teacher = tmp_path / "teacher.jsonl"
    teacher.write_text(json.dumps(row))
    words = ("--input", str(teacher), "--format", "tdg", "--output", str(tmp_path / "out"))
    assert main(arguments(*words)) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert ["Algebra", "1", "3", "1", "2", "0"] in rows
    assert ["all", "1", "3", "1", "2", "0"] in rows
    assert "string grading: a rationale without a boxed answer counts as negative, as in the paper" in printed
    for wrong in ("--limit 0", "--samples x", "--workers -1", "--time-limit nan", "--format csv"):
        with pytest.raises(SystemExit):
            arguments(*words, *wrong.split())

import argparse
import json
from pathlib import Path

import pytest

from dust2gold.commands.prepare import add_arguments, main
from dust2gold.core.errors import InputError
from dust2gold.prepare.formats import FORMATS, ROLES


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
    for wrong in ("--limit 0", "--samples x", "--workers -1", "--time-limit nan", "--format csv", "--columns gold"):
        with pytest.raises(SystemExit):
            arguments(*words, *wrong.split())


def test_columns_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "mine.csv"
    table.write_text('problem,answer,text,ok\n1+1?,2,"Well, the answer is 2.",True\n1+1?,2,Answer: 3,False\n')
    words = ["--input", str(table), "--output", str(tmp_path / "out"), "--columns", "question=problem", "gold=answer"]
    assert main(arguments(*words, "samples=text", "verdict=ok", "--verdicts", "graded")) == 0
    printed = capsys.readouterr().out
    assert ["(no", "subject)", "1", "2", "1", "1", "0"] in [line.split() for line in printed.splitlines()]
    assert "given and graded verdicts agree on 2 of 2 samples; ours count:" in printed
    for more, says in (([], "there are problem, answer, text, ok"), (["--format", "math"], "which")):
        with pytest.raises(InputError, match=says):
            main(arguments(*words, *more, "--columns", "question=q" if not more else "question="))


def test_help_lists_roles_and_the_columns_of_formats(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments("--help")
    said = capsys.readouterr().out
    for text in (*ROLES, *FORMATS, "correctness_math_verify", "messages.assistant"):
        assert text in said

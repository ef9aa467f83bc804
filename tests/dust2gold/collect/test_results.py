"""A large model as a row of the report: graded and written like a student's test."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.components.records.predictions import accuracies
from datamodules.components.records.records import read_questions, write_questions
from dust2gold import cli
from dust2gold.collect.collect import collect
from dust2gold.core.errors import InputError
from dust2gold.report.write import report
from dust2gold.run.stage import Stage
from lightning_modules.components.accuracy import GroupedAccuracy
from tests.dust2gold.collect.conftest import Make
from tests.endpoint import Endpoint, Misbehaviour, numbered
from tests.own_stages import write_stages
from tests.records import question


def right_of_even(text: str, n: int) -> list[str]:
    """Right answers to even-numbered questions, wrong ones to the others; with a comma in large numbers."""
    (answer,) = numbered()(text, n)
    number = int(answer.split()[2])
    return [f"So it is: \\boxed{{{number * 2 + 2 + number % 2:,}}}"]


def predictions(directory: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(directory) / "predictions.jsonl").read_text().splitlines()]


def test_writes_what_a_students_test_writes(make: Make, server: Endpoint, tmp_path: Path) -> None:
    server.write = right_of_even
    directory = tmp_path / "run" / "llm"
    settings = make(questions=5, output=str(directory))
    # Its gold is 2002, the answer 2,002: numbers are compared by value, as for a student.
    write_questions(Path(settings.input), [*read_questions(Path(settings.input)), question(1000)])
    collect(settings, evaluate=True)
    for _, _, body, _ in server.asked:
        assert (body.get("n", 1), body["temperature"], "top_p" in body) == (1, 0, False)
    rows = predictions(directory)
    right = {"q0": 1, "q1": 0, "q2": 1, "q3": 0, "q4": 1, "q1000": 1}
    assert {row["question_id"]: row["correct"] for row in rows} == right
    asked = {"dataset": "nuts", "question_id": "q0", "subject": "Algebra", "level": "Level 1"}
    written = {"answer": "2", "gold": "2", "rationale": "So it is: \\boxed{2}"}
    assert rows[0] == {"schema": 1, "method": "gpt-test", **asked, "correct": 1.0, **written}
    assert json.loads((directory / "metrics.json").read_text()) == {
        "test/accuracy": 4 / 6,
        "test/accuracy/level/Level 1": 1.0,
        "test/accuracy/level/Level 2": 0.0,
        "test/accuracy/subject/Algebra": 1.0,
        "test/accuracy/subject/Geometry": 0.0,
    }
    assert not (directory / "positive.jsonl").exists()
    report(tmp_path / "run")
    tables = (tmp_path / "run" / "report.md").read_text()
    assert "gpt-test" in tables
    assert "66.67" in tables


def test_the_accuracies_are_those_of_a_students_test() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"correct": float(torch.rand((), generator=generator)), "subject": subject, "level": level}
        for subject in ("Algebra", "Geometry", "")
        for level in ("Level 1", "")
        for _ in range(7)
    ]
    metric = GroupedAccuracy()
    metric.update([row["correct"] for row in rows], [{"subject": r["subject"], "level": r["level"]} for r in rows])  # type: ignore[dict-item, misc]
    expected = {name: float(value) for name, value in metric.compute().items() if "accuracy" in name}
    assert accuracies(rows) == pytest.approx(expected, rel=1e-12)
    assert math.isnan(accuracies([])["accuracy"])


def test_part_of_the_questions_is_no_result(make: Make, server: Endpoint) -> None:
    settings = make(questions=3, concurrency=1, retries=0, method="few-shot")
    refusal = Misbehaviour(change=lambda answer: answer["choices"][0]["message"].update(content=None))
    server.script = [refusal, Misbehaviour(status=500)]
    with pytest.raises(InputError, match="1 of 3 questions have no answer yet"):
        collect(settings, evaluate=True)
    assert not (Path(settings.output) / "predictions.jsonl").exists()
    with pytest.raises(InputError, match="2 of 3 questions have no answer yet") as caught:
        collect(make(questions=3, budget=0.6, model="gpt-other", concurrency=1), evaluate=True)
    assert "raise the budget" in str(caught.value)
    collect(settings, evaluate=True)
    rows = [(row["method"], row["correct"], row["answer"]) for row in predictions(settings.output)]
    assert rows == [("few-shot", 0.0, None), ("few-shot", 1.0, "4"), ("few-shot", 1.0, "6")]  # a refusal is wrong


def test_as_a_stage_of_a_run(make: Make, server: Endpoint, tmp_path: Path) -> None:
    """A stage that is done again, its directory cleared, asks for nothing again."""
    settings = make(questions=2)
    run = tmp_path / "run"
    collecting = (
        f"collect --input {settings.input} --output {{run}}/llm --prompt {settings.prompt} --endpoint.model m "
        f"--endpoint.base_url {server.base_url} --evaluate --method"
    )
    for method in ("first", "second", "first"):
        words = (f"{collecting} {method}",)
        stage = Stage("llm", "", words, (), (settings.prompt,), outputs=("llm/predictions.jsonl",))
        assert cli.main(["run", *write_stages(tmp_path / "own.py", stage), "--run", str(run)]) == 0
        assert predictions(run / "llm")[0]["method"] == method
    assert len(server.asked) == 2


def test_the_command_line(make: Make, server: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    settings = make(questions=2)
    words = f"collect --input {settings.input} --output {settings.output} --prompt {settings.prompt}".split()
    words += f"--endpoint.model gpt-test --endpoint.base_url {server.base_url}".split()
    assert cli.main([*words, "--evaluate", "--method", "llm"]) == 0
    assert "llm: 100.00% of 2 questions" in capsys.readouterr().out
    assert cli.main([*words, "--sampling.n", "2"]) == 0
    assert "2 questions have a positive rationale" in capsys.readouterr().out
    assert [body.get("n", 1) for _, _, body, _ in server.asked] == [1, 1, 2, 2]
    server.script = [Misbehaviour(status=401)]
    assert cli.main([*words, "--sampling.n", "3"]) == 1
    assert "OPENAI_API_KEY" in capsys.readouterr().err

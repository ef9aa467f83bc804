from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dust2gold.commands.report import add_arguments, main
from dust2gold.core.errors import InputError
from dust2gold.report.write import report
from tests.dust2gold.report.analyses.synthetic import predictions, write_predictions

if TYPE_CHECKING:
    from tests.dust2gold.run.conftest import World


def write(run: Path, method: str, answers: dict[str, list[float]], dataset: str = "math") -> None:
    """`answers`: subject -> list of shares of correct."""
    made = predictions(method, answers, dataset, level="")
    write_predictions(run / "evaluate" / dataset / method / "predictions.jsonl", made)


def written(run: Path) -> list[str]:
    """The lines of the report."""
    report(run)
    return (run / "report.md").read_text().splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "r"
    write(run, "sc", {"Algebra": [0.5, 1], "Counting & Probability": [0, 1]})
    write(run, "nat", {"Algebra": [1, 1], "Counting & Probability": [0, 0]})
    write(run, "cot-kd", {"Algebra": [1, 0], "Counting & Probability": [0, 1]})
    return run


def test_table_has_the_layout_of_the_paper(run: Path) -> None:
    lines = written(run)
    start = lines.index("## math: accuracy in %")
    layout = [cells(line) for line in lines[start + 2 : start + 8]]
    assert layout[0] == ["method", "C&P", "Algebra", "average"]
    assert layout[2:] == [
        ["cot-kd", "**50.00**", "50.00", "50.00"],
        ["nat", "0.00", "**100.00**", "50.00"],
        ["sc", "**50.00**", "75.00", "**62.50**"],
        ["questions", "2", "2", "4"],
    ]
    start = lines.index("### math: all questions")
    overall = {cells(line)[0]: cells(line)[1:] for line in lines[start + 2 : start + 7]}
    assert overall["method"][-3:] == ["points over cot-kd", "better / worse on", "p"]
    assert overall["sc"] == ["4", "2.5", "62.50", "21.94 to 90.81", "+12.50 ± 61.66", "1 / 1", "1.000"]
    assert overall["nat"][-3:] == ["+0.00 ± 80.02", "1 / 1", "1.000"]
    assert overall["cot-kd"][-3:] == ["-", "-", "-"]


def test_results_json_is_a_list_of_rows(run: Path) -> None:
    report(run)
    rows = json.loads((run / "results.json").read_text())
    keys = ["method", "dataset", "subject", "n", "correct", "accuracy", "ci_low", "ci_high"]
    assert all(list(row) == keys for row in rows)
    assert [(row["method"], row["subject"]) for row in rows[:3]] == [
        ("cot-kd", "Algebra"),
        ("cot-kd", "Counting & Probability"),
        ("cot-kd", "all"),
    ]
    assert len(rows) == 9
    assert all(0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1 for row in rows)
    assert list(rows[-1].values())[:6] == ["sc", "math", "all", 4, 2.5, 0.625]


def test_a_column_of_zeros_has_no_best_and_gaps_are_shown(tmp_path: Path) -> None:
    write(tmp_path, "nat", {"A": [0, 0]})
    write(tmp_path, "nce", {"A": [0], "B": [1]})
    lines = written(tmp_path)
    assert [cells(line) for line in lines[6:9]] == [
        ["nat", "0.00", "-", "0.00"],
        ["nce", "0.00", "**100.00**", "**50.00**"],
        ["questions", "1 to 2", "1", "2"],
    ]
    assert not any("points over" in line for line in lines), "without the baseline there is nothing to compare with"


def test_each_data_set_has_its_table(run: Path) -> None:
    write(run, "cot-kd", {"": [1, 0]}, dataset="gsm8k")
    lines = written(run)
    start = lines.index("## gsm8k: accuracy in %")
    assert cells(lines[start + 2]) == ["method", "average"]
    assert cells(lines[start + 4]) == ["cot-kd", "**50.00**"]
    assert "## math: accuracy in %" in lines


def test_markdown_says_how_to_read_it_what_it_was_trained_on_and_how_long_it_took(run: Path, world: World) -> None:
    world.run("--run", str(run))
    counts = {"questions": 5, "samples": 60000, "positive": 1, "negative": 2, "ungradable": 3}
    (run / "data" / "summary.json").write_text(
        json.dumps({**counts, "by_subject": {"Algebra": {**counts, "samples": 7}}})
    )
    text = "\n".join(written(run))
    assert "How to read it" in text
    assert "- nat: M_NAT" in text
    assert "| Algebra |         5 |       7 |        1 |        2 |          3 |" in text
    assert "| all     |         5 |  60,000 |        1 |        2 |          3 |" in text
    assert "| fit   | fits           |  0 s |" in text
    assert "\n".join(written(run)) == text, "the same results give the same file"


def test_bad_summary_is_named(run: Path) -> None:
    (run / "data").mkdir()
    (run / "data" / "summary.json").write_text('{"questions": 1}')
    with pytest.raises(InputError, match=r"summary\.json"):
        report(run)


def test_verb_prints_the_table_and_the_places(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert main(parser.parse_args([str(run)])) == 0
    told = capsys.readouterr().out
    assert "**62.50**" in told
    for place in (f"{run}/results.json", f"{run}/report.md", f"{run}/analyses.json", f"tensorboard --logdir {run}"):
        assert place in told


def test_text_of_others_cannot_break_the_table(tmp_path: Path) -> None:
    write(tmp_path, "a|b\n<b>*x*</b>\x1b[31m", {"# [s](u)": [1]})
    lines = written(tmp_path)
    widths = {len(line) for line in lines[4:8]}
    assert len(widths) == 1
    assert all("\x1b" not in line and "\n" not in line for line in lines)
    assert r"a\|b \<b\>\*x\*\</b\> \[31m" in lines[6]
    assert r"\# \[s\](u)" in lines[4]

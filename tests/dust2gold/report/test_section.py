"""The report of synthetic runs from end to end: which sections stand in it, what analyses.json holds, the figures."""

from __future__ import annotations

import json
import re
import struct
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.records.records import read_rationales, write_rationales
from dust2gold.report.write import report
from tests.dust2gold.report.analyses.synthetic import predictions, samples, write_predictions, write_run


def numbers(run: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / "analyses.json").read_text())
    return value


def headings(text: str) -> list[str]:
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of row: greedy methods, ablations, a language model, votes, a second test set."""
    run = write_run(
        tmp_path_factory.mktemp("runs") / "full",
        n=6,
        methods=("cot-kd", "neg", "nat", "nce", "nat-no-negatives", "nat-negatives-25", "nat-semantic", "gpt-4"),
    )
    more = predictions("nce", {"": [1, 0, 1]}, dataset="gsm8k", level="")
    write_predictions(run / "generalisation" / "nce" / "gsm8k" / "predictions.jsonl", more)
    report(run)
    return run


def test_every_section_is_there_and_says_how_to_read_it(run: Path) -> None:
    text = (run / "report.md").read_text()
    assert headings(text) == [
        "math: accuracy in %",
        "gsm8k: accuracy in %",
        "Generalisation: accuracy in % by test set",
        "math: questions that two models solve",
        "math: M_rank's accuracy and the gain of ASC over SC",
        "math: accuracy over the number of samples",
        "math: adaptive stopping",
        "math: what the negatives do to NAT",
        "math: where SC and ASC part",
    ]
    paragraphs = [part.splitlines() for part in text.split("\n\n")]
    tables = [index for index, part in enumerate(paragraphs) if part[0].startswith("| ")]
    cases = next(index for index, part in enumerate(paragraphs) if part[0].endswith("where SC and ASC part"))
    for index in tables:
        explained = paragraphs[index + 1]
        if index < cases:
            assert explained[0].startswith("How to read it: ")
            assert len(explained) <= 2
    assert paragraphs[cases + 2][0].startswith("How to read it: ")
    assert len(paragraphs[cases + 2]) <= 2


def test_the_figures_are_png_of_a_readable_size(run: Path) -> None:
    named = {
        line[line.index("(") + 1 : -1] for line in (run / "report.md").read_text().splitlines() if line[:2] == "!["
    }
    assert named == {
        f"report/{name}.png"
        for name in ["accuracy-math", "accuracy-gsm8k", "ranking-math", "over-n-math", "negatives-math"]
    }
    assert {f"report/{path.name}" for path in (run / "report").iterdir()} == named
    for name in named:
        data = (run / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", data[16:24])
        assert width == 1050
        assert height > 200


def test_analyses_json_holds_the_numbers(run: Path) -> None:
    found = numbers(run)
    assert found["schema"] == 1
    assert list(found)[1:] == [
        "levels",
        "against cot-kd",
        "generalisation",
        "overlap",
        "ranking",
        "ranking correlation",
        "accuracy over n",
        "adaptive stopping",
        "negatives",
        "cases",
    ]
    assert [point["n"] for point in found["accuracy over n"]] == [1, 2, 3, 4, 5, 6]
    results = json.loads((run / "results.json").read_text())
    overall = {
        row["method"]: row["accuracy"] for row in results if row["subject"] == "all" and row["dataset"] == "math"
    }
    last = found["accuracy over n"][-1]["accuracy"]
    assert {method: overall[method] for method in last} == pytest.approx(last)
    row = next(row for row in found["ranking"] if row["subject"] == "all")
    assert [row["sc"], row["asc"]] == pytest.approx([overall["sc"], overall["asc"]])
    assert {row["method"] for row in found["against cot-kd"]} >= {"gpt-4", "asc-1+2s"}
    assert all(0 < row["p_value"] <= 1 for row in found["against cot-kd"])
    assert len(found["cases"]) <= 6


def test_the_same_records_give_the_same_files(tmp_path: Path) -> None:
    write_run(tmp_path / "again", questions=20, n=3)
    write_run(tmp_path / "elsewhere", questions=20, n=3)
    for name in ("again", "elsewhere"):
        report(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file())
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "elsewhere" / file).read_bytes()
    before = {file: (tmp_path / "again" / file).read_bytes() for file in files}
    report(tmp_path / "again")
    assert {file: (tmp_path / "again" / file).read_bytes() for file in files} == before


def test_rows_come_in_the_order_of_the_paper(run: Path) -> None:
    rows = [row for row in json.loads((run / "results.json").read_text()) if row["dataset"] == "math"]
    order = "cot-kd neg nat nce nat-no-negatives nat-negatives-25 nat-semantic sc ws asc asc-1+s asc-1+2s gpt-4"
    assert list(dict.fromkeys(row["method"] for row in rows)) == order.split()


def test_without_samples_a_line_says_what_is_missing(tmp_path: Path) -> None:
    write_run(tmp_path, n=3)
    (tmp_path / "votes" / "scored.jsonl").unlink()
    report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Left out: M_rank against ASC" in text
    assert "adaptive stopping" not in numbers(tmp_path)


def test_without_scores_there_is_no_ranking_and_no_case(tmp_path: Path) -> None:
    write_run(tmp_path, n=3)
    scored = tmp_path / "votes" / "scored.jsonl"
    write_rationales(scored, [replace(sample, score=None) for sample in read_rationales(scored)])
    report(tmp_path)
    assert headings((tmp_path / "report.md").read_text())[-2:] == [
        "math: accuracy over the number of samples",
        "math: adaptive stopping",
    ]


def test_a_run_of_one_method_is_a_short_report(tmp_path: Path) -> None:
    write_predictions(tmp_path / "nat" / "predictions.jsonl", predictions("nat", {"A": [1, 0]}))
    report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert headings(text) == ["math: accuracy in %"]
    assert "Left out" not in text
    assert numbers(tmp_path) == {"schema": 1}


def test_what_models_write_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\n\n# Not a heading | `x` ![i](http://e.vil) $a$ \x1b[31m"
    given = samples("S<b>|$x0", [evil, "1", evil], [0.1, 0.9, 0.1], subject="S<b>|$x")
    hostile = [replace(s, rationale=f"{evil} {s.answer}", question=evil) for s in given]
    (tmp_path / "votes").mkdir()
    write_rationales(tmp_path / "votes" / "scored.jsonl", hostile)
    made = [p for method in ("sc", "asc") for p in predictions(method, {"S<b>|$x": [0.0]}, dataset="d|$1_{")]
    write_predictions(tmp_path / "votes" / "predictions.jsonl", made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert r"\<script\>alert(1)\</script\>" in text
    assert not any(line.startswith("# Not") for line in text.splitlines())
    assert "\x1b" not in text
    assert not re.search(r"(?<!\\)(<script|`x|\$a|!\[i)", text)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "script" in line]
    assert rows
    assert all(line.replace(r"\|", "").count("|") == 6 for line in rows)


def test_seeds_are_joined(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_run(tmp_path / f"seed-{seed}", questions=30, n=2, seed=seed)
    report(tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {row["seed"] for row in rows} == {0, 1, 2}
    text = (tmp_path / "report.md").read_text()
    assert "[seed 1](seed-1/report.md)" in text
    assert headings(text) == ["math: accuracy in % over 3 seeds"]
    nat = next(row for row in numbers(tmp_path)["seeds"] if (row["method"], row["subject"]) == ("nat", "all"))
    own = [row["accuracy"] for row in rows if (row["method"], row["subject"]) == ("nat", "all")]
    assert (nat["accuracy"]["seeds"], nat["accuracy"]["low"], nat["accuracy"]["high"]) == (3, min(own), max(own))
    assert nat["accuracy"]["mean"] == pytest.approx(sum(own) / 3)
    assert (tmp_path / "report" / "seeds-math.png").is_file()

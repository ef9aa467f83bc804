from __future__ import annotations

import json
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from datamodules.components.records.records import read_rationales, write_questions, write_rationales
from dust2gold import cli
from dust2gold.core.errors import InputError
from dust2gold.report.section import ONE_RUN
from dust2gold.report.shown import END_OF_TABLES
from dust2gold.report.write import report
from tests.dust2gold.report.analyses.synthetic import predictions, samples, write_predictions, write_run
from tests.records import question

if TYPE_CHECKING:
    from tests.dust2gold.run.conftest import World


def write(run: Path, method: str, answers: Mapping[str, Sequence[float]], dataset: str = "math") -> None:
    """`answers`: subject -> list of shares of correct."""
    made = predictions(method, answers, dataset, level="")
    write_predictions(run / "evaluate" / dataset / method / "predictions.jsonl", made)


def written(run: Path) -> list[str]:
    """The lines of the report."""
    report(run)
    return (run / "report.md").read_text().splitlines()


def cells(lines: Sequence[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def headings(lines: Sequence[str]) -> list[str]:
    return [line.removeprefix("## ") for line in lines if line.startswith("## ")]


def loaded(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of row: greedy methods, ablations, a language model, votes, a second test set."""
    methods = "cot-kd neg nat nce nat-no-negatives nat-negatives-25 nat-semantic gpt-4".split()
    run = write_run(tmp_path_factory.mktemp("runs") / "full", n=6, methods=methods)
    write(run, "nce", {"": [1, 0, 1]}, dataset="gsm8k")
    report(run)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three methods on four questions."""
    answers: dict[str, tuple[list[float], list[float]]]
    answers = {"sc": ([0.5, 1], [0, 1]), "nat": ([1, 1], [0, 0]), "cot-kd": ([1, 0], [0, 1])}
    for method, (algebra, counting) in answers.items():
        write(tmp_path / "r", method, {"Algebra": algebra, "Counting & Probability": counting})
    return tmp_path / "r"


def test_every_section_is_there_and_says_how_to_read_it(full: Path) -> None:
    text = (full / "report.md").read_text()
    assert headings(text.splitlines()) == [
        "Verdict",
        "Set-up",
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
    cases = next(index for index, part in enumerate(paragraphs) if part[0].endswith("where SC and ASC part"))
    tables = [index for index, part in enumerate(paragraphs[:cases]) if part[0].startswith("| ")]
    for explained in (*(paragraphs[index + 1] for index in tables), paragraphs[cases + 2]):
        assert explained[0].startswith("How to read it: ")
        assert len(explained) <= 2


def test_the_figures_are_png_of_a_readable_size(full: Path) -> None:
    named = set(re.findall(r"(?m)^!\[.*\]\(report/(.*)\)$", (full / "report.md").read_text()))
    assert named == {f"{name}-math.png" for name in ("accuracy", "ranking", "over-n", "negatives")} | {
        "accuracy-gsm8k.png"
    }
    assert {path.name for path in (full / "report").iterdir()} == {*named, "index.html"}
    for name in named:
        data = (full / "report" / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", data[16:24])
        assert width == 1050
        assert height > 200


def test_the_numbers_agree_and_come_in_the_order_of_the_paper(full: Path) -> None:
    found = loaded(full / "analyses.json")
    assert found.pop("schema") == 1
    lines = (full / "report.md").read_text().splitlines()
    start = lines.index("## gsm8k: accuracy in %") + 2
    assert cells([lines[start], lines[start + 2]]) == [["method", "average"], ["nce", "**66.67**"]]
    assert list(found) == [
        *(
            "verdict",
            "levels",
            "against cot-kd",
            "comparisons",
            "generalisation",
            "overlap",
            "ranking",
            "ranking correlation",
        ),
        *("accuracy over n", "adaptive stopping", "negatives", "cases"),
    ]
    rows = [row for row in loaded(full / "results.json") if row["dataset"] == "math"]
    overall = {row["method"]: row["accuracy"] for row in rows if row["subject"] == "all"}
    order = "cot-kd neg nat nce nat-no-negatives nat-negatives-25 nat-semantic sc ws asc asc-1+s asc-1+2s gpt-4"
    assert list(overall) == order.split()
    assert [point["n"] for point in found["accuracy over n"]] == [1, 2, 3, 4, 5, 6]
    last = found["accuracy over n"][-1]["accuracy"]
    assert {method: overall[method] for method in last} == pytest.approx(last)
    row = next(row for row in found["ranking"] if row["subject"] == "all")
    assert [row["sc"], row["asc"]] == pytest.approx([overall["sc"], overall["asc"]])
    assert {row["method"] for row in found["against cot-kd"]} == set(overall) - {"cot-kd"}
    assert all(0 < row["p_value"] <= 1 for row in found["against cot-kd"])
    assert [(row["method"], row["baseline"]) for row in found["comparisons"]] == [
        *(("nce", "nat"), ("nat", "nat-no-negatives"), ("ws", "sc"), ("asc", "sc"))
    ], "there is no kd"
    assert len(found["cases"]) <= 6


def test_no_p_value_stands_without_what_it_leaves_out(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(full)]) == 0
    for text, tables in (((full / "report.md").read_text(), 3), (capsys.readouterr().out, 2)):
        paragraphs = [part.split("\n") for part in text.split("\n\n")]
        with_p = [place for place, part in enumerate(paragraphs) if part[0].endswith(" p |")]
        assert len(with_p) == tables
        assert all(" ".join(paragraphs[place + 2]) == ONE_RUN for place in with_p)


def test_the_same_records_give_the_same_files(tmp_path: Path) -> None:
    made = []
    for name in ("once", "elsewhere", "elsewhere"):
        run = tmp_path / name
        report(write_run(run, questions=20, n=3))
        made.append({path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()})
    assert made[0] == made[1] == made[2]


def test_what_samples_lack_is_left_out(tmp_path: Path) -> None:
    scored = write_run(tmp_path, n=3) / "votes" / "scored.jsonl"
    write_rationales(scored, [replace(sample, score=None) for sample in read_rationales(scored)])
    last = ["math: accuracy over the number of samples", "math: adaptive stopping"]
    assert headings(written(tmp_path))[-2:] == last, "no scores, no ranking and no case"
    scored.unlink()
    assert any(line.startswith("Left out: M_rank against ASC") for line in written(tmp_path))
    assert "adaptive stopping" not in loaded(tmp_path / "analyses.json")


def test_table_has_the_layout_of_the_paper(run: Path) -> None:
    lines = written(run)
    start = lines.index("## math: accuracy in %") + 2
    assert len({len(line) for line in lines[start : start + 6]}) == 1, "aligned"
    layout = cells(lines[start : start + 6])
    assert layout[0] == ["method", "C&P", "Algebra", "average"]
    assert layout[2:] == [
        ["cot-kd", "**50.00**", "50.00", "50.00"],
        ["nat", "0.00", "**100.00**", "50.00"],
        ["sc", "**50.00**", "75.00", "**62.50**"],
        ["questions", "2", "2", "4"],
    ]
    start = lines.index("### math: all questions") + 2
    overall = {row[0]: row[1:] for row in cells(lines[start : start + 5])}
    assert overall["method"][-3:] == ["points over cot-kd", "better / worse on", "p"]
    assert overall["sc"] == ["4", "2.5", "62.50", "21.94 to 90.81", "+12.50 ± 61.66", "1 / 1", "1.000"]
    assert overall["nat"][-3:] == ["+0.00 ± 80.02", "1 / 1", "1.000"]
    assert overall["cot-kd"][-3:] == ["-", "-", "-"]


def test_results_json_is_a_list_of_rows(run: Path) -> None:
    report(run)
    rows = loaded(run / "results.json")
    keys = ["method", "dataset", "subject", "n", "correct", "accuracy", "ci_low", "ci_high"]
    assert all(list(row) == keys for row in rows)
    subjects = ("Algebra", "Counting & Probability", "all")
    expected = [(method, subject) for method in ("cot-kd", "nat", "sc") for subject in subjects]
    assert [(row["method"], row["subject"]) for row in rows] == expected
    assert all(0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1 for row in rows)
    assert list(rows[-1].values())[:6] == ["sc", "math", "all", 4, 2.5, 0.625]


def test_a_column_of_zeros_has_no_best_and_gaps_are_shown(tmp_path: Path) -> None:
    write(tmp_path, "nat", {"A": [0, 0]})
    write(tmp_path, "nce", {"A": [0], "B": [1]})
    lines = written(tmp_path)
    start = lines.index("## math: accuracy in %") + 4
    assert cells(lines[start : start + 3]) == [
        ["nat", "0.00", "-", "0.00"],
        ["nce", "0.00", "**100.00**", "**50.00**"],
        ["questions", "1 to 2", "1", "2"],
    ]
    assert headings(lines)[2:] == ["math: accuracy in %", "math: questions that two models solve"], "a short report"
    assert not any("Left out" in line or "points over" in line for line in lines)
    (compared,) = loaded(tmp_path / "analyses.json")["comparisons"]
    assert compared["shared"] == 1
    (shown,) = (row for row in cells(lines) if row[:2] == ["nce", "nat"])
    assert shown == ["nce", "nat", "1", "+0.00", "0 / 0", "1.000"]
    assert set(loaded(tmp_path / "analyses.json")) == {"schema", "verdict", "comparisons", "overlap"}


def test_the_terminal_gets_the_tables_and_the_places(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(run)]) == 0
    shown = capsys.readouterr().out
    for text in ("**62.50**", *(f"{run}/{name}" for name in ("results.json", "report.md", "analyses.json"))):
        assert text in shown
    assert f"tensorboard --logdir {run}" in shown
    assert shown.startswith("## Verdict\n\nBy rules")
    before, _, last = shown.rpartition("\n\n")
    assert last.startswith("**What one run can and cannot tell.** ")
    assert last.endswith("docs/study.md.\n")
    assert "<!--" not in shown
    assert "can and cannot tell" not in before


def test_what_the_models_were_trained_on_and_how_long_it_took(run: Path, world: World) -> None:
    world.run("--run", str(run))
    counts = {"questions": 5, "samples": 60000, "positive": 1, "negative": 2, "ungradable": 3}
    summary = run / "data" / "summary.json"
    summary.write_text(json.dumps({**counts, "by_subject": {"Algebra": {**counts, "samples": 7}}}))
    text = "\n".join(written(run))
    for line in (
        "- nat: M_NAT",
        "| Algebra |         5 |       7 |        1 |        2 |          3 |",
        "| all     |         5 |  60,000 |        1 |        2 |          3 |",
        "| fit   | fits           |  0 s |",
    ):
        assert line in text
    compared = {"positive": {"positive": 1, "negative": 2000, "ungradable": 0}}
    given = {"verdicts": "both", "compared": compared, "differing": [["q/0", None, "4|5", "positive", "negative"]]}
    summary.write_text(json.dumps({**counts, **given, "by_subject": {}}))
    text = "\n".join(written(run))
    assert "| positive |               1 |           2,000 |                 0 |" in text
    assert "verdict and by ours. Where they differ, none counts." in text
    assert r"| q/0 | None   | 4\|5 | positive | negative |" in text
    summary.write_text('{"questions": 1}')
    with pytest.raises(InputError, match=r"summary\.json"):
        report(run)


def test_test_questions_of_the_training_set_are_named(run: Path, tmp_path: Path) -> None:
    """Accuracy stays that of all questions; that without them stands beside it."""
    for place, texts in {"data": ["What is 1?"], "test": ["what is  $1$?", "What is 2?"], "tests/b": ["3?"]}.items():
        names, source = ("Algebra0", "Algebra1"), "math" if place == "test" else "d|x"
        asked = [replace(question(0), id=n, question=t, source=source) for n, t in zip(names, texts, strict=False)]
        (run / place).mkdir(parents=True)
        write_questions(run / place / "questions.jsonl", asked)
    lines = written(run)
    start = lines.index("## Test questions that stand in the training set") + 2
    assert start < lines.index(END_OF_TABLES)
    assert cells(lines[start : start + 4])[2:] == [["math", "Algebra0", "2", "1", "0"], [r"d\|x", "-", "1", "0", "0"]]
    without = {row[1]: row[2:] for row in cells(lines) if row[0] == "math" and len(row) == 6}
    assert without == {method: ["4", "50.00", "3", "33.33"] for method in ("cot-kd", "nat")} | {
        "sc": ["4", "62.50", "3", "66.67"]
    }
    leaks = [{"dataset": "math", "questions": 2, "shared": ["Algebra0"], "alike": []}]
    leaks.append({"dataset": "d|x", "questions": 1, "shared": [], "alike": []})
    assert loaded(run / "analyses.json")["leaks"] == leaks
    run.rename(tmp_path / "seed-0")
    assert "## Test questions that stand in the training set" in written(tmp_path)
    assert loaded(tmp_path / "analyses.json")["leaks"] == leaks


def test_what_others_write_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\n\n# Not a heading | `x` ![i](http://e.vil) $a$ \x1b[31m"
    given = samples("S<b>|$x0", [evil, "1", evil], [0.1, 0.9, 0.1], subject="S<b>|$x")
    hostile = [replace(s, rationale=f"{evil} {s.answer}", question=evil) for s in given]
    (tmp_path / "votes").mkdir()
    write_rationales(tmp_path / "votes" / "scored.jsonl", hostile)
    made = [p for method in ("sc", "asc", evil) for p in predictions(method, {"S<b>|$x": [0.0]}, dataset="d|$1_{")]
    write_predictions(tmp_path / "votes" / "predictions.jsonl", made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = written(tmp_path)
    text = "\n".join(lines)
    assert r"\<script\>alert(1)\</script\>" in text
    assert not any(line.startswith("# Not") for line in lines)
    assert "\x1b" not in text
    assert not re.search(r"(?<!\\)(<script|`x|\$a|!\[i)", text)
    rows = [line.replace(r"\|", "") for line in lines if line.startswith("| ") and "script" in line]
    assert {row.count("|") for row in rows} == {4, 6}, "of the tables of accuracy and of the answers"


def test_seeds_are_joined(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_run(tmp_path / f"seed-{seed}", questions=30, n=2, seed=seed)
    lines = written(tmp_path)
    rows = loaded(tmp_path / "results.json")
    assert {row["seed"] for row in rows} == {0, 1, 2}
    assert any("[seed 1](seed-1/report.md)" in line for line in lines)
    assert headings(lines) == ["Verdict", "Set-up", "math: accuracy in % over 3 seeds"]
    assert "**What 3 seeds can and cannot tell.**" in "\n".join(lines)
    found = loaded(tmp_path / "analyses.json")["seeds"]
    nat = next(row["accuracy"] for row in found if (row["method"], row["subject"]) == ("nat", "all"))
    own = [row["accuracy"] for row in rows if (row["method"], row["subject"]) == ("nat", "all")]
    assert (nat["seeds"], nat["low"], nat["high"]) == (3, min(own), max(own))
    assert nat["mean"] == pytest.approx(sum(own) / 3)
    assert (tmp_path / "report" / "seeds-math.png").is_file()
    paired = loaded(tmp_path / "analyses.json")["differences over seeds"]
    asc = next(row for row in paired if (row["method"], row["baseline"]) == ("asc", "sc"))
    mean, margin = asc["points"]["mean"], asc["margin"]
    overall = {row["method"]: row["accuracy"]["mean"] for row in found if row["subject"] == "all"}
    assert mean == pytest.approx(100 * (overall["asc"] - overall["sc"]))
    (shown,) = (row for row in cells(lines) if row[:2] == ["asc", "sc"])
    assert shown[2:5] == ["3", f"{mean:+.2f}", f"{mean - margin:+.2f} to {mean + margin:+.2f}"]

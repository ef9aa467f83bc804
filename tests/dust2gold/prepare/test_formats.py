"""Today's layouts, in small files that we write, and columns of one's own."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from datamodules.components.records.records import Question, read_questions, read_rationales
from dust2gold.core.errors import InputError
from dust2gold.prepare.formats import Format, format_named, nearest
from dust2gold.prepare.prepare import prepare
from dust2gold.prepare.readers import Entry, read
from dust2gold.prepare.summary import Summary, Verdicts, print_summary

WRONG_THOUGHT = "<think>\nPerhaps \\boxed{5}? No.\n</think>\n\n"
OPENR1: dict[str, Any] = {
    "problem": "What is $2+2$?",
    "answer": "4",
    "generations": [
        f"{WRONG_THOUGHT}So \\boxed{{4}}.",
        "<think>\n\\boxed{4}\n</think>\n\nHence \\boxed{5}.",
        "<think>\nHm, \\boxed{4}",
        f"{WRONG_THOUGHT}It is $\\boxed{{4}}$.",
    ],
    "correctness_math_verify": [True, False, True, False],
    "correctness_llama": None,
    "is_reasoning_complete": [True, True, False, True],
    "finish_reasons": None,
    "uuid": "0f1e",
}
RAW = {name: value for name, value in OPENR1.items() if not name.startswith("correctness")}
RAW |= {"correctness": {"llama_verification": None, "math_verify_answer": [True, False, True, False]}, "uuid": "1f1e"}
OPENMATH: dict[str, Any] = {"question": "How many?", "expected_answer": "18", "dataset": "gsm8k"}
CHAT = [{"role": "system", "content": "Think."}, {"role": "user", "content": "How many?"}]


def entries(tmp_path: Path, format: str | Format, *rows: dict[str, Any]) -> list[Entry]:
    Dataset.from_list(list(rows)).to_parquet(tmp_path / "rows.parquet")
    return list(read(tmp_path / "rows.parquet", format))


def written(directory: Path) -> dict[str, list[str]]:
    """The ids by verdict."""
    names = ("positive", "negative", "ungradable")
    files = {name: directory / f"{name}.jsonl" for name in names}
    return {name: [each.id for each in read_rationales(file)] for name, file in files.items() if file.exists()}


@pytest.mark.parametrize("row", [OPENR1, RAW, OPENR1 | {"correctness_llama": [True, False, True, False]}])
def test_openr1(tmp_path: Path, row: dict[str, Any]) -> None:
    (entry,) = entries(tmp_path, "openr1", row)
    assert entry.question == Question(row["uuid"], "What is $2+2$?", "4", "", "", "", "openr1")
    verdicts = [(r.id.removeprefix(row["uuid"]), r.verdict) for r in entry.rationales]
    assert verdicts == [("/0", "positive"), ("/1", "negative"), ("/3", "negative")]
    assert [r.rationale for r in entry.rationales] == [OPENR1["generations"][k].strip() for k in (0, 1, 3)]
    assert entry.left_out == ("incomplete",)


def test_cut_samples_are_left_out_by_their_finish_reasons(tmp_path: Path) -> None:
    reasons = ["stop", "length", "content_filter", None]
    row = OPENR1 | {"finish_reasons": reasons, "is_reasoning_complete": None, "generations": ["a", "b", "c", " "]}
    (entry,) = entries(tmp_path, "openr1", row)
    assert [r.rationale for r in entry.rationales] == ["a"]
    assert entry.left_out == ("finish reason length", "finish reason content_filter", "empty")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (None, (["0f1e/0"], ["0f1e/1"], ["0f1e/3"])),
        ("both", (["0f1e/0"], ["0f1e/1"], ["0f1e/3"])),
        ("given", (["0f1e/0"], ["0f1e/1", "0f1e/3"], None)),
        ("graded", (["0f1e/0", "0f1e/3"], ["0f1e/1"], None)),
    ],
)
def test_given_and_graded_verdicts_side_by_side(
    tmp_path: Path, verdicts: Verdicts | None, expected: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(OPENR1))
    summary = prepare(tmp_path / "a.jsonl", "openr1", tmp_path / "out", verdicts=verdicts)
    names = ("positive", "negative", "ungradable")
    assert written(tmp_path / "out") == {name: ids for name, ids in zip(names, expected, strict=True) if ids}
    counts = {"positive": 0, "negative": 0, "ungradable": 0}
    assert summary.compared == {
        "positive": counts | {"positive": 1},
        "negative": counts | {"positive": 1, "negative": 1},
    }
    assert summary.differing == [("0f1e/3", "4", "4", "negative", "positive")]
    assert summary.ungradable_because == ({"the verdicts differ": 1} if expected[2] else {})
    kept = json.loads((tmp_path / "out/summary.json").read_text())
    assert (kept["left_out"], kept["verdicts"], kept["compared"]) == (
        {"incomplete": 1},
        verdicts or "both",
        summary.compared,
    )
    print_summary(summary)
    said = capsys.readouterr().out
    for line in (
        "left out, in no file: incomplete 1",
        "given and graded verdicts agree on 2 of 3 samples; ",
        r"negative +1 +1 +0\n",
        r"negative +positive +4 +4 +0f1e/3\n",
    ):
        assert re.search(line, said)


def test_where_the_data_say_nothing_our_verdict_stands(tmp_path: Path) -> None:
    row = OPENR1 | {"correctness_math_verify": [True, None, None, None]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    for verdicts, expected in (
        ("both", {"positive": ["0f1e/0", "0f1e/3"], "negative": ["0f1e/1"]}),
        ("given", {"positive": ["0f1e/0"], "negative": [], "ungradable": ["0f1e/1", "0f1e/3"]}),
    ):
        summary = prepare(tmp_path / "a.jsonl", "openr1", tmp_path / "out", verdicts=verdicts)  # type: ignore[arg-type]
        assert written(tmp_path / "out") == expected
    assert summary.ungradable_because == {"no verdict given": 2}
    with pytest.raises(InputError, match=r"--verdicts.*no verdicts\n.*verdict=COLUMN"):
        prepare(tmp_path / "a.jsonl", format_named("openr1", {"verdict": ""}), tmp_path / "out", verdicts="given")


def test_openmathinstruct1_one_sample_a_row(tmp_path: Path) -> None:
    """Rows of one question need not follow each other."""

    def row(question: str, answer: str, right: bool) -> dict[str, Any]:
        return OPENMATH | {"question": question, "generated_solution": f"\\boxed{{{answer}}}", "is_correct": right}

    rows = [row("A?", "18", True), row("B?", "18", True), row("A?", "17", False), row("A?", "1", False)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "folder")
    for options, samples in (
        ({}, ["0/0", "1/0", "0/1", "0/2"]),
        ({"limit": 1}, ["0/0", "0/1", "0/2"]),
        ({"max_samples": 2}, ["0/0", "1/0", "0/1"]),
        ({"limit": 1, "max_samples": 1}, ["0/0"]),
    ):
        summary = prepare(tmp_path / "folder", "openmathinstruct1", tmp_path / "out", **options)  # type: ignore[arg-type]
        ids = [id.removeprefix("openmathinstruct1-0000") for ids in written(tmp_path / "out").values() for id in ids]
        assert sorted(ids) == sorted(samples)
        asked = list(read_questions(tmp_path / "out/questions.jsonl"))
        assert [q.question for q in asked] == ["A?", "B?"][: len({each[0] for each in samples})]
        assert (summary.questions, summary.samples, summary.source) == (len(asked), len(samples), "gsm8k")
        assert summary.questions_with_negative == any(id in samples for id in ("0/1", "0/2"))


def test_math500(tmp_path: Path) -> None:
    row = {
        "problem": "Why?",
        "answer": "\\frac12",
        "subject": "Algebra",
        "level": 4,
        "unique_id": "test/algebra/1.json",
    }
    for more, solution in (({}, ""), ({"solution": "So $\\boxed{\\frac12}$."}, "So $\\boxed{\\frac12}$.")):
        (entry,) = entries(tmp_path, "math500", row | more)
        expected = ("test/algebra/1.json", "Why?", "\\frac12", solution, "Algebra", "Level 4", "math500")
        assert entry.question == Question(*expected)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [*CHAT, {"role": "assistant", "content": "18."}], "answer": 18},
        {"messages": [*CHAT, {"role": "assistant", "content": "18."}], "ground_truth": "18"},
        {"conversations": [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "18."}], "gold": "18"},
    ],
)
def test_a_chat_a_sample(tmp_path: Path, row: dict[str, Any]) -> None:
    first, second = entries(tmp_path, "messages", row, row)
    assert (first.question.id, first.question.question, first.question.gold) == ("rows-00000", "How many?", "18")
    assert [r.rationale for r in first.rationales] == ["18."]
    assert [r.id for r in second.rationales] == ["rows-00000/1"]


def test_a_longer_chat_is_refused(tmp_path: Path) -> None:
    chat = [*CHAT, {"role": "assistant", "content": "18."}] * 2
    with pytest.raises(InputError, match="2 messages of 'user'") as caught:
        entries(tmp_path, "messages", {"messages": chat, "answer": "18"})
    assert caught.value.field == "messages.user"
    with pytest.raises(InputError, match="missing; there are messages\n") as caught:
        entries(tmp_path, "messages", {"messages": CHAT})
    assert caught.value.field == "messages.assistant"


OWN: dict[str, Any] = {"q": "Two?", "a": "2", "r": ["It is 2.", "The answer is 3."], "ok": [1, 0], "level": 3}
COLUMNS = {"question": "q", "gold": "a", "samples": "r"}


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        (COLUMNS, OWN, ["ungradable", "ungradable"]),
        (COLUMNS | {"verdict": "ok", "level": "level"}, OWN, ["positive", "negative"]),
        (COLUMNS | {"verdict": "ok"}, OWN | {"ok": ["True", "incorrect"]}, ["positive", "negative"]),
        (COLUMNS | {"verdict": "ok"}, OWN | {"ok": [1.0, None]}, ["positive", "ungradable"]),
        (COLUMNS | {"verdict": "ok.by.rule"}, OWN | {"ok": {"by": {"rule": [True, False]}}}, ["positive", "negative"]),
        (COLUMNS | {"verdict": "ok.by.rule"}, OWN | {"ok": {"by": None}}, ["ungradable", "ungradable"]),
        (COLUMNS | {"verdict": "ok"}, OWN | {"r": "It is 2.", "ok": "false"}, ["negative"]),
        ({"question": "q", "solution": "a"}, OWN, []),
    ],
)
def test_columns_of_ones_own(tmp_path: Path, columns: dict[str, str], row: dict[str, Any], expected: list[str]) -> None:
    (entry,) = entries(tmp_path, format_named(None, columns), row)
    assert entry.question == Question("rows-00000", "Two?", "2", "", "", "Level 3" * ("level" in columns), "rows")
    assert [r.verdict for r in entry.rationales] == expected


@pytest.mark.parametrize(
    ("solution", "kept"), [("So \\boxed{2.0}.", True), ("One and one.", True), ("So \\boxed{3}.", False), (None, False)]
)
def test_solutions_that_contradict_the_gold_answer_are_left_out(tmp_path: Path, solution: str, kept: bool) -> None:
    format = format_named(None, COLUMNS | {"solution": "s"})
    (entry,) = entries(tmp_path, format, OWN | {"s": solution})
    assert (entry.question.solution != "") is kept
    assert entry.left_out == (("solution with another answer",) if solution and not kept else ())


@pytest.mark.parametrize(
    ("columns", "row", "field", "says"),
    [
        (
            {"gold": "answer"},
            {},
            "answer",
            r"missing; there are q, a, r, ok, level\n.*--columns question=COLUMN gold=COLUMN",
        ),
        ({"gold": "ok.x"}, {"ok": {"y": 1}}, "ok.x", r"missing; there are q, a, r, ok\.y, level\n"),
        ({"verdict": "ok"}, {"ok": [1]}, "ok", "a value for each of the 2 samples"),
        ({"verdict": "ok"}, {"ok": 1}, "ok", "a value for each of the 2 samples"),
        ({"verdict": "ok"}, {"ok": [1, 0.5]}, "ok", "true or false was expected, found '0.5'"),
        ({"keep": "ok"}, {"ok": ["stop", "stop"]}, "ok", "true or false was expected, found 'stop'"),
        ({"samples": "r"}, {"r": None}, "r", "text was expected, found NoneType"),
        ({"samples": "r"}, {"r": ["a", None]}, "r", "text was expected, found NoneType"),
        ({"question": "level"}, {}, "level", "text was expected, found int 3"),
    ],
)
def test_unfit_columns_are_named(
    tmp_path: Path, columns: dict[str, str], row: dict[str, Any], field: str, says: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(OWN | row))
    with pytest.raises(InputError, match=says) as caught:
        list(read(tmp_path / "a.jsonl", format_named(None, COLUMNS | columns)))
    assert (caught.value.line, caught.value.field) == (1, field)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (OPENR1, "openr1"),
        (RAW, "openr1"),
        (OPENMATH | {"generated_solution": "", "is_correct": 1}, "openmathinstruct1"),
    ],
)
def test_the_nearest_format_is_named(tmp_path: Path, row: dict[str, Any], name: str) -> None:
    assert nearest(row) == name
    with pytest.raises(InputError, match=f"missing; there are {next(iter(row))}, .*\n  the nearest --format is {name}"):
        entries(tmp_path, "svamp", row)
    assert nearest({"text": 1}) is None


def test_ids_given_twice_are_refused(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for text in ("A?", "B?"):
            yield OPENR1 | {"problem": text}

    with pytest.raises(InputError, match="'0f1e' comes twice, first in line 1; --columns id= numbers") as caught:
        entries(tmp_path, "openr1", *rows())
    assert (caught.value.line, caught.value.field) == (2, "uuid")
    found = entries(tmp_path, format_named("openr1", {"id": ""}), *rows())
    assert [entry.question.id for entry in found] == ["openr1-00000", "openr1-00001"]
    found = entries(tmp_path, "openr1", *({**row, "uuid": None} for row in rows()))
    assert [entry.question.id for entry in found] == ["openr1-00000", "openr1-00001"]


def test_with_a_sample_a_row_the_first_rows_id_counts(tmp_path: Path) -> None:
    format = format_named(None, COLUMNS | {"id": "n"})
    rows = [OWN | {"r": "It is 2.", "n": number, "q": text} for number, text in ((7, "A?"), (8, "B?"), (9, "A?"))]
    assert [r.id for entry in entries(tmp_path, format, *rows) for r in entry.rationales] == ["7/0", "8/0", "7/1"]
    with pytest.raises(InputError, match="'7' comes twice, first in line 1"):
        entries(tmp_path, format, *rows, rows[0] | {"q": "C?"})


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        (None, {}, "which column holds the questions?"),
        (None, {"gold": "a"}, "which column holds the questions?"),
        ("math", {"questions": "a"}, "no role 'questions'\n  choose from question, body"),
        ("records", {"gold": "a"}, "records have fields of their own"),
        ("csv", {}, "unknown format 'csv'\n  choose one of tdg, "),
    ],
)
def test_unusable_choices(name: str | None, columns: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        format_named(name, columns)
    assert says in str(caught.value)


def test_a_summary_without_given_verdicts_has_no_word_of_them() -> None:
    assert {"left_out", "verdicts", "compared", "differing"}.isdisjoint(Summary("string", "strings", {}).to_json())

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.components.grading import verifier
from datamodules.components.grading.semantic import BothGrader, OutcomeCache, SemanticGrader, open_grader
from datamodules.components.grading.verifier import Outcome
from dust2gold.core.errors import InputError

EQUAL = [
    ("40320", "8!"),
    ("\\frac{\\sqrt5}{5}", "\\frac{1}{\\sqrt5}"),
    ("1000", "1{,}000"),
    ("\\{1,2\\}", "2,1"),
    ("\\boxed 9", "9"),
]
TOWER = "9^{9^{9^{9}}}"


def boxed(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"\\boxed{{{answer}}}", gold) for gold, answer in pairs]


@pytest.fixture(scope="module")
def grader() -> Iterator[SemanticGrader]:
    grader = SemanticGrader(workers=1, time_limit=1.0)
    yield grader
    grader.close()


def test_what_strings_reject_goes_to_math_verify(grader: SemanticGrader) -> None:
    pairs = boxed([*EQUAL, ("40320", "7!"), ("(1,2)", "(2,1)"), ("2", "2")])
    verdicts = [verdict for verdict, _ in grader.grade_many(pairs)]
    assert verdicts == ["positive"] * len(EQUAL) + ["negative", "negative", "positive"]


def test_an_answer_of_the_gold_value_needs_no_math_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_START", 0.0)  # a worker would fail at once
    right = ["12 marbles", "12.0", "\\frac{24}{2}", "\\$12.00", "12\\text{ km/h}"]
    grader = SemanticGrader(workers=1)
    assert [verdict for verdict, _ in grader.grade_many(boxed([("12", answer) for answer in right]))] == [
        "positive"
    ] * 5
    assert grader.grade("\\boxed{-13}", "12")[0] == "negative", "two integers"
    both = BothGrader(workers=1)
    assert both.grade("\\boxed{12 marbles}", "12")[0] == "ungradable", "the string comparison disagrees"


def test_the_three_verdicts(grader: SemanticGrader) -> None:
    before = grader.reasons.copy()
    pairs = [("no box", "1"), ("\\boxed{1}", ""), ("\\boxed{17}", "\\boxed{}"), ("\\boxed{" + "x" * 301 + "}", "1")]
    assert [verdict for verdict, _ in grader.grade_many(pairs)] == ["negative", "ungradable", "ungradable", "negative"]
    assert grader.reasons - before == {"no gold answer": 1, "unreadable gold": 1}


def test_progress_counts_every_rationale_once(grader: SemanticGrader) -> None:
    seen: list[int] = []
    pairs = boxed([("6", "3!"), ("6", "3!"), ("6", "6"), ("6", "5")])
    grader.grade_many(pairs, seen.append)
    assert sum(seen) == len(pairs)


def test_an_overrun_is_ungradable_and_the_next_answer_is_graded(grader: SemanticGrader) -> None:
    pairs = boxed([("2", TOWER), ("40320", "8!")])
    assert [verdict for verdict, _ in grader.grade_many(pairs)] == ["ungradable", "positive"]
    assert grader._cache.get(("2", TOWER)) == "time limit"  # remembered


def test_both_keeps_what_the_two_agree_on() -> None:
    grader = BothGrader(workers=1)
    try:
        verdicts = [verdict for verdict, _ in grader.grade_many(boxed([("6", "6"), ("6", "3!"), ("6", "5")]))]
        assert verdicts == ["positive", "ungradable", "negative"]
        assert grader.reasons == {"the graders disagree": 1}
    finally:
        grader.close()


def test_the_cache_file_spares_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "cache.jsonl"
    pairs = boxed([*EQUAL[:2], ("6", "5")])
    first = SemanticGrader(workers=1, cache=path)
    expected = first.grade_many(pairs)
    first.close()
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"math_verify": "0.9.0", "gold": "cut o')
    second = SemanticGrader(workers=1, cache=path)
    assert f"warning: {path}: left out 1 unreadable lines" in capsys.readouterr().err
    monkeypatch.setattr(verifier, "_START", 0.0)  # a worker would fail at once
    assert second.grade_many(pairs) == expected


def test_the_cache_goes_on_behind_a_torn_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cache.jsonl"
    OutcomeCache(path, 5.0).add({("1", "1.0"): "equal", ("2", "2.0"): "equal"})
    path.write_bytes(path.read_bytes()[:-9] + b"\n".join([b"", b"[]", b'{"outcome": []}', b"[" * 10_000, b'{"ma']))
    OutcomeCache(path, 5.0).add({("3", "3.0"): "equal"})
    assert "left out 5 unreadable lines" in capsys.readouterr().err
    again = OutcomeCache(path, 5.0)
    assert [again.get((gold, f"{gold}.0")) for gold in "123"] == ["equal", None, "equal"]


def test_the_cache_forgets_what_may_change(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    outcomes: dict[tuple[str, str], Outcome] = {
        ("1", "1.0"): "equal",
        ("2", TOWER): "time limit",
        ("3", "x"): "worker died",
    }
    OutcomeCache(path, 5.0).add(outcomes)
    shorter, longer = OutcomeCache(path, 2.0), OutcomeCache(path, 9.0)
    assert [shorter.get(pair) for pair in outcomes] == ["equal", "time limit", None]
    assert [longer.get(pair) for pair in outcomes] == ["equal", None, None]
    path.write_text(path.read_text().replace('"math_verify": "', '"math_verify": "0.'))
    assert not any(map(OutcomeCache(path, 2.0).get, outcomes))


def test_unknown_graders_are_refused() -> None:
    with pytest.raises(InputError, match="semantic"), open_grader("magic"):
        pass

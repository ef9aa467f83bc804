from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from datamodules.components.grading import verifier
from datamodules.components.grading.semantic import BothGrader, OutcomeCache, SemanticGrader, open_grader
from datamodules.components.grading.verifier import Outcome

EQUAL = [
    ("40320", "8!"),
    (r"\frac{\sqrt5}{5}", r"\frac{1}{\sqrt5}"),
    ("1000", "1{,}000"),
    (r"\{1,2\}", "2,1"),
    (r"\boxed 9", "9"),
]
TOWER = "9^{9^{9^{9}}}"


def boxed(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """(rationale, gold) of (gold, answer) pairs."""
    return [(rf"\boxed{{{answer}}}", gold) for gold, answer in pairs]


def verdicts(grader: SemanticGrader, pairs: list[tuple[str, str]]) -> list[str]:
    return [verdict for verdict, _ in grader.grade_many(pairs)]


@pytest.fixture(scope="module")
def grader() -> Iterator[SemanticGrader]:
    with closing(SemanticGrader(workers=1, time_limit=1.0)) as grader:
        yield grader


def test_what_strings_reject_goes_to_math_verify(grader: SemanticGrader) -> None:
    found = verdicts(grader, boxed(*EQUAL, ("40320", "7!"), ("(1,2)", "(2,1)"), ("2", "2"), ("40320", "8!")))
    assert found == ["positive"] * len(EQUAL) + ["negative", "negative", "positive", "positive"]


def test_numbers_need_no_math_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_START", 0.0)  # a worker would fail at once
    right = ["12 marbles", "12.0", r"\frac{24}{2}", r"\$12.00", r"12\text{ km/h}"]
    pairs = boxed(*[("12", answer) for answer in (*right, "-13")])
    assert verdicts(SemanticGrader(workers=1), pairs) == ["positive"] * 5 + ["negative"]
    assert verdicts(BothGrader(workers=1), pairs)[0] == "ungradable", "the string comparison disagrees"


def test_the_three_verdicts(grader: SemanticGrader) -> None:
    before = grader.reasons.copy()
    pairs = [("no box", "1"), (r"\boxed{1}", ""), (r"\boxed{17}", r"\boxed{}"), (r"\boxed{" + "x" * 301 + "}", "1")]
    assert verdicts(grader, pairs) == ["negative", "ungradable", "ungradable", "negative"]
    assert grader.reasons - before == {"no gold answer": 1, "unreadable gold": 1}


def test_an_overrun_is_ungradable_and_the_next_answer_is_graded(grader: SemanticGrader) -> None:
    assert verdicts(grader, boxed(("2", TOWER), ("40320", "8!"))) == ["ungradable", "positive"]
    assert grader._cache.get(("2", TOWER)) == "time limit"  # remembered


def test_the_cache_file_spares_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, pairs = tmp_path / "deep" / "cache.jsonl", boxed(*EQUAL[:2], ("6", "5"))
    with closing(SemanticGrader(workers=1, cache=path)) as first:
        expected = first.grade_many(pairs)
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
    assert OutcomeCache(path, 5.0) == {("1", "1.0"): "equal", ("3", "3.0"): "equal"}


def test_the_cache_forgets_what_may_change(tmp_path: Path) -> None:
    path, equal, overrun = tmp_path / "cache.jsonl", ("1", "1.0"), ("2", TOWER)
    outcomes: dict[tuple[str, str], Outcome] = {equal: "equal", overrun: "time limit", ("3", "x"): "worker died"}
    OutcomeCache(path, 5.0).add(outcomes)
    assert OutcomeCache(path, 2.0) == {equal: "equal", overrun: "time limit"}
    assert OutcomeCache(path, 9.0) == {equal: "equal"}
    path.write_text(path.read_text().replace('"math_verify": "', '"math_verify": "0.'))
    assert OutcomeCache(path, 2.0) == {}


def test_unknown_graders_are_refused() -> None:
    with pytest.raises(KeyError), open_grader("magic"):
        pass

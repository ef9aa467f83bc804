import pytest

from dust2gold.prepare.readers import Entry
from dust2gold.prepare.summary import Summary, Tally, print_summary
from tests.records import question, rationale


def test_a_question_that_comes_again_is_counted_once(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally(Summary("string", "strings", {}))
    assert tally.add(Entry(question(1), [rationale(1, 1)], alone=False))
    assert tally.add(Entry(question(0, subject=""), [], alone=False))
    assert not tally.add(Entry(question(1), [rationale(1, 0), rationale(1, 3, answer=None)], alone=False))
    print_summary(tally.finished({"time limit": 1}))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:5]] == ["(no subject)", "Geometry", "all"]
    assert lines[4].split() == ["all", "2", "3", "1", "2", "0"]
    assert lines[5:8] == [
        "1 questions have a positive rationale, 1 a negative one; 1 rationales state no answer",
        "ungradable, kept out of training: time limit 1",
        "string grading: a rationale without a boxed answer counts as negative, as in the paper",
    ]
    assert lines[8].startswith("WARNING: 1 of 3 samples state no answer that could be found, and count as wrong")
    assert len(lines[9:]) == len(["", "some samples, drawn at random:", "verdict answer gold id"]) + 3


def test_questions_alone_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally(Summary("string", "values", {}))
    tally.add(Entry(question(0), []))
    print_summary(tally.finished({}))
    assert "no rationales in this data set: questions only" in capsys.readouterr().out

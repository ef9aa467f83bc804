from pathlib import Path

import pytest

from datamodules.components.encoding.prompts import PLAIN
from datamodules.components.encoding.tokenization import load_tokenizer
from datamodules.components.limits import AnswerRoom, Limits
from datamodules.components.records.records import write_rationales
from datamodules.components.table import Examples, open_table
from dust2gold.core.errors import InputError
from tests.records import rationale


@pytest.fixture
def examples(tiny_student: Path, tmp_path: Path) -> Examples:
    """Five rationales, each longer than the one before."""
    write_rationales(tmp_path / "p.jsonl", [rationale(q, rationale="so " * (4 * q)) for q in range(5)])
    return Examples(open_table(load_tokenizer(str(tiny_student)), tmp_path / "p.jsonl"))


def test_longer_ones_are_left_out_and_counted(examples: Examples, capsys: pytest.CaptureFixture[str]) -> None:
    lengths, longest = examples.lengths.tolist(), rationale(4, rationale="so " * 16)
    whole = len(PLAIN.ask(longest.question) + longest.rationale)  # the reference keeps what has fewer characters
    assert len(Limits(max_characters=whole + 1).apply(examples, "f")) == 5
    limits = Limits(lengths[2], drop_longer=True, max_characters=whole)
    assert [e.id for e in limits.apply(examples, "f")] == ["q0/0", "q1/0", "q2/0"]
    assert (limits.longer, limits.wider) == (1, 1)  # the longest has too many characters: its tokens do not count
    limits.apply(examples, "g")
    limits.report()
    assert capsys.readouterr().err.splitlines() == [
        f"left out 2 rationales of {whole} characters or more, question and headings included",
        f"left out 2 rationales of more than {lengths[2]} tokens",
    ]


def test_the_first_longer_one_is_refused(examples: Examples) -> None:
    lengths = examples.lengths.tolist()
    assert len(Limits(lengths[4]).apply(examples, "f")) == 5
    with pytest.raises(InputError) as caught:
        Limits(lengths[2]).apply(examples, "f")
    assert (caught.value.file, caught.value.line, caught.value.field) == ("f", 4, "rationale")
    assert f"'q3/0' has {lengths[3]} tokens, more than --data.max_length {lengths[2]}" in str(caught.value)
    assert "--data.drop_longer true, or raise --data.max_length" in str(caught.value)
    limits = Limits(1024, context=8)
    with pytest.raises(InputError, match=r"more than the student's context of 8\n.*longer context"):
        limits.apply(examples, "f")


def test_a_question_needs_room_for_an_answer_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    for context, wanted, lengths in ((None, 1024, (5000,)), (2048, None, (2047,)), (2048, 1024, (1024,))):
        room = AnswerRoom(context, wanted)
        for length in lengths:
            room.check("q", length, "f", 4)
        room.report()
    assert capsys.readouterr().err == ""
    room = AnswerRoom(2048, 1024)
    for name, length in {"a": 70, "b": 1314, "c": 1025}.items():
        room.check(name, length, "f", 4)
    room.report()
    said = "2 questions leave less than 1,024 tokens for an answer in the context of 2,048"
    assert capsys.readouterr().err == f"{said}, where it is cut off (the least: 734 tokens after 'b')\n"
    with pytest.raises(InputError, match=r"f:4: field 'question': 'd' has 2,048 tokens.*\n.*longer context"):
        room.check("d", 2048, "f", 4)

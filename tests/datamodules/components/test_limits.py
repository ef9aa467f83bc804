from pathlib import Path

import pytest

from datamodules.components.encoding.tokenization import load_tokenizer
from datamodules.components.limits import Limits
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
    lengths, characters = examples.lengths.tolist(), examples.numbers("characters").tolist()
    limits = Limits(lengths[2], drop_longer=True, max_characters=characters[3])
    assert [e.id for e in limits.apply(examples, "f")] == ["q0/0", "q1/0", "q2/0"]
    assert (limits.longer, limits.wider) == (1, 1)  # the longest has too many characters: its tokens do not count
    limits.apply(examples, "g")
    limits.report()
    assert capsys.readouterr().err.splitlines() == [
        f"left out 2 rationales of more than {characters[3]} characters",
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
    error = limits.too_long("q", 10, "f", 4, "question")  # which is never left out
    assert (error.line, error.field) == (4, "question")
    assert error.remedy == "remove this line, or take a student with a longer context"

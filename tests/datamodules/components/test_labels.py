from pathlib import Path

import pytest

from datamodules.components.encoding.tokenization import load_tokenizer
from datamodules.components.labels import Labels, Verdicts, check_both, check_verdicts
from datamodules.components.records.records import VERDICTS, Rationale, write_rationales
from datamodules.components.table import Examples, open_table
from dust2gold.core.errors import InputError
from tests.records import rationale

Files = list[tuple[Path, Examples]]


def files(home: Path, student: Path, **records: list[Rationale]) -> Files:
    """The rationales of files of these names."""
    tokenizer = load_tokenizer(str(student))
    for name, each in records.items():
        write_rationales(home / name, each)
    return [(home / name, Examples(open_table(tokenizer, home / name))) for name in records]


@pytest.mark.parametrize(("wanted", "line"), [("positive", 2), ("negative", 1), ("both", None), (None, None)])
def test_wrong_verdicts(tmp_path: Path, tiny_student: Path, wanted: Verdicts | None, line: int | None) -> None:
    ((file, examples),) = files(tmp_path, tiny_student, mixed=[rationale(1, k) for k in range(4)])
    if line is None:
        check_verdicts(examples, wanted, file)
        return
    with pytest.raises(InputError, match=f"'q1/{line - 1}' is .*{wanted}.*\n.*--data.verdicts") as caught:
        check_verdicts(examples, wanted, file)
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(file), line, "verdict")


def test_both_are_needed(tmp_path: Path, tiny_student: Path) -> None:
    ((_, examples),) = files(tmp_path, tiny_student, mixed=[rationale(1, k) for k in range(4)])
    check_both(examples)
    for verdict, missing in zip(VERDICTS, VERDICTS[1::-1], strict=False):
        with pytest.raises(InputError, match=f"no {missing} rationale.*\n.*{missing}.jsonl too.*verdicts {verdict}"):
            check_both(examples.where(examples.has_verdict(verdict)))


A, B, C = (rationale(q, 0) for q in range(3))
OTHER = rationale(0, 0, writer="nat", rationale="Or else: 2.")


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        ([A, B, B], [], 3),
        ([A, B], [C, B], 2),
        ([A, B], [A, B], 1),  # the same file twice
        ([A, B], [OTHER, C], None),  # of another writer, as the student's own samples beside the teacher's
    ],
)
def test_rationales_that_come_twice(
    tmp_path: Path, tiny_student: Path, first: list[Rationale], second: list[Rationale], line: int | None
) -> None:
    labels = Labels(files(tmp_path, tiny_student, first=first, second=second))
    if line is None:
        labels.check_unique()
        return
    with pytest.raises(InputError, match=r"'q./0' comes twice, first in .*first:[12]\n") as caught:
        labels.check_unique()
    place = str(tmp_path / ("second" if second else "first"))
    assert (caught.value.file, caught.value.line, caught.value.field) == (place, line, "id")


def test_contradicting_verdicts(tmp_path: Path, tiny_student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = [rationale(1, 0, answer="1,000"), rationale(1, 2, answer="7"), rationale(2, 0, answer=None), rationale(3)]
    wrong = [rationale(1, 1, answer="8"), rationale(2, 1, answer="7"), rationale(2, 3, answer=None)]
    contradicting = [*wrong, rationale(1, 5, answer="1000.0")]

    def says(**records: list[Rationale]) -> str:
        labels = Labels(files(tmp_path, tiny_student, **records))
        labels.check_unique()
        capsys.readouterr()
        labels.report_contradictions()
        return capsys.readouterr().err

    assert says(right=right, wrong=wrong) == ""  # another question's 7 is another answer
    assert says(wrong=contradicting) == says(empty=[]) == ""
    told = says(right=right, wrong=contradicting)
    assert told.startswith("warning: 1 answers to a question are right in one rationale and wrong in another, e.g. ")
    assert f"'1,000' in {tmp_path}/right:1, '1000.0' in {tmp_path}/wrong:4; " in told

from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks.sample_parts import SampleOrigin, SamplePart
from dust2gold.core.provenance import Provenance
from tests.records import rationale

RECORDS = [rationale(q, k) for q in range(2) for k in range(2)]
PROMPTS = {record.question_id: f"prompt {record.question_id}" for record in RECORDS}
ORIGIN = SampleOrigin(Provenance({"seed": "0"}), PROMPTS)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    with (tmp_path / "part").open("w", encoding="utf-8") as stream:
        ORIGIN.write_header(stream)
        ORIGIN.write(stream, RECORDS)
    return tmp_path / "part"


def test_what_is_written_is_read_if_it_was_made_from_the_same(part: Path) -> None:
    read = SamplePart.read(part, ORIGIN)
    assert read == SamplePart(part, lines=4, records=RECORDS)
    read = SamplePart.read(part, SampleOrigin(Provenance({"seed": "1", "adapter": "a"}), PROMPTS))
    assert read == SamplePart(part, lines=4, changed=["adapter", "seed"])


def test_an_answer_to_another_prompt_is_never_used(part: Path) -> None:
    first, second = PROMPTS
    read = SamplePart.read(part, SampleOrigin(ORIGIN.made, {**PROMPTS, first: "another prompt"}))
    assert read.changed == ["prompts"]
    assert {record.question_id for record in read.records} == {second}
    read = SamplePart.read(part, SampleOrigin(ORIGIN.made, {second: PROMPTS[second]}))  # the other one is not asked
    assert (read.changed, len(read.records)) == ([], 2)


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b"{}", b'{"made_from": 1}', b"\xff\xfe nothing"])
def test_a_damaged_first_line(part: Path, header: bytes) -> None:
    part.write_bytes(header + b"\n" + part.read_bytes().split(b"\n", 1)[1])
    read = SamplePart.read(part, ORIGIN)
    assert (read.changed, read.lines, read.records) == (["its first line is damaged"], 4, [])


@pytest.mark.parametrize(
    ("damage", "damaged"),
    [
        (lambda line: line[:25] + b"\n", 1),
        (lambda line: line[:25] + b"\n" + line[25:], 2),
        (lambda line: line.replace(b'"rationale": "', b'"rationale": "\xff', 1), 1),
        (lambda line: line.replace(b'"verdict"', b'"verdicT"', 1), 1),
        (lambda line: line.replace(b'"prompt"', b'"promptT"', 1), 1),
        (lambda line: b"1\n", 1),
        (lambda line: b"[" * 100_000 + b"\n", 1),
        (lambda line: b"\0" * (len(line) - 1) + b"\n", 1),
    ],
    ids=["cut", "split", "not UTF-8", "another field", "no prompt", "no object", "too deep", "zeros"],
)
def test_damaged_lines_are_counted(part: Path, damage: Callable[[bytes], bytes], damaged: int) -> None:
    first, one, hit, *others = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([first, one, damage(hit), *others]))
    read = SamplePart.read(part, ORIGIN)
    assert (read.damaged, read.changed) == (damaged, [])
    assert read.records == [RECORDS[0], *RECORDS[2:]]


def test_a_torn_last_line(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-10])
    read = SamplePart.read(part, ORIGIN)
    assert (read.damaged, read.records) == (1, RECORDS[:3])

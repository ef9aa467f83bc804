import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import Dataset, DatasetDict

from dust2gold.core.errors import InputError
from dust2gold.prepare.rows import count_rows, is_folder, read_rows

ROWS: list[dict[str, Any]] = [
    {"question": 'Größer,\nals "3"?', "gold": "4", "samples": ["a", "b"], "correctness": {"llama": [True, None]}},
    *({"question": f"{n}?", "gold": "", "samples": [], "correctness": {"llama": [False]}} for n in range(200)),
]
TEXTS = [{"question": row["question"], "gold": row["gold"]} for row in ROWS]


def as_csv(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write(file: Path) -> list[dict[str, Any]]:
    """Writes the rows as the file's name says and returns what should be read."""
    kind = (file.with_suffix("") if file.suffix in (".gz", ".xz", ".zst") else file).suffix
    if kind == "":
        Dataset.from_list(ROWS).save_to_disk(file)
        return ROWS
    if kind == ".parquet":
        Dataset.from_list(ROWS).to_parquet(file)
        return ROWS
    lines = "\n".join(map(json.dumps, ROWS))
    text = {".csv": as_csv(TEXTS), ".json": json.dumps(ROWS, indent=1)}.get(kind, lines).encode()
    opened: dict[str, Any] = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}
    made = pyarrow.CompressedOutputStream(file, "zstd") if file.suffix == ".zst" else None
    with made or opened.get(file.suffix, open)(file, "wb") as stream:
        stream.write(text)
    return TEXTS if kind == ".csv" else ROWS


@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl",
        "a.jsonl.gz",
        "a.jsonl.xz",
        "a.jsonl.zst",
        "a.json",
        "a.json.gz",
        "a.csv",
        "a.csv.zst",
        "a.parquet",
        "a",
    ],
)
def test_rows_of_each_kind_of_file(tmp_path: Path, name: str) -> None:
    expected = write(tmp_path / name)
    found = list(read_rows(tmp_path / name))
    assert [row for _, row in found] == expected
    lines = [2, *range(4, 204)] if ".csv" in name else range(1, 202)  # the first row's question has two lines
    assert [line for line, _ in found] == list(lines)
    assert count_rows(tmp_path / name) == (201 if "jsonl" in name else None)
    assert is_folder(tmp_path / name) is (name == "a")


def test_json_lines_by_the_name_of_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}\n{"a": 2}\n', encoding="utf-8-sig")
    assert list(read_rows(tmp_path / "a.json")) == [(1, {"a": 1}), (2, {"a": 2})]


def test_of_several_splits_one_is_asked_for(tmp_path: Path) -> None:
    rows = Dataset.from_list(ROWS)
    DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "both")
    with pytest.raises(InputError, match=rf"several splits \(train, test\)\n  give one: {tmp_path}/both/train"):
        list(read_rows(tmp_path / "both"))
    assert len(list(read_rows(tmp_path / "both/train"))) == 201


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b"[1]", r"a.json:1: a JSON object was expected, found int"),
        ("a.json", b'[{"a": 1}, ', r"a.json: not readable as a JSON array \(.*line 1 column"),
        ("a.json", b"[" * 100_000, r"a.json: not readable as a JSON array"),
        ("a.csv", b"a,b\n1,2\n3\n", r"a.csv:3: another number of cells than the 2 columns"),
        ("a.csv", b"a,b\n1,2,3\n", r"a.csv:2: another number of cells than the 2 columns"),
        ("a.csv", b'a,b\n1,2\n3,"4\n', r"a.csv:3: not readable as CSV"),
        ("a.csv", b"a,b\n1,2\n3,\xff\n", r"a.csv.*: not readable as CSV in UTF-8 \(.*0xff"),
        ("a.csv.gz", b"a,b\n1,2\n", r"a.csv.gz:1: not readable as CSV in UTF-8"),
        ("a.parquet", b"PAR1 no", r"a.parquet: not readable as Parquet"),
        ("a.jsonl.zst", b"{}\n" * 20, r"a.jsonl.zst:1: the compressed file is damaged"),
        ("a.jsonl", b"PAR1", r"is Parquet, .*\n  let its name end in .parquet"),
        ("a.csv", None, r"a.csv: no such file"),
        ("a.json", None, r"a.json: no such file"),
        ("a.parquet", None, r"a.parquet: no such file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"(?s){says}"):
        list(read_rows(tmp_path / name))


def test_a_damaged_folder_and_a_cut_zst(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (tmp_path / "a/data-00000-of-00001.arrow").unlink()
    with pytest.raises(InputError, match="not readable as a folder of save_to_disk"):
        list(read_rows(tmp_path / "a"))
    write(tmp_path / "a.jsonl.zst")
    whole = (tmp_path / "a.jsonl.zst").read_bytes()
    (tmp_path / "a.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="the compressed file is damaged"):
        list(read_rows(tmp_path / "a.jsonl.zst"))

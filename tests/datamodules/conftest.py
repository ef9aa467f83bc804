"""What the tests of the DataModules share: files of both verdicts, and DataModules that have read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.records.records import write_rationales
from tests.records import rationale


@pytest.fixture
def both(tmp_path: Path) -> list[str]:
    """12 questions with 3 right and 4 wrong rationales; q12 has only right ones, q13 only wrong ones."""
    files = tmp_path / "positive.jsonl", tmp_path / "negative.jsonl"
    write_rationales(files[0], [rationale(q, k) for q in range(13) for k in (0, 2, 4)])
    write_rationales(files[1], [rationale(q, k) for q in (*range(12), 13) for k in (1, 3, 5, 7)])
    return [str(file) for file in files]


@pytest.fixture
def make(tiny_student: Path, both: list[str]) -> Callable[..., Any]:
    """Makes a DataModule of a class and sets it up; for files: "positive", "wrong", "others", as they lie there."""
    named = {"positive": both[0], "wrong": both[1], "others": str(Path(both[0]).with_name("others.jsonl"))}
    write_rationales(Path(named["others"]), [rationale(20, k) for k in range(2)])

    def build(kind: Any, stage: str = "fit", **options: Any) -> Any:
        settings: Any = {"train": both, "batch_size": 5, "validation_fraction": 0.0, **options}
        data = kind(
            str(tiny_student), **{n: v if n == "verdicts" else named.get(str(v), v) for n, v in settings.items()}
        )
        data.setup(stage)
        return data

    return build

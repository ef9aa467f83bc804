"""What all tests share: an offline machine with few threads, a tiny student, the real data where there is any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.students import write_tiny_student

# Before torch, transformers and tokenizers are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more only slows models this small

REPOSITORY = Path(__file__).parents[1]
DATA = Path(os.environ.get("DUST2GOLD_DATA") or REPOSITORY.parent / "shared" / "data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that uses the fixture `real_data`, and skips the marked ones where there is no data."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")
        if item.get_closest_marker("real_data") and not DATA.is_dir():
            item.add_marker(
                pytest.mark.skip(reason=f"no directory {DATA}: set DUST2GOLD_DATA to where the data sets are")
            )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of the published data sets."""
    return DATA


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory: a random LLaMA of 2 layers with grouped-query attention, and a tokenizer of 320 pieces.

    All tests of a session share it: do not write into it.
    """
    directory = tmp_path_factory.mktemp("tiny_student")
    write_tiny_student(directory)
    return directory

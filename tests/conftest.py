"""What all tests share: an offline machine with few threads, a tiny student, the real data where there is any."""

import gc
import os
from collections.abc import Callable
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
    """The directory of the tiny student, shared by all tests of a session: do not write into it."""
    directory = tmp_path_factory.mktemp("tiny_student")
    write_tiny_student(directory)
    return directory


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Works in a temporary directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must fail and returns what it says: two lines, the second one the way out."""

    def run(*words: str) -> str:
        from dust2gold import cli

        capsys.readouterr()
        assert cli.main(list(words)) == 1
        gc.collect()  # whatever an abandoned object has to say, a progress bar say, it says now
        err = capsys.readouterr().err
        assert "Traceback" not in err
        said = err[err.index("dust2gold: error: ") :].rstrip("\n").split("\n")
        assert len(said) == 2, said
        assert said[1].startswith("  ")
        assert len(said[1].strip()) > 10
        return "\n".join(said)

    return run

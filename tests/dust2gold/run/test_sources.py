"""What of our code each verb rests on, as its imports say."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dust2gold.core.provenance import LIBRARIES, OURS
from dust2gold.run import sources
from dust2gold.run.sources import facts_of

PACKAGES = (*OURS, "dust2gold/commands", "dust2gold/core", "dust2gold/report")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small code root: a trainer, a stage, a report and what they import."""
    for name, text in {
        "lightning_modules/nat.py": "import torch",
        **{f"{package}/__init__.py": "" for package in PACKAGES},
        "datamodules/data.py": "def f():\n    from dust2gold.core.text import x",
        "dust2gold/core/text.py": "",
        "dust2gold/core/other.py": "",
        "dust2gold/report/figures.py": "from math_verify import parse",
        "dust2gold/commands/trainer.py": "import os\nfrom dust2gold.core import other\nimport transformers.models",
        "dust2gold/commands/export_data.py": "from dust2gold.report.figures import draw",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sources, "CODE_ROOT", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """What a new process would read anew."""
    sources._reached.cache_clear()
    sources._hash.cache_clear()


def code_in(*places: str) -> set[str]:
    return {f"code in {place}" for place in places}


def test_a_verb_rests_on_what_it_imports_and_on_nothing_else(code: Path) -> None:
    ours = ("callbacks", "datamodules", "dust2gold", "dust2gold/commands", "dust2gold/core", "lightning_modules")
    libraries = {f"version of {library}" for library in ("tokenizers", "torch", "transformers")}
    assert set(facts_of(["fit"])) == code_in(*ours) | libraries
    grading = {"version of math-verify", "version of sympy"}
    reporting = code_in("dust2gold", "dust2gold/commands", "dust2gold/report")
    assert set(facts_of(["export-data"])) == reporting | grading
    assert code_in("dust2gold/report", "callbacks") < set(facts_of(["no-such-verb"])), "all of our code"


@pytest.mark.parametrize(
    ("file", "verb", "changed"),
    [
        ("datamodules/data.py", "fit", code_in("datamodules")),
        ("dust2gold/report/figures.py", "fit", set()),
        ("dust2gold/report/figures.py", "export-data", code_in("dust2gold/report")),
        ("tests/test.py", "fit", set()),
        ("datamodules/data.json", "fit", set()),
    ],
)
def test_a_change_is_noticed_where_it_counts(code: Path, file: str, verb: str, changed: set[str]) -> None:
    before = facts_of([verb])
    (code / file).parent.mkdir(exist_ok=True)
    with (code / file).open("a") as stream:
        stream.write("\nx = 1\n")
    assert facts_of([verb]) == before, "within a process"
    forget()
    after = facts_of([verb])
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} == changed


def test_training_does_not_rest_on_figures_nor_the_report_on_training() -> None:
    training, report = facts_of(["fit"]), facts_of(["report"])
    parts = tuple(f"code in dust2gold/{part}" for part in ("report", "interchange", "demo", "collect"))
    assert not any(name.startswith(parts) for name in training)
    files, _ = sources._reached("fit")
    assert not {f"dust2gold/run/{name}.py" for name in ("stage", "plan", "runner", "method", "tables")} & files
    assert not code_in("callbacks", "lightning_modules/components/losses") & set(report)
    assert {f"version of {name}" for name in LIBRARIES} <= set(training)
    assert not any(name.startswith("version of") for name in facts_of(["generate"]).keys() - training.keys())

"""The table of what each verb rests on, against what its modules import."""

from __future__ import annotations

from pathlib import Path

import pytest

from dust2gold import cli
from dust2gold.run.basis import BASES, Installed, version_of
from dust2gold.run.fingerprint import CODE_ROOT
from tests.imports import imported

DECIDING = {
    "lightning": "lightning",
    "math_verify": "math-verify",
    "peft": "peft",
    "sympy": "sympy",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "transformers": "transformers",
}
"""Modules of others that decide results, and their distributions; `tokenizers` comes with `transformers`."""

WORDS = {"dust2gold/commands/config_errors.py"}
"""Modules that word messages, or refuse, and decide nothing."""

TRAINER = "dust2gold.commands.trainer"


def module_file(name: str) -> Path | None:
    path = CODE_ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def reached(names: list[str]) -> tuple[set[str], set[str]]:
    """Our files that modules import, directly or not, wherever in a file; and the libraries that decide results."""
    files: set[str] = set()
    libraries: set[str] = set()
    while names:
        name = names.pop()
        file = module_file(name)
        if file is None:
            libraries |= {DECIDING[top] for top in [name.partition(".")[0]] if top in DECIDING}
            continue
        place = file.relative_to(CODE_ROOT).as_posix()
        if place not in files and place not in WORDS:
            files.add(place)
            names += imported(file)
    return files, libraries | ({"tokenizers"} if "transformers" in libraries else set())


def roots(verb: str) -> list[str]:
    """The module of a verb; of the Trainer's verbs also every class that a config may name."""
    if verb not in cli.TRAINER_VERBS:
        return [cli.VERBS[verb].module]
    packages = ("callbacks", "datamodules", "lightning_modules")
    files = [file.relative_to(CODE_ROOT) for package in packages for file in (CODE_ROOT / package).rglob("*.py")]
    return [TRAINER, *(".".join(file.with_suffix("").parts) for file in files)]


def test_every_verb_that_a_stage_may_run_is_in_the_table() -> None:
    assert set(BASES) == set(cli.VERBS) - {"run"}


@pytest.mark.parametrize("verb", BASES)
def test_a_verb_rests_on_all_that_it_imports_and_on_nothing_else(verb: str) -> None:
    files, libraries = reached(roots(verb))
    parts = BASES[verb].code
    assert [file for file in files if not any(file == part or file.startswith(f"{part}/") for part in parts)] == []
    assert [part for part in parts if not any(file == part or file.startswith(f"{part}/") for file in files)] == []
    assert libraries == set(BASES[verb].libraries)


def test_training_does_not_rest_on_figures_nor_the_report_on_training() -> None:
    assert not {"dust2gold/report", "dust2gold/run", "dust2gold/interchange", "dust2gold/demo"} & set(BASES["fit"].code)
    assert not {"callbacks", "datamodules", "lightning_modules"} & set(BASES["report"].code)


def test_a_part_s_hash_covers_its_source_and_nothing_else(tmp_path: Path) -> None:
    def write(name: str, text: str = "1") -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    for name in (
        "dust2gold/core/y.py",
        "datamodules/components/x.py",
        "datamodules/z.py",
        "dust2gold/report/figures.py",
    ):
        write(name)
    code = Installed(tmp_path).code
    first, prepared = code(["fit"]), code(["augment"])
    assert set(code(["fit", "augment"])) == {*first, "dust2gold/commands/augment.py"}, (
        "a part within another is not named twice"
    )
    for name in ("tests/z.py", "datamodules/data.json", "datamodules/__pycache__/x.pyc", "dust2gold/report/a.py"):
        write(name)
    write("dust2gold/report/figures.py", "2")
    assert Installed(tmp_path).code(["fit"]) == first
    write("datamodules/z.py", "2")
    changed = Installed(tmp_path).code(["fit"])
    assert {name for name in first if first[name] != changed[name]} == {"datamodules"}
    assert Installed(tmp_path).code(["augment"]) == prepared
    write("datamodules/components/x.py", "2")
    assert Installed(tmp_path).code(["augment"]) != prepared


def test_libraries_count_by_their_public_version() -> None:
    found = Installed().libraries(["fit"])
    assert found["torch"] == version_of("torch").partition("+")[0]
    assert all(found.values())
    assert Installed().libraries(["augment"]) == {}
    assert version_of("no-such-library") == "none"

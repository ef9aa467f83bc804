"""The arrows of docs/architecture.md: who may import whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.imports import imported

REPOSITORY = Path(__file__).parents[1]
LOWER = {"lightning_modules", "datamodules", "foundation"}
UPPER = {"analyses", "benchmarks", "callbacks", "pipeline", "embedded", "interchange"}
LIGHTNING = {"lightning", "pytorch_lightning"}
FORBIDDEN = {
    "foundation": {"cli", *UPPER, *LOWER} - {"foundation"},
    "lightning_modules": {"cli", "datamodules", *UPPER},
    "lightning_modules/components": LIGHTNING,
    "datamodules": {"cli", "lightning_modules", *UPPER},
    "datamodules/components": LIGHTNING,
    **{package: {"cli", "benchmarks"} - {package} for package in UPPER},
    "benchmarks": {"cli"},
    "analyses": {"cli", "matplotlib", *LIGHTNING, *UPPER} - {"analyses"},
}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_follow_the_arrows(package: str) -> None:
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files, f"{package} has no Python files: is FORBIDDEN out of date?"
    crossings = [
        f"{file.relative_to(REPOSITORY)} imports {name}"
        for file in files
        for name in imported(file)
        if name.partition(".")[0] in FORBIDDEN[package]
    ]
    assert crossings == []


@pytest.mark.parametrize("package", ["lightning_modules", "datamodules"])
def test_components_import_only_components_of_their_package(package: str) -> None:
    """Otherwise they would import lightning after all, through a neighbour that does."""
    own = [name for file in (REPOSITORY / package / "components").rglob("*.py") for name in imported(file)]
    assert [n for n in own if n.partition(".")[0] == package and not n.startswith(f"{package}.components")] == []

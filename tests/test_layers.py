"""The arrows of docs/architecture.md: who may import whom."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.imports import imported

REPOSITORY = Path(__file__).parents[1]
LIGHTNING = {"lightning", "pytorch_lightning"}
ABOVE_CORE = {
    "cli",
    "benchmarks",
    "callbacks",
    "datamodules",
    "lightning_modules",
    "dust2gold.cli",
    "dust2gold.collect",
    "dust2gold.commands",
    "dust2gold.demo",
    "dust2gold.interchange",
    "dust2gold.prepare",
    "dust2gold.report",
    "dust2gold.run",
}
UPPER = ABOVE_CORE - {"datamodules", "lightning_modules"}
FORBIDDEN = {
    "dust2gold/core": ABOVE_CORE,
    "lightning_modules": {"datamodules", *UPPER},
    "lightning_modules/components": LIGHTNING,
    "datamodules": {"lightning_modules", *UPPER},
    "datamodules/components": LIGHTNING,
    "callbacks": UPPER - {"callbacks"},
    "dust2gold/report/analyses": {"matplotlib", *LIGHTNING, *UPPER} - {"dust2gold.report"},
    "dust2gold": {"cli", "benchmarks"},
    "dust2gold/commands": {"dust2gold.cli"},
    **{
        f"dust2gold/{room}": {"dust2gold.cli", "dust2gold.commands"}
        for room in ("demo", "interchange", "report", "run")
    },
    "benchmarks": {"cli", "dust2gold.cli"},
}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_follow_the_arrows(package: str) -> None:
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files, f"{package} has no Python files: is FORBIDDEN out of date?"
    crossings = [
        f"{file.relative_to(REPOSITORY)} imports {name}"
        for file in files
        for name in imported(file)
        if any(name == other or name.startswith(f"{other}.") for other in FORBIDDEN[package])
    ]
    assert crossings == []


@pytest.mark.parametrize("package", ["lightning_modules", "datamodules"])
def test_components_import_only_components_of_their_package(package: str) -> None:
    """Otherwise they would import lightning after all, through a neighbour that does."""
    own = [name for file in (REPOSITORY / package / "components").rglob("*.py") for name in imported(file)]
    assert [n for n in own if n.partition(".")[0] == package and not n.startswith(f"{package}.components")] == []


@pytest.mark.xfail(reason="sampling/decoder.py takes SamplingSettings from sampler.py, which imports it")
def test_no_module_imports_one_that_imports_it() -> None:
    """Not even for types."""
    packages = ("callbacks", "datamodules", "dust2gold", "lightning_modules")
    modules = {
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts): file
        for package in packages
        for file in (REPOSITORY / package).rglob("*.py")
        if file.name != "__init__.py"
    }
    imports = {module: {name for name in imported(file) if name in modules} for module, file in modules.items()}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))

"""The picture of docs/architecture.md against the imports of the code: who may import whom, and no circles."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.imports import imported

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("callbacks", "datamodules", "dust2gold", "lightning_modules")
DOCUMENT = REPOSITORY / "docs/architecture.md"
_NODE = re.compile(r'(\w+)\["([^"]+)"\]')
_ARROW = re.compile(r"^\s*(\w+)(?:\[[^\]]*\])? --> (\w+)", re.MULTILINE)


def drawn() -> dict[str, set[str]]:
    """For each part of the picture, by its path, the parts its arrows lead to."""
    picture = DOCUMENT.read_text(encoding="utf-8").partition("```mermaid")[2].partition("```")[0]
    paths = dict(_NODE.findall(picture))
    arrows: dict[str, set[str]] = {path: set() for path in paths.values()}
    for start, end in _ARROW.findall(picture):
        arrows[paths[start]].add(paths[end])
    return arrows


def module_files() -> dict[str, Path]:
    """Every module of ours that ships, by its name."""
    files = [file for package in PACKAGES for file in sorted((REPOSITORY / package).rglob("*.py"))]
    return {
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): file for file in files
    }


def module_imports() -> dict[str, set[str]]:
    """For each module the modules of ours it imports, also for types and within functions."""
    files = module_files()
    return {name: {other for other in imported(file) if other in files} - {name} for name, file in files.items()}


def part_of(module: str, parts: list[str]) -> str:
    """The innermost part of the picture that a module stands in."""
    path = module_files()[module].relative_to(REPOSITORY).as_posix()
    inside = [part for part in parts if path == part or path.startswith(f"{part}/")]
    return max(inside, key=len, default="")


def closure(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """What each node reaches along the arrows (Warshall)."""
    reach = {name: set(others) for name, others in graph.items()}
    for middle in graph:
        for others in reach.values():
            if middle in others:
                others |= reach[middle]
    return reach


def crossings() -> dict[tuple[str, str], str]:
    """The imports between parts of the picture, each with an example."""
    parts = list(drawn())
    found: dict[tuple[str, str], str] = {}
    for name, others in module_imports().items():
        for other in others:
            edge = part_of(name, parts), part_of(other, parts)
            if edge[0] != edge[1] and "" not in edge:
                found[edge] = f"{name} imports {other}"
    return found


def test_every_module_stands_in_a_part_of_the_picture() -> None:
    parts = list(drawn())
    assert [name for name in module_files() if name != "dust2gold" and not part_of(name, parts)] == []


def test_every_import_follows_arrows_and_every_arrow_is_an_import() -> None:
    reach, found = closure(drawn()), crossings()
    assert [example for (start, end), example in found.items() if end not in reach[start]] == []
    # dust2gold/cli.py finds its commands by name (import_module), which nothing here can see.
    arrows = {(start, end) for start, ends in drawn().items() for end in ends}
    assert arrows - found.keys() == {("dust2gold/cli.py", "dust2gold/commands")}


@pytest.mark.parametrize("graph", [drawn, module_imports])
def test_there_is_no_circle(graph: Callable[[], dict[str, set[str]]]) -> None:
    assert [name for name, reached in closure(graph()).items() if name in reached] == []


def test_modules_and_data_never_meet() -> None:
    """The batch is the contract."""
    reach = closure(drawn())
    assert "datamodules" not in reach["lightning_modules"]
    assert "lightning_modules" not in reach["datamodules"]


@pytest.mark.parametrize("package", ["lightning_modules", "datamodules"])
def test_components_import_one_way_and_never_lightning(package: str) -> None:
    prefix = f"{package}.components."
    rooms: dict[str, set[str]] = {}
    for name, others in module_imports().items():
        if name.startswith(prefix):
            room = name.removeprefix(prefix).partition(".")[0]
            own = {other for other in others if other.partition(".")[0] == package}
            assert all(other.startswith(f"{package}.components") for other in own), name
            rooms.setdefault(room, set()).update({o.removeprefix(prefix).partition(".")[0] for o in own} - {room})
            foreign = {other.partition(".")[0] for other in imported(module_files()[name])}
            assert not foreign & {"lightning", "pytorch_lightning"}, name
    assert len(rooms) > 3
    assert [room for room, reached in closure(rooms).items() if room in reached] == []


def test_nobody_imports_the_benchmarks_and_analyses_import_no_figures() -> None:
    for name, file in module_files().items():
        foreign = {other.partition(".")[0] for other in imported(file)}
        assert not foreign & {"benchmarks", "cli", "tests"}, name
        if name.startswith("dust2gold.report.analyses."):
            assert "matplotlib" not in foreign, name

"""No import circle, not even one that only types close (`if TYPE_CHECKING`) or that a function's import puts off."""

from __future__ import annotations

from pathlib import Path

from tests.imports import imported

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("dust2gold", "lightning_modules", "datamodules", "callbacks")


def import_graph() -> dict[str, set[str]]:
    """Of every module, the modules of ours that it imports."""
    files = {}
    for file in [REPOSITORY / "cli.py", *(f for name in PACKAGES for f in (REPOSITORY / name).rglob("*.py"))]:
        files[".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")] = file
    return {name: {other for other in imported(file) if other in files} - {name} for name, file in files.items()}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that reach each other (strongly connected, by removing leaves and roots, then by reach)."""
    reach = {name: set(others) for name, others in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    found = [{other for other in reach[name] if name in reach[other]} for name in graph if name in reach[name]]
    return [circle for number, circle in enumerate(found) if circle not in found[:number]]


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [{"b", "c"}]


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = import_graph()
    assert len(graph) > 100
    assert [sorted(circle) for circle in circles(graph)] == []

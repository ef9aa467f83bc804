"""No import circle, not even one that only types (`if TYPE_CHECKING`) or an import within a function would close."""

from __future__ import annotations

from pathlib import Path

from tests.imports import imported

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("dust2gold", "lightning_modules", "datamodules", "callbacks")
COMPONENTS = "lightning_modules.components."


def import_graph() -> dict[str, set[str]]:
    """For every module, the modules of ours that it imports."""
    files = {}
    for file in [REPOSITORY / "cli.py", *(f for name in PACKAGES for f in (REPOSITORY / name).rglob("*.py"))]:
        files[".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")] = file
    return {name: {other for other in imported(file) if other in files} - {name} for name, file in files.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of names that can all reach each other, by the transitive closure (Warshall)."""
    reach = {name: set(others) for name, others in graph.items()}
    for middle in graph:
        for others in reach.values():
            if middle in others:
                others |= reach[middle]
    found = [sorted(n for n in reach[name] if name in reach[n]) for name in graph if name in reach[name]]
    return [group for number, group in enumerate(found) if group not in found[:number]]


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = import_graph()
    assert len(graph) > 100
    assert circles(graph) == []


def test_the_rooms_of_the_modules_components_import_one_way() -> None:
    rooms: dict[str, set[str]] = {}
    for name, others in import_graph().items():
        if name.startswith(COMPONENTS):
            room = name.removeprefix(COMPONENTS).partition(".")[0]
            found = {other.removeprefix(COMPONENTS).partition(".")[0] for other in others if COMPONENTS in other}
            rooms[room] = rooms.get(room, set()) | found - {room}
    assert {"adapters", "losses"} <= rooms.keys()
    assert circles(rooms) == []

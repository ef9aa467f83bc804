import pytest

from dust2gold.run.record import duration
from tests.dust2gold.run.conftest import FIT, World


def test_record_says_what_made_what_from_what(world: World) -> None:
    world.run()
    record, data = world.record("fit"), world.record("data")
    assert (record["state"], set(record["outputs"])) == ("done", {"runs/t/fit/3.txt"})
    assert record["commands"][0]["command"].startswith("join --config conf/fit.yaml")
    assert all(command["done"] and command["seconds"] >= 0 for command in record["commands"])
    facts = record["made_from"]
    assert {name: facts[f"input {name}"] for name in data["outputs"]} == data["outputs"]
    assert (facts["stage data"], facts["version of torch"]) == (data["key"], "2.0")
    assert [name for name in facts if name.startswith("config ")] == ["config conf/fit.yaml"]


def test_unreadable_record_counts_as_not_done(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    changed = world.record_file("fit").read_text().replace('"command 1"', '"command 9"')
    for damage in ("{", "[]", '{"schema": 1}', changed):
        world.record_file("fit").write_text(damage)
        assert world.run() == FIT
        assert "fit.json: unreadable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3720, "1 h 02 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text

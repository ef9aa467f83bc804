from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from dust2gold.core.errors import InputError
from dust2gold.run.settings import RunSettings, load_settings


@dataclass(frozen=True)
class OwnSettings(RunSettings):
    greeting: str = "hello"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, **overrides: str) -> OwnSettings:
    Path("r.yaml").write_text(text)
    return load_settings("r.yaml", overrides, OwnSettings)


def test_values_have_their_fields_types() -> None:
    settings = load("run: r\nsamples: 3\nslips: 1\nlevels: 2\nrank_data: [a, b]\ntest_data: x\ngreeting: hi\n")
    assert (settings.samples, settings.levels, settings.rank_data) == (3, "2", ("a", "b"))
    assert isinstance(settings.slips, float)
    assert (settings.greeting, settings.votes, settings.test_limit) == ("hi", 16, None)


def test_overrides_are_read_as_the_file_is() -> None:
    typed = {"samples": "5", "test_limit": "7", "tables": "true", "rank_data": "[a, b]", "levels": "1,2"}
    settings = load("run: r\ntest_data: x\n", **typed, test_data="null", student="it's: [odd")
    assert (settings.samples, settings.test_limit, settings.tables) == (5, 7, True)
    assert (settings.rank_data, settings.levels, settings.test_data) == (("a", "b"), "1,2", None)
    assert settings.student == "it's: [odd"


@pytest.mark.parametrize(
    ("text", "line", "field", "problem"),
    [
        ("run: r\nsampels: 3", 2, "sampels", "no such field\n  did you mean 'samples'? the fields are run, student"),
        ("run: r\n1: 3", 2, "1", "no such field"),
        ("run: r\nsamples: many", 2, "samples", "a whole number was expected, found 'many'"),
        ("run: r\nsamples: true", 2, "samples", "a whole number was expected, found True"),
        ("run: r\ntest_limit: 1.5", 2, "test_limit", "a whole number or null was expected, found 1.5"),
        ("run: r\nslips: [1]", 2, "slips", "a number was expected"),
        ("run: r\nstudent: null", 2, "student", "a text was expected, found None"),
        ("run: r\nrank_data: a", 2, "rank_data", "a list of texts was expected"),
        ("run: r\nrank_data: [1]", 2, "rank_data", "a list of texts was expected"),
        ("samples: 3", None, "run", "is missing"),
        ("[]", None, None, "a mapping was expected, found list"),
        ("", None, None, "a mapping was expected, found null"),
        ("run: [\n", 2, None, "not YAML"),
        ("run: \x00\n", None, None, "not YAML"),
    ],
)
def test_errors_name_file_line_and_field(text: str, line: int | None, field: str | None, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        load(text)
    assert (caught.value.file, caught.value.line, caught.value.field) == ("r.yaml", line, field)
    assert problem in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("sampels", "3", "--set sampels=...: no such field\n  did you mean 'samples'?"),
        ("samples", "many", "field 'samples': a whole number was expected"),
        ("samples", "[", "--set samples=[: not a YAML value"),
        ("run", "x", "use --run DIR"),
    ],
)
def test_errors_of_overrides(name: str, value: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        load("run: r", **{name: value})
    assert problem in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(InputError, match="no such file"):
        load_settings("none.yaml", {}, RunSettings)

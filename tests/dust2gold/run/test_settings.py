from dataclasses import dataclass
from pathlib import Path

import pytest

from dust2gold.core.errors import InputError
from dust2gold.run.settings import RunSettings, load_settings

pytestmark = pytest.mark.usefixtures("elsewhere")


@dataclass(frozen=True)
class OwnSettings(RunSettings):
    greeting: str = "hello"


def load(text: str, **overrides: str) -> OwnSettings:
    Path("r.yaml").write_text(text)
    return load_settings("r.yaml", overrides, OwnSettings)


def test_values_have_their_fields_types() -> None:
    text = "run: r\nsamples: 3\nnotation: 1\nlevels: '2'\nrank_data: [a, b]\ntest_data: x\ngreeting: hi\n"
    expected = OwnSettings("r", samples=3, notation=1.0, levels="2", rank_data=("a", "b"), test_data="x", greeting="hi")
    assert load(text) == expected
    assert isinstance(load(text).notation, float)


def test_overrides_are_read_as_the_file_is() -> None:
    typed = {"samples": "5", "test_limit": "7", "rows": "[kd]", "rank_data": "[a, b]", "levels": "1"}
    expected = OwnSettings("r", "it's: [odd", samples=5, test_limit=7, rows=("kd",), rank_data=("a", "b"), levels="1")
    assert load("run: r\ntest_data: x\n", **typed, test_data="null", student="it's: [odd") == expected


@pytest.mark.parametrize(
    ("text", "line", "field", "problem"),
    [
        ("run: r\nsampels: 3", 2, "sampels", "no such option\n  did you mean 'samples'? see dust2gold run --help"),
        ("run: r\nsamples: many", 2, "samples", "int was expected, found many"),
        ("run: r\nsamples: true", 2, "samples", "int was expected, found True"),
        ("run: r\ntest_limit: 1.5", 2, "test_limit", "int was expected, found 1.5"),
        ("run: r\nnotation: [1]", 2, "notation", "float was expected, found [1]"),
        ("run: r\nlevels: 2", 2, "levels", "str was expected, found 2"),
        ("run: r\nstudent: null", 2, "student", "a value was expected, found null"),
        ("run: r\nrank_data: a", 2, "rank_data", "tuple was expected, found a"),
        ("run: r\nrank_data: [1]", 2, "rank_data", "str was expected, found 1"),
        ("samples: 3", None, None, "arguments are required: run\n  complete the config"),
        ("[]", None, None, "a mapping was expected, found list"),
        ("", None, None, "a mapping was expected, found NoneType"),
        ("run: [\n", 2, None, "not YAML"),
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
        ("sampels", "3", "field 'sampels': no such option\n  did you mean 'samples'?"),
        ("samples", "many", "field 'samples': int was expected, found many"),
        ("samples", "[", "field 'samples': int was expected, found ["),
        ("run", "x", "use --run DIR"),
    ],
)
def test_errors_of_overrides(name: str, value: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        load("run: r", **{name: value})
    assert problem in str(caught.value)

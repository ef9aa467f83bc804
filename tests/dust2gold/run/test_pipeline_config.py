from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dust2gold.core.errors import InputError
from dust2gold.run.config import Pipeline, load_pipeline
from dust2gold.run.stage import as_typed
from dust2gold.run.template import substitute


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, **extra: Any) -> Pipeline:
    Path("p.yaml").write_text(text)
    return load_pipeline(Path("p.yaml"), **extra)


def stage(name: str, more: str = "", command: str = "go") -> str:
    return f"  - {{name: {name}, commands: ['{command}']{', ' + more if more else ''}}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{run}/x", "r/x"),
        ("{a}{a}", "two wordstwo words"),
        ("{{run}}", "{run}"),
        ('{"lr": {"b": 1}}', '{"lr": {"b": 1}}'),
        ("{} {1} {lr: 2} {run", "{} {1} {lr: 2} {run"),
    ],
)
def test_substitution_touches_only_names(text: str, expected: str) -> None:
    assert substitute(text, {"run": "r", "a": "two words"}, file=Path("f"), field="k") == expected


def test_values_with_spaces_stay_one_word() -> None:
    pipeline = load(
        'run: r\nvariables: {q: "it\'s two", n: 3, f: true}\nstages:\n' + stage("a", command="do {q} x={q} {n} {f}")
    )
    command = pipeline.stages[0].commands[0]
    assert command == ("do", "it's two", "x=it's two", "3", "true")
    assert as_typed(command) == """python cli.py do 'it'"'"'s two' 'x=it'"'"'s two' 3 true"""


def test_variables_use_earlier_ones_and_are_overridden() -> None:
    text = "run: r\nvariables: {base: '{run}/b', deep: '{base}/d'}\nstages:\n" + stage("a", command="go {deep}")
    assert load(text).stages[0].commands == (("go", "r/b/d"),)
    assert load(text, overrides={"base": "{run}/c"}).stages[0].commands == (("go", "r/c/d"),)
    assert load(text, run=Path("q")).stages[0].commands == (("go", "q/b/d"),)


def test_variables_may_stand_in_any_order() -> None:
    text = "run: r\nvariables: {deep: '{base}/d', base: '{run}/b'}\nstages:\n" + stage("a", command="go {deep}")
    assert load(text).stages[0].commands == (("go", "r/b/d"),)


def test_starred_name_is_as_many_words_as_were_written() -> None:
    text = "run: my run\nvariables: {base: '--student {run}/s --name \"a b\"', all: '{*base} --x', none: ''}\nstages:\n"
    pipeline = load(text + stage("a", command="go {*all} {*none} {base} z={*none} {{*base}}"))
    base = ("--student", "my run/s", "--name", "a b")
    assert pipeline.stages[0].commands == (("go", *base, "--x", '--student my run/s --name "a b"', "z=", "{*base}"),)


TEMPLATE = """
run: r
variables: {seed: 1}
templates:
  fitted:
    about: fits {stage}
    parameters: {train: null, options: "", rate: "{seed}e-4"}
    needs: [data]
    commands: ["fit --to {run}/{stage} --lr {rate} {*options} {train}"]
    outputs: ["{run}/{stage}/adapter"]
stages:
  - {name: data, commands: [go]}
"""


def test_template_says_what_stages_share() -> None:
    pipeline = load(
        TEMPLATE
        + "  - {name: one, template: fitted, with: {train: x y}}\n"
        + "  - {name: two, template: fitted, needs: [one], about: own,"
        " with: {train: '[{run}/b, c]', options: '--a {seed} --b', rate: 5}}\n"
    )
    _, one, two = pipeline.stages
    assert (one.about, one.needs, one.outputs) == ("fits one", ("data",), ("r/one/adapter",))
    assert one.commands == (("fit", "--to", "r/one", "--lr", "1e-4", "x y"),)
    assert (two.about, two.needs, two.outputs) == ("own", ("one",), ("r/two/adapter",))
    assert two.commands == (("fit", "--to", "r/two", "--lr", "5", "--a", "1", "--b", "[r/b, c]"),)
    assert one.directories == ("r/one",)


@pytest.mark.parametrize(
    ("more", "field", "problem"),
    [
        ("with: {}", "stages.s.with.train", "is missing"),
        ("with: {train: x, lr: 1}", "stages.s.with.lr", "unknown key"),
        ("with: {train: '{no}'}", "stages.s.with.train", "unknown variable '{no}'"),
        ("with: {train: [1]}", "stages.s.with.train", "found list"),
        ("with: 3", "stages.s.with", "a mapping was expected"),
    ],
)
def test_parameters_are_checked(more: str, field: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        load(TEMPLATE + f"  - {{name: s, template: fitted, {more}}}\n")
    assert caught.value.field == field
    assert problem in str(caught.value)


def test_template_errors_name_the_file_they_stand_in() -> None:
    Path("t.yaml").write_text("templates:\n  t: {commands: ['go {no}']}\n")
    with pytest.raises(InputError) as caught:
        load("run: r\ninclude: t.yaml\nstages:\n  - {name: s, template: t}\n")
    assert (caught.value.file, caught.value.field) == ("t.yaml", "templates.t.commands")


def test_a_stage_that_needs_all_comes_last() -> None:
    text = "run: r\nstages:\n" + stage("end", "needs: ['*']") + stage("b", "needs: [a]") + stage("a")
    pipeline = load(text)
    assert [found.name for found in pipeline.stages] == ["a", "b", "end"]
    assert pipeline.stages[2].needs == ("b", "a")


def test_include_is_relative_own_stages_and_variables_come_first() -> None:
    Path("sub").mkdir()
    Path("sub/more.yaml").write_text("variables: {x: theirs, y: theirs}\nstages:\n" + stage("b", command="go {x} {y}"))
    Path("sub/p.yaml").write_text("run: r\ninclude: more.yaml\nvariables: {x: ours}\nstages:\n" + stage("a"))
    pipeline = load_pipeline(Path("sub/p.yaml"))
    assert [found.name for found in pipeline.stages] == ["a", "b"]
    assert pipeline.stages[1].commands == (("go", "ours", "theirs"),)
    assert pipeline.stages[1].file == Path("sub/more.yaml")


def test_stages_follow_their_needs_and_otherwise_the_file() -> None:
    text = (
        "run: r\nstages:\n" + stage("c", "needs: [b]") + stage("x") + stage("b", "needs: [a]") + stage("a") + stage("z")
    )
    assert [found.name for found in load(text).stages] == ["x", "a", "b", "c", "z"]


def test_configs_named_in_commands() -> None:
    text = "run: r\nstages:\n" + stage(
        "a", command="fit --config 1.yaml --config=2.yaml -c 3.yaml --config 1.yaml --config"
    )
    assert load(text).stages[0].configs == ("1.yaml", "2.yaml", "3.yaml")


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("run: r\nstage: []", "stage", "unknown key"),
        ("[]", None, "a mapping was expected, found list"),
        ("", None, "a mapping was expected, found nothing"),
        ("stages:\n" + stage("a"), "run", "is missing"),
        ("run: r", "stages", "there is none"),
        ("run: r\nstages:\n" + stage("a", "need: [b]"), "stages.a.need", "unknown key"),
        ("run: r\nstages:\n" + stage("a", "needs: [b]"), "stages.a.needs", "needs 'b', which is no stage"),
        ("run: r\nstages:\n" + stage("a") + stage("a"), "stages.a", "two stages have this name"),
        ("run: r\nstages:\n" + stage("a", "needs: [b]") + stage("b", "needs: [a]"), "stages.a.needs", "a -> b -> a"),
        ("run: r\nstages:\n" + stage("z", "needs: [a]") + stage("a", "needs: [a]"), "stages.z.needs", "circle: a -> a"),
        ("run: r\nstages:\n" + stage("a", command="go {no}"), "stages.a.commands", "unknown variable '{no}'"),
        ("run: r\nstages:\n" + stage("a", "inputs: ['{no}']"), "stages.a.inputs", "unknown variable '{no}'"),
        ("run: r\nvariables: {a: '{c}', b: 1}\nstages:\n" + stage("a"), "variables.a", "unknown variable '{c}'"),
        ("run: r\nvariables: {a: '{b}', b: '{a}'}\nstages:\n" + stage("a"), "variables.a", "in a circle: a, b"),
        ("run: r\nvariables: {stage: x}\nstages:\n" + stage("a"), "variables.stage", "each stage's own name"),
        ("run: r\nvariables: {a: '\"'}\nstages:\n" + stage("a", command="go {*a}"), "stages.a.commands", "be split"),
        ("run: r\nstages:\n" + stage("a", command="go {*no}"), "stages.a.commands", "unknown variable '{no}'"),
        ("run: r\nstages:\n" + stage("a", "template: t"), "stages.a.template", "no template 't'"),
        ("run: r\nstages:\n" + stage("a", "with: {x: 1}"), "stages.a.with", "parameters without a template"),
        ("run: r\nvariables: {a: [1]}\nstages:\n" + stage("a"), "variables.a", "found list"),
        ("run: r\nvariables: {run: x}\nstages:\n" + stage("a"), "variables.run", "is the run directory"),
        ("run: r\nvariables: {a-b: x}\nstages:\n" + stage("a"), "variables.a-b", "not a variable name"),
        ("run: r\nstages:\n" + stage("a/b"), "stages.a/b.name", "no stage name"),
        ("run: r\nstages:\n  - {name: a}", "stages.a.commands", "there is none"),
        ("run: r\nstages:\n  - {name: a, commands: ['']}", "stages.a.commands", "an empty command"),
        ("run: r\nstages:\n  - {name: a, commands: ['go \"x']}", "stages.a.commands", "split into words"),
        ("run: r\nstages:\n  - {name: a, commands: [{go: 1}]}", "stages.a.commands", "found dict"),
        ("run: r\nstages: [go]", "stages.1", "a mapping was expected, found str"),
        ("run: r\ninclude: [no.yaml]\nstages:\n" + stage("a"), "include", "no such file: no.yaml"),
        ("run: .\nstages:\n" + stage("a"), "run", "holds the working directory"),
        ("run: ..\nstages:\n" + stage("a"), "run", "holds the working directory"),
    ],
)
def test_error_names_file_and_key(text: str, field: str | None, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        load(text)
    assert (caught.value.file, caught.value.field) == ("p.yaml", field)
    assert problem in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("directory", ["{run}/../x", "/etc", "{run}", "{run}/.stages", "{run}/link/x", "elsewhere"])
def test_stage_may_clear_only_inside_the_run_directory(tmp_path: Path, directory: str) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="not a visible directory inside the run directory r"):
        load("run: r\nstages:\n" + stage("a", f"directory: '{directory}'"))


@pytest.mark.parametrize("other", ["directory: '{run}/a'", "directory: '{run}/a/b'", "outputs: ['{run}/a/x.txt']"])
def test_stage_may_not_clear_what_is_another_stages(other: str) -> None:
    with pytest.raises(InputError, match="lies in the directory of stage 'a'"):
        load("run: r\nstages:\n" + stage("a") + stage("b", other))


@pytest.mark.parametrize(
    ("content", "problem"), [(b"run: [\n", "not YAML"), (b"run: \xff\n", "not UTF-8"), (b"run: \x00\n", "not YAML")]
)
def test_unreadable_file(content: bytes, problem: str) -> None:
    Path("p.yaml").write_bytes(content)
    with pytest.raises(InputError, match=problem):
        load_pipeline(Path("p.yaml"))
    with pytest.raises(InputError, match="no such file"):
        load_pipeline(Path("q.yaml"))

from pathlib import Path
from typing import Any

import pytest

from dust2gold.core.errors import InputError
from dust2gold.run.stage import Stage, as_typed, check_directories, in_order


def stage(name: str, *needs: str, **more: Any) -> Stage:
    return Stage(name, "about", more.pop("commands", ("go",)), needs, **more)


def test_commands_are_split_as_in_a_shell() -> None:
    made = stage("a", commands=("do 'it is' x='two words' {lr: 1}", "fit --config 1.yaml --config=2.yaml -c 3.yaml"))
    assert made.words[0] == ("do", "it is", "x=two words", "{lr:", "1}")
    assert as_typed(made.words[0]) == "python cli.py do 'it is' 'x=two words' '{lr:' '1}'"
    assert (made.verbs, made.configs) == (("do", "fit"), ("1.yaml", "2.yaml", "3.yaml"))
    assert made.directories == ("a",)


def test_only_what_finds_its_own_checkpoint_resumes_from_other_settings() -> None:
    assert stage("a", commands=("prepare", "predict --x 1")).resumes
    for commands in (("prepare",), ("fit --x 1", "fit --ckpt_path last"), ("fit --x 1", "fit --ckpt_path=last")):
        assert not stage("a", commands=commands).resumes


def test_stages_follow_their_needs_and_otherwise_the_order_given() -> None:
    given = [stage("end", "*"), stage("c", "b"), stage("x"), stage("b", "a"), stage("a"), stage("z")]
    assert [found.name for found in in_order(given)] == ["x", "a", "b", "c", "z", "end"]


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ([stage("a", "b")], "stage 'a': it needs 'b', which is no stage"),
        ([stage("a"), stage("a")], "stage 'a': another stage has this name too"),
        ([stage("a", "b"), stage("b", "a")], "a -> b -> a"),
        ([stage("z", "a"), stage("a", "a")], "circle: a -> a"),
    ],
)
def test_what_does_not_fit_together_is_named(stages: list[Stage], problem: str) -> None:
    with pytest.raises(InputError, match=rf"{problem}.*\n  \w+"):
        in_order(stages)


def test_malformed_stages_are_refused() -> None:
    with pytest.raises(InputError, match="no stage name"):
        stage("a/b")
    for commands, problem in (((), "missing"), (("",), "missing"), (('go "x',), "cannot be split into words")):
        with pytest.raises(InputError, match=f"command.* {problem}"):
            stage("a", commands=commands)


@pytest.mark.parametrize("directory", ["../x", "/etc", ".", ".stages", "link/x"])
def test_a_stage_may_clear_only_inside_the_run_directory(tmp_path: Path, directory: str) -> None:
    run = tmp_path / "r"
    run.mkdir()
    (run / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="not a visible directory inside the run directory"):
        check_directories([stage("a", directories=(directory,))], run)


@pytest.mark.parametrize("other", [{"directories": ("a",)}, {"directories": ("a/b",)}, {"outputs": ("a/x.txt",)}])
def test_a_stage_may_not_clear_what_is_another_stages(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="lies in the directory of stage 'a'"):
        check_directories([stage("a"), stage("b", **other)], tmp_path)

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.grading.extraction import gold_answer
from datamodules.components.grading.grader import StringGrader
from dust2gold.commands.generate import add_arguments, main
from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import read_json_lines
from dust2gold.demo.generate import TEST_FORMATS, Recipe, generate
from dust2gold.demo.problems import SUBJECTS
from dust2gold.demo.teacher import TEACHERS
from dust2gold.demo.wording import WORDINGS
from dust2gold.prepare.readers import read

SMALL = Recipe(train_questions=60, test_questions=30, samples=4)


def records(path: Path) -> list[dict[str, Any]]:
    return [record for _, record in read_json_lines(path)]


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_files_are_as_published_balanced_and_counted(tmp_path: Path) -> None:
    counts = generate(tmp_path, SMALL)
    train, test = records(tmp_path / "train.jsonl"), records(tmp_path / "test.jsonl")
    assert (len(train), len(test)) == (60, 30)
    right = Counter[str]()
    for record in train:
        assert list(record) == ["question", "answer", "generated_answer", "level", "type"]
        assert record["question"].startswith("Problem:\n")
        assert len(record["generated_answer"]) == 4
        assert all(text.startswith("Solution:\n") for text in record["generated_answer"])
        gold = record["answer"].split("boxed{")[1].split("}")[0]
        right[record["level"]] += sum(f"boxed{{{gold}}}" in text for text in record["generated_answer"])
    for index, record in enumerate(test):
        assert list(record) == ["problem", "level", "type", "solution", "idx"]
        assert record["idx"] == index
        assert not record["problem"].startswith("Problem:")
    for level, share in {1: 0.075, 2: 0.180, 3: 0.212, 4: 0.225, 5: 0.307}.items():
        for written in (train, test):
            subjects = Counter(record["type"] for record in written if record["level"] == f"Level {level}")
            assert sum(subjects.values()) == pytest.approx(share * len(written), abs=1)
            assert max(subjects.values()) - min(subjects[subject] for subject in SUBJECTS) <= 1
    assert {f"Level {level}": count.right for level, count in counts.items()} == right
    assert sum(count.samples for count in counts.values()) == 240
    assert json.loads((tmp_path / "generate.json").read_text())["levels"] == [1, 2, 3, 4, 5]


def test_no_question_occurs_twice_even_where_questions_are_few(tmp_path: Path) -> None:
    generate(tmp_path, Recipe(train_questions=1200, test_questions=600, samples=1, levels=(1,), factor=3, largest=6))
    train = [record["question"].removeprefix("Problem:\n") for record in records(tmp_path / "train.jsonl")]
    assert len({*train, *(record["problem"] for record in records(tmp_path / "test.jsonl"))}) == 1800


def test_same_recipe_same_bytes_and_the_test_set_depends_on_no_count(tmp_path: Path) -> None:
    a, b, c = ((tmp_path / name) for name in "abc")
    for directory, recipe in ((a, SMALL), (b, SMALL), (c, replace(SMALL, train_questions=90, samples=8))):
        generate(directory, recipe)
    for name in ("train.jsonl", "test.jsonl", "generate.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    assert (a / "test.jsonl").read_bytes() == (c / "test.jsonl").read_bytes()
    for short, long in zip(records(a / "train.jsonl"), records(c / "train.jsonl"), strict=False):
        assert short == {**long, "generated_answer": long["generated_answer"][:4]}


def test_the_kinds_of_teacher_differ_in_wrong_samples_alone(tmp_path: Path) -> None:
    for kind in TEACHERS:
        generate(tmp_path / kind, replace(SMALL, teacher=kind))
    one, other = (records(tmp_path / kind / "train.jsonl") for kind in ("slips", "reasoning"))
    verdicts = Counter[tuple[str, bool]]()
    for slips, reasoning in zip(one, other, strict=True):
        gold = gold_answer(slips["answer"])
        for pair in zip(slips["generated_answer"], reasoning["generated_answer"], strict=True):
            [verdict] = {StringGrader().grade(text, gold)[0] for text in pair}
            verdicts[verdict, pair[0] == pair[1]] += 1
    assert verdicts["positive", False] == 0
    assert verdicts["negative", False] > verdicts["negative", True]


def test_other_notations_change_answers_alone_and_only_grading_by_value_sees_through_them(tmp_path: Path) -> None:
    generate(tmp_path / "plain", SMALL)
    counts = generate(tmp_path / "odd", replace(SMALL, notation=0.4))
    by_text, by_value = StringGrader(), StringGrader(by_value=True)
    verdicts = Counter[tuple[str, str, bool]]()
    for plain, odd in zip(records(tmp_path / "plain/train.jsonl"), records(tmp_path / "odd/train.jsonl"), strict=True):
        gold = gold_answer(plain["answer"])
        assert plain["question"] == odd["question"]
        for one, other in zip(plain["generated_answer"], odd["generated_answer"], strict=True):
            assert one.partition("\\boxed")[0] == other.partition("\\boxed")[0]
            verdict = by_text.grade(one, gold)[0]
            assert by_value.grade(other, gold)[0] == verdict
            verdicts[verdict, by_text.grade(other, gold)[0], one == other] += 1
    same = {("positive", "positive", True), ("negative", "negative", True)}
    assert set(verdicts) == same | {("positive", "negative", False), ("negative", "negative", False)}
    right = sum(count for (verdict, _, _), count in verdicts.items() if verdict == "positive")
    assert 0.3 < verdicts["positive", "negative", False] / right < 0.5
    assert sum(count.right for count in counts.values()) == right, "the table counts by value"


@pytest.mark.parametrize("format", TEST_FORMATS)
@pytest.mark.parametrize("wording", WORDINGS)
def test_held_out_questions_are_read_in_each_format(tmp_path: Path, format: str, wording: str) -> None:
    generate(tmp_path / "own", SMALL)
    recipe = replace(SMALL, train_questions=0, test_questions=25, levels=(2, 5, 6), wording=wording)
    generate(tmp_path / "math", recipe)
    generate(tmp_path / "own", replace(recipe, test_format=format))
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["generate.json", "test.jsonl"]
    questions = [entry.question for entry in read(tmp_path / "own/test.jsonl", format, "own")]
    expected = [entry.question for entry in read(tmp_path / "math/test.jsonl", "math", "own")]
    assert [(q.id, q.question, q.gold) for q in questions] == [(q.id, q.question, q.gold) for q in expected]


def test_the_verb_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = f"--output {tmp_path} --train-questions 20 --test-questions 10 --samples 2 --levels 2,4 --seed 3"
    assert main(parse(*flags.split())) == 0
    printed = capsys.readouterr().out
    assert [" ".join(line.split()[:4]) for line in printed.splitlines()[1:3]] == ["Level 2 9 18", "Level 4 11 22"]
    assert "10 held-out questions" in printed
    arguments = vars(parse("--output", str(tmp_path)))
    assert Recipe(**{name: value for name, value in arguments.items() if name != "output"}) == Recipe()
    with pytest.raises(SystemExit):
        parse("--output", "x", "--levels", "easy")
    assert "1,2,3 were expected, found 'easy'" in capsys.readouterr().err


BAD: dict[str, list[Any]] = {"samples": [0], "levels": [(1, 7), ()], "largest": [2], "factor": [1]}
BAD |= {"train_questions": [-1], "notation": [-0.1], "wording": ["past"]}  # with training questions


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_what_cannot_be_generated_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        Recipe(**{field: value})
    assert caught.value.field == field
    assert caught.value.remedy


def test_what_fails_leaves_older_files_alone(tmp_path: Path) -> None:
    generate(tmp_path, SMALL)
    before = (tmp_path / "train.jsonl").read_bytes()
    with pytest.raises(InputError, match="no new level-1 question on"):
        generate(tmp_path, Recipe(train_questions=30_000, levels=(1,), samples=1, factor=2, largest=6))
    assert (tmp_path / "train.jsonl").read_bytes() == before
    with pytest.raises(InputError, match="cannot write"):
        generate(tmp_path / "train.jsonl", SMALL)
    assert (tmp_path / "train.jsonl").read_bytes() == before

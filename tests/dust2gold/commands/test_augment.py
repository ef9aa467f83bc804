"""Self-augmentation: which of the student's samples join D_pos."""

from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.components.records.records import read_rationales, write_rationales
from dust2gold import cli
from dust2gold.commands.augment import augmented
from tests.records import rationale


def test_only_right_and_new_samples_join() -> None:
    positive = [rationale(0), rationale(1), replace(rationale(0), id="q0/9")]  # two of the teacher's are equal
    own = [
        rationale(2, 0, writer="nat"),
        rationale(2, 1, writer="nat"),  # wrong
        rationale(2, 3, writer="nat", verdict="ungradable"),
        rationale(0, 4, writer="nat", rationale=positive[0].rationale),  # the teacher wrote it already
        rationale(2, 6, writer="nat", rationale=rationale(2).rationale),  # repeats the first
        rationale(3, 0, writer="nat", rationale=positive[0].rationale),  # the same words for another question
    ]
    assert list(augmented(positive, own)) == [*positive, own[0], own[5]]


def test_the_verb_writes_the_file_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    positive, samples, output = (tmp_path / f"{name}.jsonl" for name in ("positive", "samples", "joined"))
    write_rationales(positive, [rationale(0), rationale(1)])
    write_rationales(samples, [rationale(0, k, writer="nat") for k in range(5)])
    words = ["augment", "--positive", str(positive), "--samples", str(samples), "--output", str(output)]
    assert cli.main(words) == 0
    assert [record.id for record in read_rationales(output)] == ["q0/0", "q1/0", "q0/2", "q0/4"]
    assert "2 rationales of D_pos and 2 of the student's own" in capsys.readouterr().out
    write_rationales(samples, [rationale(0, k, writer="nat") for k in range(5)] + [rationale(1, 0, writer="nat")])
    assert cli.main(words) == 1
    assert "1 of 2 questions have fewer than 5 samples, e.g. 'q1'" in capsys.readouterr().err
    assert cli.main([*words, "--uneven"]) == 0
    samples.write_text("{}\n", encoding="utf-8")
    before = output.read_bytes()
    assert cli.main(words) == 1
    assert f"{samples}:1: field 'schema': missing" in capsys.readouterr().err
    assert output.read_bytes() == before

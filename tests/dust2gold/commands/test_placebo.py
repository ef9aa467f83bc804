"""The placebo: verdicts shuffled, nothing else changed."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.components.records.records import Verdict, read_rationales, write_rationales
from dust2gold import cli
from dust2gold.commands.placebo import shuffled
from tests.records import rationale


def test_as_many_of_each_verdict_in_another_order() -> None:
    verdicts: list[Verdict] = ["positive" if k < 300 else "negative" for k in range(1000)]
    found = shuffled(verdicts, 0)
    assert Counter(found) == Counter(verdicts)
    assert found == shuffled(verdicts, 0) != shuffled(verdicts, 1)
    assert Counter(found[:300])["positive"] == pytest.approx(90, abs=30), "a verdict says nothing of the old one"


def test_the_verb_keeps_every_rationale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = {"positive": [rationale(k) for k in range(4)], "negative": [rationale(k, 1) for k in range(12)]}
    for name, own in records.items():
        write_rationales(tmp_path / f"{name}.jsonl", own)
    words = ["placebo", "--data", str(tmp_path), "--seed", "3", "--output", str(tmp_path / "placebo")]
    assert cli.main(words) == 0
    found = {name: list(read_rationales(tmp_path / "placebo" / f"{name}.jsonl")) for name in records}
    assert {name: len(own) for name, own in found.items()} == {"positive": 4, "negative": 12}
    assert all(each.verdict == name for name, own in found.items() for each in own)
    old = {each.id: each for own in records.values() for each in own}
    new = {each.id: each for own in found.values() for each in own}
    assert {name: replace(each, verdict=old[name].verdict) for name, each in new.items()} == old
    changed = sum(old[name].verdict != each.verdict for name, each in new.items())
    assert changed > 0
    assert f"16 rationales, {changed} of them with the other verdict" in capsys.readouterr().out
    assert cli.main([*words[:-1], str(tmp_path)]) == 1
    assert "positive.jsonl" in capsys.readouterr().err

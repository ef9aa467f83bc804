from typing import Any

import pytest

from dust2gold.core.errors import InputError
from dust2gold.run.settings import RunSettings
from dust2gold.run.stage import in_order
from dust2gold.run.tables import PUBLISHERS, run_stages

ROWS = [
    *"fine-tune mix cl nt ul cot-kd-samples self-augmentation kd nce-token redi dpo kto glow opd".split(),
    *"nat-no-negatives nat-single nat-sum".split(),
    *"nat-delta nat-negatives-25 nat-negatives-50 nat-semantic".split(),
]


def names(**values: object) -> list[str]:
    return [stage.name for stage in in_order(run_stages(RunSettings(run="r", **values)))]  # type: ignore[arg-type]


def test_the_stages_that_the_settings_ask_for() -> None:
    method = ["data", "cot-kd", "neg", "nat", "samples", "nce", "rank", "votes", "report"]
    assert set(names()) == {*method, "mix", "nat-no-negatives"}
    assert names(rows=()) == method
    assert set(names(rows=ROWS)) == {*method, *ROWS}
    assert set(names(rows=["nat-shuffled"])) == {*method, "data-shuffled", "neg-shuffled", "nat-shuffled"}
    assert set(names(rows=(), other_questions=5)) == {*method, "tests", "gsm8k-like", "multiarith-like"}
    assert set(names(rows=(), others="d")) == {*method, "tests", *PUBLISHERS}


RIGHT, WRONG, GOLD = (f"r/data/{name}.jsonl" for name in ("positive", "negative", "solutions"))


@pytest.mark.parametrize(
    ("row", "files"),
    [
        ("fine-tune", GOLD),
        ("mix", f"[{RIGHT}, {WRONG}]"),
        ("cl", f"[{RIGHT}, {WRONG}, {GOLD}]"),
        ("nt", f"[{RIGHT}, {WRONG}, {GOLD}]"),
        ("ul", f"[{RIGHT}, {WRONG}]"),
        ("self-augmentation", "r/cot-kd-samples/positive.jsonl"),
        ("kd", "r/samples/positive.jsonl"),
        ("kto", f"[{RIGHT}, {WRONG}]"),
        ("glow", f"[{RIGHT}, {WRONG}]"),
        ("opd", GOLD),
    ],
)
def test_what_a_row_trains_on(row: str, files: str) -> None:
    (stage,) = (each for each in run_stages(RunSettings(run="r", rows=tuple(ROWS))) if each.name == row)
    words = stage.words[0]
    assert words[words.index("--data.train") + 1] == files


def test_self_augmentation_samples_its_own_student() -> None:
    """CoT KD answers the training questions as NAT does, and its right answers join D_pos."""
    stages = {
        stage.name: stage for stage in run_stages(RunSettings(run="r", rows=tuple(ROWS), samples=3, train_limit=7))
    }
    own, nat = stages["cot-kd-samples"], stages["samples"]
    swapped = [c.replace("r/samples", "r/cot-kd-samples").replace("r/nat", "r/cot-kd") for c in nat.commands]
    configs = {"--config configs/demo/nat.yaml ": "", "configs/nat.yaml": "configs/neg.yaml"}
    for before, after in configs.items():
        swapped = [command.replace(before, after) for command in swapped]
    assert list(own.commands) == swapped
    assert "--model.sampling.samples 3" in own.commands[0]
    assert "--data.limit_questions 7" in own.commands[0]
    assert (own.needs, own.outputs) == (
        ("data", "cot-kd"),
        ("cot-kd-samples/samples.jsonl", "cot-kd-samples/positive.jsonl"),
    )
    assert stages["self-augmentation"].needs == ("cot-kd-samples",)


def test_budgets() -> None:
    """With `steps`, what stands against M_neg and NAT together has the steps of both."""
    rows = (
        *(row for row in ROWS if row != "cot-kd-samples"),
        "cot-kd-long",
        "cot-kd-wide",
        "nat-shuffled",
        "nce-permuted",
    )
    settings = RunSettings(
        "r", rows=rows, steps=30, learning_rate=1e-3, options={"cot-kd-wide": "--model.lora.r 9", "mix": "--x 1"}
    )
    found = {}
    for stage in run_stages(settings):
        for words in stage.words:
            if words[0] == "fit" and stage.name != "rank":
                found[stage.name] = int(words[words.index("--trainer.max_steps") + 1])
                assert words[words.index("--trainer.max_epochs") + 1] == "-1"
                assert words[words.index("--model.optimizer.init_args.lr") + 1] == "0.001"
    twice = {"fine-tune", "cot-kd-long", "cot-kd-wide", "mix", "cl", "nt", "ul", "glow"}
    assert found.keys() > twice
    assert {name for name, steps in found.items() if steps == 60} == twice
    assert set(found.values()) == {30, 60}


def test_the_votes_make_their_placebo() -> None:
    for rows in ((), ("asc-permuted",)):
        (votes,) = (stage for stage in run_stages(RunSettings("r", rows=rows)) if stage.name == "votes")
        assert ("--model.placebo" in votes.words[-1]) is bool(rows)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"rows": ["x"]}, "rows"),
        ({"rows": ["cot-kd-long"]}, "steps"),
        ({"rows": ["cot-kd-wide"], "steps": 3}, "options"),
    ],
)
def test_rows_that_cannot_be_made_are_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        names(**values)
    assert caught.value.field == field


def test_other_test_sets_are_answered_by_what_was_trained() -> None:
    stages = {stage.name: stage for stage in run_stages(RunSettings(run="r", others="d", test_limit=4))}
    assert stages["tests"].inputs == ("d/gsm8k-test.jsonl", "d/asdiv.jsonl", "d/multiarith.jsonl", "d/svamp.jsonl")
    asdiv = stages["asdiv"]
    assert asdiv.needs == ("tests", "cot-kd", "nat", "nce")
    for name, command in zip(("cot-kd", "nat", "nce"), asdiv.commands, strict=True):
        assert f"--model.adapter r/{name}/adapter " in command
        assert "--data.questions r/tests/asdiv/questions.jsonl --data.limit_questions 4" in command
        assert command.endswith(f"r/generalisation/asdiv/{name}")


def test_plain_likelihood_asks_for_the_verdicts_it_trains_on() -> None:
    stages = {stage.name: stage for stage in run_stages(RunSettings(run="r", rows=tuple(ROWS)))}
    asked = {
        name: next((words[k + 1] for k, word in enumerate(words) if word == "--data.verdicts"), None)
        for name, stage in stages.items()
        for words in stage.words
        if words[0] == "fit" and "configs/neg.yaml" in words
    }
    right = dict.fromkeys(("cot-kd", "fine-tune", "self-augmentation", "nat-single"), "positive")
    of_its_own = dict.fromkeys(("neg", "nat-negatives-25", "nat-negatives-50", "nat-semantic"))
    assert asked == {**right, **of_its_own, "mix": "both"}

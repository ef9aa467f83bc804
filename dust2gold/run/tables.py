"""Every other row of the paper's tables, and of ours: baselines, ablations, other negatives, other test sets."""

from __future__ import annotations

from dataclasses import replace
from shlex import quote

from dust2gold.core.errors import InputError
from dust2gold.run.method import (
    ABOUT,
    RIGHT,
    VOTE_PLACEBO,
    Commands,
    data_stage,
    method_stages,
    teacher_data,
    train_format,
)
from dust2gold.run.settings import RunSettings
from dust2gold.run.stage import Stage

PUBLISHERS = {"gsm8k": "gsm8k-test", "asdiv": "asdiv", "multiarith": "multiarith", "svamp": "svamp"}
"""The paper's other test sets and their files."""
GENERATED = {
    "gsm8k-like": ("gsm8k", "--levels 5 --test-format gsm8k"),
    "multiarith-like": ("multiarith", "--levels 2 --test-format multiarith --wording past"),
}
"""Generated test sets in the formats of others, and how they are generated."""


def run_stages(settings: RunSettings) -> list[Stage]:
    """All stages that a run's settings ask for."""
    stages = [*other_tests(settings), *method_stages(settings), data_stage(settings), *_chosen(settings)]
    more = settings.options or {}
    if unknown := more.keys() - {stage.name for stage in stages}:
        remedy = f"stages: {', '.join(stage.name for stage in stages)}"
        raise InputError(f"no stage '{min(unknown)}'", field="options", remedy=remedy)
    return [
        replace(stage, commands=(f"{stage.commands[0]} {more[stage.name]}", *stage.commands[1:]))
        if stage.name in more
        else stage
        for stage in stages
    ]


def _chosen(settings: RunSettings) -> list[Stage]:
    """The rows asked for, and those that they need."""
    known = {stage.name: stage for stage in table_stages(settings)}
    if unknown := set(settings.rows) - {*known, VOTE_PLACEBO}:
        remedy = f"rows: {', '.join([*known, VOTE_PLACEBO])}"
        raise InputError(f"no row '{min(unknown)}'", field="rows", remedy=remedy)
    names = [name for name in settings.rows if name in known]
    for name in names:  # which grows on the way
        names += [need for need in known[name].needs if need in known and need not in names]
    if "cot-kd-long" in names and settings.steps is None:
        raise InputError("cot-kd-long takes a number of steps", field="steps", remedy="give one, or leave that row out")
    if "cot-kd-wide" in names and "cot-kd-wide" not in (settings.options or {}):
        remedy = "give options: {cot-kd-wide: --model.lora.r 64 --model.lora.alpha 128}"
        raise InputError("cot-kd-wide takes a rank", field="options", remedy=remedy)
    return [known[name] for name in dict.fromkeys(names)]


def table_stages(settings: RunSettings) -> list[Stage]:
    """All rows that there are beside those of the method."""
    make = Commands(settings)
    run, positive, augmented = make.run, f"{make.run}/data/positive.jsonl", f"{make.run}/samples/positive.jsonl"
    both = make.files("data/positive.jsonl", "data/negative.jsonl")
    with_gold = make.files("data/positive.jsonl", "data/negative.jsonl", "data/solutions.jsonl")  # reference: NT, CL
    solutions = f"{run}/data/solutions.jsonl"
    neg, cot_kd, nat, mix = (f"{run}/{name}/adapter" for name in ("neg", "cot-kd", "nat", "mix"))
    return [
        make.trained("fine-tune", "data", "neg", solutions, RIGHT, budgets=2),
        make.trained("cot-kd-long", "data", "neg", positive, RIGHT, budgets=2),
        make.trained("cot-kd-wide", "data", "neg", positive, RIGHT, budgets=2),
        make.trained("mix", "data", "neg", both, "--data.verdicts both", budgets=2),
        make.trained("cl", "data", "cl", with_gold, budgets=2),
        make.trained("nt", "data", "nt", with_gold, budgets=2),
        make.trained("ul", "data", "ul", both, budgets=2),
        make.sampled("cot-kd-samples", "cot-kd", "neg"),
        make.trained("self-augmentation", "cot-kd-samples", "neg", f"{run}/cot-kd-samples/positive.jsonl", RIGHT),
        make.trained("kd", "nat samples", "nce", augmented, f"--model.nat {nat} --model.calibrated false"),
        make.trained("nce-token", "nat samples", "nce", augmented, f"--model.nat {nat} --model.per_token true"),
        make.trained("nce-permuted", "nat samples", "nce", augmented, f"--model.nat {nat} --model.permuted true"),
        make.trained("redi", "data cot-kd", "redi", both, f"--model.adapter {cot_kd}"),
        make.trained("dpo", "data cot-kd", "dpo", both, f"--model.adapter {cot_kd}"),
        make.trained("kto", "data cot-kd", "kto", both, f"--model.adapter {cot_kd}"),
        make.trained("glow", "data", "glow", both, budgets=2),
        make.trained("opd", "data cot-kd nat", "opd", solutions, f"--model.adapter {cot_kd} --model.nat {nat}"),
        make.trained("nat-no-negatives", "data cot-kd", "nat", positive, f"--model.negative {cot_kd}"),
        Stage(
            "data-shuffled",
            ABOUT["data-shuffled"],
            (f"placebo --data {run}/data --seed {settings.seed} --output {run}/data-shuffled",),
            ("data",),
            outputs=("data-shuffled",),
        ),
        make.trained("neg-shuffled", "data-shuffled", "neg", f"{run}/data-shuffled/negative.jsonl"),
        make.trained(
            "nat-shuffled", "data neg-shuffled", "nat", positive, f"--model.negative {run}/neg-shuffled/adapter"
        ),
        make.trained("nat-from-mix", "data neg mix", "nat", positive, f"--model.negative {neg} --model.positive {mix}"),
        make.trained("nce-from-mix", "data neg mix", "nce", positive, f"--model.nat {mix} --model.negative {neg}"),
        make.trained("nat-single", "data neg", "neg", positive, f"{RIGHT} --model.adapter {neg}"),
        make.trained("nat-sum", "data neg", "nat", positive, f"--model.negative {neg} --model.units.attention false"),
        make.trained(
            "nat-unscaled", "data neg", "nat", positive, f"--model.negative {neg} --model.units.scale_gate false"
        ),
        make.trained("nat-delta", "data neg", "nat", positive, f"--model.negative {neg} --model.units.delta true"),
        _nat_on(make, "nat-negatives-25", "data-negatives-25", "--samples 2", positive),
        _nat_on(make, "nat-negatives-50", "data-negatives-50", "--samples 4", positive),
        _nat_on(make, "nat-semantic", "data-semantic", "--grader semantic", f"{run}/data-semantic/positive.jsonl"),
    ]


def _nat_on(make: Commands, name: str, data: str, options: str, positive: str) -> Stage:
    """NAT on other data: the teacher's samples prepared anew, an M_neg of their own, then NAT."""
    run, settings = make.run, make.settings
    root, source = f"{run}/{name}", quote(settings.train_source)
    return Stage(
        name,
        ABOUT[name],
        (
            f"prepare --input {quote(teacher_data(settings))} {train_format(settings)} --source {source} {options} "
            f"--output {run}/{data}",
            make.fit("neg", f"{run}/{data}/negative.jsonl", f"{root}/neg"),
            make.fit("nat", positive, root, f"--model.negative {root}/neg/adapter"),
            make.test("nat", f"{root}/adapter", root),
        ),
        ("data",),
        students=(settings.student,),
        directories=(name, data),
        outputs=(f"{name}/adapter", f"{name}/predictions.jsonl"),
    )


def other_tests(settings: RunSettings) -> list[Stage]:
    """Other test sets and what the trained students answer to their questions."""
    root, count = f"{quote(settings.run)}/tests", settings.other_questions
    inputs: dict[str, str] = {}
    if settings.others is not None:
        inputs = {name: f"{settings.others}/{file}.jsonl" for name, file in PUBLISHERS.items()}
        names, about = tuple(inputs), "the other test sets of the paper, in their publishers' formats"
        commands = [f"prepare --input {quote(inputs[n])} --format {n} --output {root}/{n}" for n in names]
    elif count is not None:
        names, commands = tuple(GENERATED), []
        about = "questions as other publishers put them: longer ones (GSM8K's), and another wording (MultiArith's)"
        for name, (form, options) in GENERATED.items():
            place = f"{root}/{name}"
            commands += [
                f"generate --output {place} --train-questions 0 --test-questions {count} {options} "
                f"--seed {settings.data_seed}",
                f"prepare --input {place}/test.jsonl --format {form} --source {name} --output {place}",
            ]
    else:
        return []
    tests = Stage("tests", about, tuple(commands), inputs=tuple(inputs.values()), outputs=("tests",))
    return [tests, *(_generalised(Commands(settings), name) for name in names)]


def _generalised(make: Commands, dataset: str) -> Stage:
    """What was trained on the training set answers the questions of another data set."""
    place = f"generalisation/{dataset}"
    questions = make.questions(f"{make.run}/tests/{dataset}", make.settings.test_limit)
    students = {"cot-kd": "neg", "nat": "nat", "nce": "nce"}
    return Stage(
        dataset,
        f"CoT KD, NAT and NCE answer the questions of {dataset}",
        tuple(
            make.test(config, f"{make.run}/{name}/adapter", f"{make.run}/{place}/{name}", questions)
            for name, config in students.items()
        ),
        ("tests", *students),
        students=(make.settings.student,),
        directories=(place,),
        outputs=tuple(f"{place}/{name}/predictions.jsonl" for name in students),
    )

"""The model card of an export: what it is, what it was trained on and how, what it scored, how to load it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dust2gold.core.errors import InputError
from dust2gold.core.students import EMBEDDED, locate_student
from dust2gold.core.text import code, code_block, escape
from dust2gold.report.analyses.predictions import OVERALL
from dust2gold.report.markdown import table


@dataclass(frozen=True)
class Export:
    """A stage of a run directory, its adapter's kind (`lora` or `nat`), its base, and whether both are merged."""

    run: Path
    stage: str
    kind: str
    student: str
    merged: bool


_LOAD = {
    "merged": """\
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained(DIR), AutoTokenizer.from_pretrained(DIR)""",
    "lora": """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
model, tokenizer = AutoPeftModelForCausalLM.from_pretrained(DIR), AutoTokenizer.from_pretrained(DIR)""",
    "nat": """\
from transformers import AutoTokenizer
from lightning_modules.components.adapters.nat import open_nat  # pip install dust2gold
model, tokenizer = open_nat(DIR).model, AutoTokenizer.from_pretrained(DIR)""",
}

_ASK = """\
prompt = f"Problem:\\n{question}\\nSolution:\\n"
ids = tokenizer(prompt, return_tensors="pt").input_ids
answer = model.generate(input_ids=ids, max_new_tokens=512)[0, ids.shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))"""


def model_card(what: Export) -> str:
    """The card as Markdown with the hub's front matter."""
    form = "merged" if what.merged else what.kind
    tiny = " (the tiny student that ships with dust2gold, for trying things out)" if what.student == EMBEDDED else ""
    lines = [
        *_front_matter(what),
        f"# {escape(what.stage)}, trained with dust2gold",
        "",
        f"{code(what.stage)} of a dust2gold run ('Turning Dust into Gold', Li et al., AAAI 2024, arXiv 2312.12832) "
        f"on the base {code(what.student)}{tiny}.",
        "",
        "## Use",
        "",
        *code_block(f"{_LOAD[form]}\n{_ASK}", "python"),
        "",
        "It answers one question at a time, in that prompt. Its chat template makes it of a user's message, so "
        "that chat servers need nothing more.",
        "",
        *_data(what.run / "data" / "summary.json"),
        *_results(what),
        *_training(what.run / what.stage),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _front_matter(what: Export) -> list[str]:
    library = "transformers" if what.merged else "other" if what.kind == "nat" else "peft"  # which knows no units
    facts: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    if not Path(locate_student(what.student)).is_dir():  # the hub takes its own names alone
        facts["base_model"] = what.student
    facts["tags"] = ["dust2gold", "distillation", *([] if what.merged or what.kind == "nat" else ["lora"])]
    return ["---", yaml.safe_dump(facts, sort_keys=False).strip(), "---", ""]


def _data(file: Path) -> list[str]:
    if not file.is_file():
        return []
    with _reading(file):
        summary = json.loads(file.read_text(encoding="utf-8"))
        text = (
            f"Teacher samples of {code(str(summary['source']))}: {summary['questions']:,} questions, "
            f"{summary['samples']:,} samples, {summary['positive']:,} right (D_pos), {summary['negative']:,} wrong "
            f"(D_neg) by {escape(str(summary['grader']))} grading."
        )
    return ["## Data", "", text, ""]


def _results(what: Export) -> list[str]:
    file = what.run / "results.json"
    if not file.is_file():
        return []
    with _reading(file):
        rows = json.loads(file.read_text(encoding="utf-8"))
        body = []
        for row in (row for row in rows if row["method"] == what.stage):
            names = [row["dataset"], "all" if row["subject"] == OVERALL else row["subject"]]
            interval = f"{100 * row['ci_low']:.2f} to {100 * row['ci_high']:.2f}"
            body.append([*map(escape, names), str(row["n"]), f"{100 * row['accuracy']:.2f}", interval])
    if not body:
        return []
    heading = ["data set", "subject", "questions", "accuracy %", "95% interval"]
    return ["## Results", "", "Greedy answers; one training run.", "", *table(heading, body, texts=2), ""]


def _training(directory: Path) -> list[str]:
    """The arguments of stage and data of its last training, as Lightning saved them."""

    def version(file: Path) -> int:
        number = file.parent.name.removeprefix("version_")
        return int(number) if number.isdecimal() else -1

    for file in sorted(directory.glob("lightning_logs/version_*/config.yaml"), key=version, reverse=True):
        with _reading(file):
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
            if not config.get("data", {}).get("init_args", {}).get("train"):
                continue
            shown = {name: config.get(name) for name in ("seed_everything", "model", "data")}
            text = f"{yaml.safe_dump(shown, sort_keys=False)}# max_epochs: {config['trainer']['max_epochs']}"
        return ["## Training", "", *code_block(text, "yaml"), ""]
    return []


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        problem, remedy = f"not what the run wrote there ({error!r})", "write it again, or take it away"
        raise InputError(problem, file=file, remedy=remedy) from error

"""The model card of an export: what it is, what it was trained on and how, what it scored, how to load it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analyses.predictions import OVERALL
from foundation.students import EMBEDDED
from pipeline.markdown import escape, table


@dataclass(frozen=True)
class Export:
    """What is exported.

    Attributes:
        run: The run directory.
        stage: The stage's name.
        kind: Of its adapter: `lora` or `nat`.
        student: The base it was trained on.
        merged: Whether the adapter is folded into the base weights.
    """

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
from lightning_modules.components.assistant import open_nat  # pip install dust2gold
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
    lines = [
        *_front_matter(what),
        f"# {what.stage}, trained with dust2gold",
        "",
        f"`{escape(what.stage)}` of a dust2gold run ('Turning Dust into Gold', Li et al., AAAI 2024, arXiv 2312.12832) "
        f"on the base `{escape(what.student)}`{_base_note(what)}.",
        "",
        "## Use",
        "",
        "```python",
        _LOAD[form],
        _ASK,
        "```",
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
    facts: dict[str, Any] = {
        "library_name": "transformers" if what.merged else "peft",
        "pipeline_tag": "text-generation",
    }
    if what.student != EMBEDDED:
        facts["base_model"] = what.student
    facts["tags"] = ["dust2gold", "distillation", *([] if what.merged or what.kind == "nat" else ["lora"])]
    return ["---", yaml.safe_dump(facts, sort_keys=False).strip(), "---", ""]


def _base_note(what: Export) -> str:
    if what.student == EMBEDDED:
        return " (the tiny student that ships with dust2gold, for trying things out)"
    return ""


def _data(file: Path) -> list[str]:
    if not file.is_file():
        return []
    summary = json.loads(file.read_text(encoding="utf-8"))
    return [
        "## Data",
        "",
        f"Teacher samples of `{escape(str(summary['source']))}`: {summary['questions']:,} questions, "
        f"{summary['samples']:,} samples, {summary['positive']:,} right (D_pos), {summary['negative']:,} wrong (D_neg) "
        f"by {summary['grader']} grading.",
        "",
    ]


def _results(what: Export) -> list[str]:
    file = what.run / "results.json"
    if not file.is_file():
        return []
    rows = [row for row in json.loads(file.read_text(encoding="utf-8")) if row["method"] == what.stage]
    if not rows:
        return []
    body = [
        [
            escape(row["dataset"]), escape("all" if row["subject"] == OVERALL else row["subject"]), str(row["n"]),
            f"{100 * row['accuracy']:.2f}", f"{100 * row['ci_low']:.2f} to {100 * row['ci_high']:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    heading = ["data set", "subject", "questions", "accuracy %", "95% interval"]
    return ["## Results", "", "Greedy answers; one training run.", "", *table(heading, body, texts=2), ""]


def _training(directory: Path) -> list[str]:
    """The arguments of stage and data of its last training, as Lightning saved them."""
    for file in sorted(directory.glob("lightning_logs/version_*/config.yaml"), key=_version, reverse=True):
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        if config.get("data", {}).get("init_args", {}).get("train"):
            shown = {"seed_everything": config.get("seed_everything"), "model": config["model"], "data": config["data"]}
            text = yaml.safe_dump(shown, sort_keys=False).strip()
            return ["## Training", "", "```yaml", text, f"# max_epochs: {config['trainer']['max_epochs']}", "```", ""]
    return []


def _version(config: Path) -> int:
    number = config.parent.name.removeprefix("version_")
    return int(number) if number.isdecimal() else -1

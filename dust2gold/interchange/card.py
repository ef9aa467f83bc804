"""The model card of an export: what it is, what it was trained on and how, what it scored, how to load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from datamodules.components.encoding.prompts import PLAIN, Prompt
from dust2gold.core.students import EMBEDDED, locate_student, public_name
from dust2gold.core.text import code, code_block, escape
from dust2gold.report.section import Section, reading, table

_TOKENIZER = "from transformers import AutoTokenizer\ntokenizer = AutoTokenizer.from_pretrained(DIR)\n"
_LOAD = {
    "merged": "from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained(DIR)\n",
    "lora": "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
    "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), DIR)\n",
    "nat": "from lightning_modules.components.adapters.nat import open_nat  # pip install dust2gold\n"
    "model = open_nat(DIR, {base}).model\n",
}
_ANSWER = """\
answer = model.generate(input_ids=ids, max_new_tokens=512)[0, ids.shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))"""


def model_card(
    run: Path, stage: str, student: str, form: str, prompt: Prompt = PLAIN, own_template: bool = False
) -> str:
    """The card of a run's stage on a base as Markdown with the hub's front matter.

    `form` is `merged` (adapter and base), or the adapter's kind, `lora` or `nat`. The `prompt` is that of training;
    `own_template` says whether the exported chat template is the base's own.
    """
    tiny = " (the tiny student that ships with dust2gold, for trying things out)" if student == EMBEDDED else ""
    # The hub's name of the library that loads it: of none for NAT, whose units no other knows.
    library = {"merged": "transformers", "lora": "peft", "nat": "other"}[form]
    facts: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    on_hub = not Path(locate_student(student)).is_dir()
    if on_hub:  # which takes its own names alone
        facts["base_model"] = student
    load = _LOAD[form].format(base=json.dumps(student) if on_hub else "BASE")
    facts["tags"] = ["dust2gold", "distillation", *(["lora"] if form == "lora" else [])]
    section = Section()
    section.add("---", yaml.safe_dump(facts, sort_keys=False).strip(), "---")
    section.add(f"# {escape(stage)}, trained with dust2gold")
    section.add(
        f"{code(stage)} of a dust2gold run ('Turning Dust into Gold', Li et al., AAAI 2024, arXiv 2312.12832) "
        f"on the base {code(public_name(student))}{tiny}."
    )
    section.add("## Use")
    section.add(*code_block(f"{_TOKENIZER}{load}{_ids(prompt)}{_ANSWER}", "python"))
    if "BASE" in load:
        where = "`locate_student('embedded')` of dust2gold.core.students" if student == EMBEDDED else "its directory"
        section.add(f"BASE is the base {code(public_name(student))}: {where}.")
    section.add(f"It answers one question at a time, in that prompt. {_of_servers(prompt, own_template)}")
    _add_data(section, run / "data" / "summary.json")
    _add_results(section, run / "results.json", stage)
    _add_training(section, run, stage)
    return "\n".join(section.lines).rstrip() + "\n"


def _ids(prompt: Prompt) -> str:
    """Code that makes the ids of a question's prompt."""
    if prompt.kind != "chat":
        text = f"{json.dumps(prompt.before)} + question + {json.dumps(prompt.after)}"
        return f'prompt = {text}\nids = tokenizer(prompt, return_tensors="pt").input_ids\n'
    system = "" if prompt.system is None else f'{{"role": "system", "content": {json.dumps(prompt.system)}}}, '
    thinking = "" if prompt.thinking is None else f", enable_thinking={prompt.thinking}"
    return (
        f'chat = [{system}{{"role": "user", "content": question}}]\n'
        f'options = dict(add_generation_prompt=True, return_dict=True, return_tensors="pt"{thinking})\n'
        "ids = tokenizer.apply_chat_template(chat, **options).input_ids\n"
    )


def _of_servers(prompt: Prompt, own_template: bool) -> str:
    """What somebody who serves it must know."""
    if own_template and prompt.kind != "chat":
        return "The chat template is the base's own and makes another: let a server complete texts, not chats."
    if prompt.system is not None or prompt.thinking is not None:
        return "Its chat template makes it of these messages and options, which a chat server has to be given."
    return "Its chat template makes it of a user's message, so that chat servers need nothing more."


def _add_data(section: Section, file: Path) -> None:
    if file.is_file():
        with reading(file):
            summary = json.loads(file.read_text(encoding="utf-8"))
            section.add("## Data")
            by = f"{escape(str(summary['grader']))} grading"
            own = "the data set's own verdicts"
            by = {"given": own, "both": f"{by} and {own}, where the two agree"}.get(str(summary.get("verdicts")), by)
            section.add(
                f"Teacher samples of {code(str(summary['source']))}: {summary['questions']:,} questions, "
                f"{summary['samples']:,} samples, {summary['positive']:,} right (D_pos), {summary['negative']:,} wrong "
                f"(D_neg) by {by}."
            )


def _add_results(section: Section, file: Path, stage: str) -> None:
    body = []
    if file.is_file():
        with reading(file):
            for row in json.loads(file.read_text(encoding="utf-8")):
                if row["method"] == stage:
                    interval = f"{100 * row['ci_low']:.2f} to {100 * row['ci_high']:.2f}"
                    names = [escape(row["dataset"]), escape(row["subject"])]
                    body.append([*names, str(row["n"]), f"{100 * row['accuracy']:.2f}", interval])
    if body:
        section.add("## Results")
        section.add("Greedy answers; one training run.")
        section.add(*table(["data set", "subject", "questions", "accuracy %", "95% interval"], body, texts=2))


def training_config(stage: Path) -> dict[str, Any] | None:
    """Seed, stage, data and epochs of a stage's last training, as Lightning saved them; None where there is none."""
    file = stage / "fit" / "config.yaml"
    if not file.is_file():
        return None
    with reading(file):
        config: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        shown = {name: config[name] for name in ("seed_everything", "model", "data")}
        return {**shown, "max_epochs": config["trainer"]["max_epochs"]}


def _add_training(section: Section, run: Path, stage: str) -> None:
    """Adds the arguments of stage and data of its last training, paths without where they are on this machine."""
    if config := training_config(run / stage):
        epochs = config.pop("max_epochs")
        text = f"{yaml.safe_dump(_without_places(config, run.resolve()), sort_keys=False)}# max_epochs: {epochs}"
        section.add("## Training")
        section.add(*code_block(text, "yaml"))


def _without_places(value: Any, run: Path) -> Any:
    """Settings whose paths are of the run, or the last part alone."""
    if isinstance(value, dict):
        return {name: _without_places(inner, run) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner, run) for inner in value]
    if not isinstance(value, str) or not value.startswith(("/", "~")):
        return value
    path = Path(value)
    return path.relative_to(run).as_posix() if path.is_relative_to(run) else path.name

"""`export`: a trained stage as what other programs load, with a model card and without any code of ours.

    adapter (default)   stock PEFT adapter, tokenizer, card           PeftModel, vLLM --lora-modules
    --merge             a whole Hugging Face model, tokenizer, card   AutoModelForCausalLM, vLLM, llama.cpp

NAT is no plain LoRA: it is exported as its two adapters and its units, to be read with `open_nat`, and never merged.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.components.encoding.prompts import Prompt
from dust2gold.core.errors import InputError
from dust2gold.core.files import write_directory_atomically
from dust2gold.core.students import public_name
from dust2gold.interchange.card import model_card, training_config
from lightning_modules.components.adapters.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_MANIFEST,
    check_weights,
    read_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KINDS = ("lora", "nat")  # of adapters that answer questions, as their manifests state them


def export(
    run: Path, stage: str, output: Path, merge: bool = False, dtype: str = "float32", student: str | None = None
) -> Path:
    """Writes the best adapter of a run's stage into a new directory `output`, and returns that.

    With `merge` the adapter is folded into the base weights, of `dtype`, and a whole model is written. The `student` is
    by default the one that the stage was trained with, where it was then.

    Raises:
        InputError: If the stage has no adapter or a damaged one, `output` exists, or a NAT is to be merged.
    """
    known = [d.parent.name for d in sorted(run.glob("*/adapter")) if read_manifest(d).get("kind") in _KINDS]
    remedy = f"stages that can be exported: {', '.join(known) or 'none yet'}"
    if Path(stage).name != stage:
        raise InputError(f"'{stage}' is no name of a stage", field="--stage", remedy=remedy)
    adapter = run / stage / "adapter"
    # An export is for others: what a link elsewhere points to must not get into it.
    for file in adapter.rglob("*"):
        if file.is_symlink() and not file.resolve().is_relative_to(adapter.resolve()):
            raise InputError("is a link out of the adapter's directory", file=file, remedy="put a copy in its place")
    manifest = read_manifest(adapter)
    kind = str(manifest.get("kind", ""))
    if kind not in _KINDS:
        problem = f"no trained decoder here (found {kind or 'no manifest'})"
        raise InputError(problem, file=adapter, field="--stage", remedy=remedy)
    if kind == "nat" and merge:
        from lightning_modules.components.integration.unit import CANNOT_MERGE

        raise InputError(CANNOT_MERGE, field="--merge", remedy="export --stage nce --merge, or NAT without --merge")
    if output.exists():
        raise InputError("is there already", file=output, field="--output", remedy="name a new directory")
    check_weights(adapter, manifest)
    student = student or _student_of(run / stage) or str(manifest["student"])
    prompt = Prompt.noted(manifest.get("prompt"), "the adapter", adapter)
    tokenizer, own_template = _tokenizer(student, prompt)
    card = model_card(run, stage, student, "merged" if merge else kind, prompt, own_template)
    with write_directory_atomically(output) as directory:
        if merge:
            _write_merged(adapter, student, directory, dtype, tokenizer)
        elif kind == "nat":
            _write_nat(adapter, student, directory)
        else:
            _write_adapter(adapter, student, directory)
        tokenizer.save_pretrained(directory)
        (directory / "README.md").write_text(card, encoding="utf-8")
    return output


def _write_adapter(adapter: Path, student: str, directory: Path) -> None:
    """Copies the stock adapter."""
    from peft import PeftConfig

    shutil.copyfile(adapter / "adapter_model.safetensors", directory / "adapter_model.safetensors")
    config = PeftConfig.from_pretrained(str(adapter))
    config.base_model_name_or_path = public_name(student)
    config.inference_mode = True
    config.save_pretrained(str(directory))
    write_manifest(directory, {**read_manifest(adapter), "student": public_name(student)})


def _write_nat(adapter: Path, student: str, directory: Path) -> None:
    """Copies both adapters and the units, with no path of the base, which older adapters have."""
    shutil.copytree(adapter, directory, dirs_exist_ok=True)
    for manifest in sorted(directory.rglob(ADAPTER_MANIFEST), reverse=True):  # the whole's signs what its parts hold
        part = manifest.parent
        for file in part.glob(ADAPTER_CONFIG):
            config = {**json.loads(file.read_text(encoding="utf-8")), "base_model_name_or_path": public_name(student)}
            file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_manifest(part, {**read_manifest(part), "student": public_name(student)})


def _write_merged(adapter: Path, student: str, directory: Path, dtype: str, tokenizer: PreTrainedTokenizerBase) -> None:
    from lightning_modules.components.adapters.stack import AdapterStack, load_base

    stack = AdapterStack(load_base(student, dtype), student)
    stack.load("student", adapter)
    merged = stack.model.merge_and_unload()  # type: ignore[operator]  # a PeftModel, from the first adapter on
    merged.save_pretrained(directory)
    file = directory / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    own = settings.get("eos_token_id")  # the student's, which end answers too
    stops = dict.fromkeys([tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])])
    stops.pop(None, None)
    # Not through the model's settings: transformers refuses published ones once they are changed.
    settings |= {
        "eos_token_id": list(stops) if len(stops) > 1 else tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _student_of(stage: Path) -> str | None:
    """The student of a stage's last training; None where no log says it."""
    model = (training_config(stage) or {}).get("model") or {}
    student = (model.get("init_args") or {}).get("student")
    return None if student is None else str(student)


def _tokenizer(student: str, prompt: Prompt) -> tuple[PreTrainedTokenizerBase, bool]:
    """The student's tokenizer, and whether it has a chat template of its own, which stays.

    One without gets a template that makes a chat of one question the prompt that the student was trained with.
    """
    from datamodules.components.encoding.tokenization import load_tokenizer

    tokenizer = load_tokenizer(student)
    if tokenizer.chat_template:
        return tokenizer, True
    starts = prompt.opening and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    # As expressions: Jinja drops a template's last line break, and the prompt ends in one.
    message = f"{json.dumps(prompt.before)} + messages[-1]['content'] + {json.dumps(prompt.after)}"
    tokenizer.chat_template = f"{{{{ {'bos_token + ' if starts else ''}{message} }}}}"
    return tokenizer, False

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

from datamodules.components.encoding.prompts import prompt
from dust2gold.core.errors import InputError
from dust2gold.core.files import write_directory_atomically
from dust2gold.core.students import EMBEDDED, locate_student
from dust2gold.interchange.card import model_card
from lightning_modules.components.adapters.manifest import (
    ADAPTER_MANIFEST,
    check_weights,
    read_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KINDS = ("lora", "nat")  # of adapters that answer questions, as their manifests state them


def export(run: Path, stage: str, output: Path, merge: bool = False, dtype: str = "float32") -> Path:
    """Writes the best adapter of a run's stage into a new directory `output`, and returns that.

    With `merge` the adapter is folded into the base weights, of `dtype`, and a whole model is written.

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
    student = str(manifest["student"])
    tokenizer = _tokenizer(student)
    card = model_card(run, stage, student, "merged" if merge else kind)
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
    """Copies the stock adapter; the embedded base is written as its path."""
    from peft import PeftConfig

    shutil.copyfile(adapter / "adapter_model.safetensors", directory / "adapter_model.safetensors")
    config = PeftConfig.from_pretrained(str(adapter))
    config.base_model_name_or_path = _base_of(student)
    config.inference_mode = True
    config.save_pretrained(str(directory))
    write_manifest(directory, read_manifest(adapter))


def _write_nat(adapter: Path, student: str, directory: Path) -> None:
    """Copies both adapters and the units; a base in a local directory is written as its absolute path."""
    shutil.copytree(adapter, directory, dirs_exist_ok=True)
    if student != EMBEDDED:
        text = json.dumps({**read_manifest(directory), "student": _base_of(student)}, indent=2) + "\n"
        (directory / ADAPTER_MANIFEST).write_text(text, encoding="utf-8")


def _write_merged(adapter: Path, student: str, directory: Path, dtype: str, tokenizer: PreTrainedTokenizerBase) -> None:
    from lightning_modules.components.adapters.stack import AdapterStack, load_base

    stack = AdapterStack(load_base(student, dtype), student)
    stack.load("student", adapter)
    merged = stack.model.merge_and_unload()  # type: ignore[operator]  # a PeftModel, from the first adapter on
    merged.generation_config.eos_token_id = tokenizer.eos_token_id
    merged.generation_config.pad_token_id = tokenizer.pad_token_id
    merged.save_pretrained(directory)


def _base_of(student: str) -> str:
    """The name or path for `from_pretrained`: a hub name, or the absolute path of a local directory."""
    located = locate_student(student)
    return str(Path(located).resolve()) if Path(located).is_dir() else located


def _tokenizer(student: str) -> PreTrainedTokenizerBase:
    """The student's tokenizer, with a chat template that makes a chat of one question the prompt it was trained on."""
    from datamodules.components.encoding.tokenization import load_tokenizer

    tokenizer = load_tokenizer(student)
    before, after = prompt("\0").split("\0")
    opening = "bos_token + " if tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id] else ""
    # As expressions: Jinja drops a template's last line break, and the prompt ends in one.
    message = f"{json.dumps(before)} + messages[-1]['content'] + {json.dumps(after)}"
    tokenizer.chat_template = f"{{{{ {opening}{message} }}}}"
    return tokenizer

"""What an adapter directory holds: PEFT's files, and `dust2gold.json` beside them.

The manifest says what the adapter is, which base it belongs to, and checksums of weights and configs: with another
lora_alpha the same weights are another adapter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError
from dust2gold.core.files import sha256_of

ADAPTER_MANIFEST = "dust2gold.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS, PICKLED_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"


def write_manifest(directory: Path, facts: dict[str, Any]) -> None:
    """Writes `facts` and the checksums of the weights and LoRA configs that are in `directory` by now."""
    manifest = {**facts, "sha256": {name: sha256_of(file) for name, file in _signed_files(directory)}}
    (directory / ADAPTER_MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def add_facts(directory: Path, facts: dict[str, Any]) -> None:
    """Adds facts to the manifest of an adapter and of each adapter in it; checksums stay as they are."""
    for file in directory.rglob(ADAPTER_MANIFEST):
        manifest = {**read_manifest(file.parent), **facts}
        file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _signed_files(directory: Path) -> list[tuple[str, Path]]:
    """The files below a directory that have a checksum, by their path in it."""
    files = sorted(file for pattern in ("*.safetensors", ADAPTER_CONFIG) for file in directory.rglob(pattern))
    return [(file.relative_to(directory).as_posix(), file) for file in files]


def check_files(directory: Path, weights: bool = True) -> None:
    """Refuses, with an InputError, a directory that holds no adapter in PEFT's format with safetensors.

    Without `weights` its config is enough.
    """
    if (directory / PICKLED_WEIGHTS).is_file() and not (directory / ADAPTER_WEIGHTS).is_file():
        remedy = f"write the adapter as {ADAPTER_WEIGHTS} (save_pretrained does) on a machine you trust"
        problem = "a pickle: reading it could run code, so it is refused"
        raise InputError(problem, file=directory / PICKLED_WEIGHTS, remedy=remedy)
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if weights else (ADAPTER_CONFIG,):
        if not (directory / file).is_file():
            remedy = "give the directory a stage wrote, e.g. runs/demo/neg/adapter"
            raise InputError(f"no adapter here ({file} is missing)", file=directory, remedy=remedy)


def check_weights(directory: Path, manifest: dict[str, Any]) -> None:
    """Refuses, with an InputError, weights and LoRA configs that differ from the checksums in the manifest."""
    written = manifest.get("sha256", {})
    if not isinstance(written, dict):
        raise damaged_manifest(directory, "sha256")
    for name, file in _signed_files(directory):
        if name in written and sha256_of(file) != written[name]:
            remedy = f"train it again; if you changed it on purpose, take sha256 out of {ADAPTER_MANIFEST}"
            raise InputError("damaged: its SHA-256 is not the one in the manifest beside it", file=file, remedy=remedy)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Reads `dust2gold.json` of an adapter directory; empty if it has none (a stock PEFT adapter)."""
    file = directory / ADAPTER_MANIFEST
    if not file.is_file():
        return {}
    try:
        manifest = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(manifest, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise damaged_manifest(directory, error) from error
    return manifest


def damaged_manifest(directory: Path, what: object) -> InputError:
    """The error to raise where `what` is wrong."""
    return InputError(f"damaged manifest ({what})", file=directory / ADAPTER_MANIFEST, remedy="train the adapter again")

"""The manifest beside an adapter's weights, `dust2gold.json`: what it is, which base it belongs to, and checksums.

A LoRA's config has a checksum as its weights do: with another lora_alpha the same weights are another adapter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError
from dust2gold.core.files import sha256_of
from lightning_modules.components.adapters.base_identity import BaseIdentity

ADAPTER_MANIFEST = "dust2gold.json"
ADAPTER_CONFIG = "adapter_config.json"


def write_manifest(directory: Path, facts: dict[str, Any]) -> None:
    """Writes `facts` and the checksums of the weights and LoRA configs that are in `directory` by now."""
    manifest = {**facts, "sha256": {name: sha256_of(file) for name, file in _signed_files(directory)}}
    (directory / ADAPTER_MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _signed_files(directory: Path) -> list[tuple[str, Path]]:
    """The files below a directory that have a checksum, by their path in it."""
    files = sorted(file for pattern in ("*.safetensors", ADAPTER_CONFIG) for file in directory.rglob(pattern))
    return [(file.relative_to(directory).as_posix(), file) for file in files]


def check_weights(directory: Path, manifest: dict[str, Any]) -> None:
    """Compares weights and LoRA configs with the checksums in the manifest.

    Raises:
        InputError: If one differs, or the manifest's entry is not as it is written.
    """
    written = manifest.get("sha256", {})
    if not isinstance(written, dict):
        raise _damaged(directory, "sha256")
    for name, file in _signed_files(directory):
        if name in written and sha256_of(file) != written[name]:
            raise InputError(
                "damaged: its SHA-256 is not the one in the manifest beside it",
                file=file,
                remedy=f"train it again; if you changed it on purpose, take sha256 out of {ADAPTER_MANIFEST}",
            )


def read_manifest(directory: Path) -> dict[str, Any]:
    """Reads `dust2gold.json` of an adapter directory; empty if it has none (a stock PEFT adapter).

    Raises:
        InputError: If the file is there and is no JSON object.
    """
    file = directory / ADAPTER_MANIFEST
    if not file.is_file():
        return {}
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise _damaged(directory, error) from error
    return manifest


def base_of(directory: Path, manifest: dict[str, Any]) -> BaseIdentity | None:
    """The base that a manifest names; None if it names none.

    Raises:
        InputError: If the manifest's entry is not as it is written.
    """
    try:
        return None if manifest.get("base") is None else BaseIdentity.from_json(manifest["base"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(directory, error) from error


def _damaged(directory: Path, what: object) -> InputError:
    return InputError(f"damaged manifest ({what})", file=directory / ADAPTER_MANIFEST, remedy="train the adapter again")

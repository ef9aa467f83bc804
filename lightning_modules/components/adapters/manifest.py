"""The manifest beside an adapter's weights, `dust2gold.json`: what it is, which base it belongs to, and checksums.

Of a LoRA's config as of its weights: a lora_alpha that has changed in it makes another adapter of the same weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError
from dust2gold.core.files import sha256_of

ADAPTER_MANIFEST = "dust2gold.json"
ADAPTER_CONFIG = "adapter_config.json"


def write_manifest(directory: Path, facts: dict[str, Any]) -> None:
    """Writes the manifest: `facts`, and the checksums of the weights and LoRA configs in `directory` by now."""
    manifest = {**facts, "sha256": {name: sha256_of(file) for name, file in _signed_files(directory)}}
    (directory / ADAPTER_MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _signed_files(directory: Path) -> list[tuple[str, Path]]:
    """The files below a directory that have a checksum, by their path in it."""
    files = sorted(file for pattern in ("*.safetensors", ADAPTER_CONFIG) for file in directory.rglob(pattern))
    return [(file.relative_to(directory).as_posix(), file) for file in files]


def check_weights(directory: Path, manifest: dict[str, Any]) -> None:
    """Compares the files of weights and the LoRA configs with the checksums that the manifest has of them.

    Raises:
        InputError: If one differs, or the manifest's entry is not as it is written.
    """
    written = manifest.get("sha256", {})
    if not isinstance(written, dict):
        raise InputError(
            "damaged manifest (sha256)", file=directory / ADAPTER_MANIFEST, remedy="train the adapter again"
        )
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
        raise InputError(f"damaged manifest ({error})", file=file, remedy="train the adapter again") from error
    return manifest

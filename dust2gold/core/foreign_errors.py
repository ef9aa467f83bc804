"""What the exceptions of others mean to a user: one table, and what to do about each.

Matched by the names of their classes and by what they say: libraries move their classes, and none is imported here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import sys
from collections.abc import Iterator
from typing import NamedTuple

from dust2gold.core.errors import InputError, reason

_SPACE = "free some space, then repeat the command: what was written before stays valid"
_PLACE = "choose a place where you may write, or mend its permissions"
_LINKS = "symbolic links that lead back to themselves: mend them, or choose another path"
_SYSTEM = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.EACCES: _PLACE,
    errno.EPERM: _PLACE,
    errno.EROFS: _PLACE,
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file stands where a directory is needed: choose another path"),
    errno.EISDIR: "a directory stands where a file is needed: choose another path",
    errno.ENAMETOOLONG: "no file system takes so long a name: choose a shorter one",
    errno.EIO: "the disk or the device behind it fails: choose another file, or look into the system's log",
    errno.ELOOP: _LINKS,
}
"""What to do about the errors of the operating system that may strike any reading or writing, by number."""

_MEMORY = (
    "lower data.tokens_per_batch or data.batch_size (predict, test: model.sampling.rows), or set "
    "model.gradient_checkpointing true, model.dtype bfloat16 or model.quantization 4bit"
)
_VOCABULARY = "a token id beyond the student's vocabulary"
_TOKENIZER = "take the student's own tokenizer: leave out data.tokenizer, or mend the student's files"


class _Known(NamedTuple):
    kinds: str  # names of classes, of the exception or of a base of it
    says: str  # a regular expression
    remedy: str
    problem: str | None = None  # in the place of what it says


_KNOWN = (
    _Known("MemoryError OutOfMemoryError", "", _MEMORY, "out of memory"),
    _Known(
        "RuntimeError OSError",
        r"out of memory|(can't|not enough|[Cc]annot) allocate|not enough memory|ALLOC_FAILED"
        r"|DataLoader worker .* killed by signal: (Killed|Bus)",
        _MEMORY,
        "out of memory",
    ),
    _Known("ValueError", "is not in bounds, numpy accepts", "give a --seed_everything in these bounds"),
    _Known("ValueError", "embedded null byte", "a path holds a NUL character: choose another one"),
    _Known("RuntimeError", "Symlink loop", _LINKS),
    _Known("RuntimeError", "home directory", "a path begins with ~ and the name of nobody here: write it out"),
    _Known("IndexError", "index out of range in self", _TOKENIZER, _VOCABULARY),
    _Known("RuntimeError", "device-side assert", _TOKENIZER, f"the GPU stopped, as it does at {_VOCABULARY}"),
    _Known(
        "UnpicklingError",
        "",
        "write them as safetensors (save_pretrained does) on a machine you trust",
        "the weights hold more than tensors: reading them could run code, so they are refused",
    ),
    _Known(
        "RuntimeError",
        "ignore_mismatched_sizes",
        "mend config.json, or fetch the student again",
        "its weights have other shapes than its config.json says, see above",
    ),
    _Known("RuntimeError", "Early stopping conditioned on metric", "let it monitor one of these metrics"),
    _Known("MisconfigurationException", "", "mend the options of trainer: dust2gold fit --help lists them"),
)


def known_error(error: Exception) -> InputError | None:
    """What a user is told of an error; None of a fault of ours, whose traceback is wanted."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, OSError) and error.errno in _SYSTEM:
        return InputError(error.strerror or str(error), file=error.filename, remedy=_SYSTEM[error.errno])
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for known in _KNOWN:
        if kinds.intersection(known.kinds.split()) and re.search(known.says, str(error)):
            problem = known.problem or reason(error)
            return InputError(f"{problem} ({_peaks()})" if known.remedy is _MEMORY else problem, remedy=known.remedy)
    return None


@contextlib.contextmanager
def loading(what: str, file: str | os.PathLike[str], remedy: str, field: str | None = None) -> Iterator[None]:
    """Turns whatever a library raises in the block, at files that are not what it expects, into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        known = known_error(error) or InputError(f"cannot load {what} ({kind}{reason(error)})", remedy=remedy)
        raise InputError(known.problem, file=known.file or file, field=field, remedy=known.remedy) from error


def _peaks() -> str:
    """The most memory this process has used, its GPU's too."""
    peak = f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        peak += f", on the GPU {cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return peak

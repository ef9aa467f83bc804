"""Which exceptions of others are told in two lines, and what is left a traceback."""

import errno
import os
import pickle

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from dust2gold.core.errors import InputError
from dust2gold.core.foreign_errors import known_error, loading

CPU = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
WORKER = "DataLoader worker (pid 7) is killed by signal: Killed. "


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        *(RuntimeError(says) for says in ("CUDA error: out of memory", CPU, CUBLAS, WORKER)),
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_out_of_memory(error: Exception) -> None:
    known = known_error(error)
    assert known is not None
    assert known.problem.startswith("out of memory (peak ")
    for option in ("tokens_per_batch", "batch_size", "rows", "gradient_checkpointing", "dtype", "quantization"):
        assert option in str(known.remedy)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: No space left on device\n  free some space"),
        (FileExistsError(errno.EEXIST, "File exists", "/a"), "/a: File exists\n  a file stands where a directory is"),
        (IndexError("index out of range in self"), "a token id beyond the student's vocabulary"),
        (RuntimeError("CUDA error: device-side assert triggered"), "a token id beyond the student's vocabulary"),
        (RuntimeError("You set `ignore_mismatched_sizes` to `False`"), "other shapes than its config.json says"),
        (pickle.UnpicklingError("Weights only load failed"), "could run code, so they are refused"),
        (MisconfigurationException("one\ntwo"), "one\n  mend the options of trainer"),
        (ValueError("embedded null byte"), "a NUL character"),
        (InputError("ours", remedy="mend it"), "ours\n  mend it"),
    ],
)
def test_known(error: Exception, says: str) -> None:
    assert says in str(known_error(error))


@pytest.mark.parametrize(
    "error", [OSError(errno.EBADF, "Bad file descriptor"), IndexError("list index out of range"), RuntimeError("x")]
)
def test_faults_of_ours_keep_their_traceback(error: Exception) -> None:
    assert known_error(error) is None
    with pytest.raises(InputError, match=r"^/a: field 'b': cannot load it"), loading("it", "/a", "mend it", field="b"):
        raise error


def test_an_error_of_ours_is_not_wrapped() -> None:
    with pytest.raises(InputError, match=r"^ours$"), loading("it", "/a", "mend it"):
        raise InputError("ours")

import os

from dust2gold.core.machine import described, machine, versions
from dust2gold.core.provenance import version_of


def test_this_machine_on_one_line() -> None:
    found = machine()
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert described(found).startswith(f"{found['cpu']}, {found['cores']} cores, {found['vectors']}")
    assert described({**found, "gpus": ["H100"]}).endswith(", H100")
    assert versions()["torch"] == version_of("torch")

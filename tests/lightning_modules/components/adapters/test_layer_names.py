from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.stack import AdapterStack
from tests.students import unsign

SLOW = "(.*)+(.*)+(.*)+(.*)+(.*)+(.*)+x!"


def edit(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_patterns_are_not_matched(
    new_stack: Callable[[], AdapterStack], negative_directory: Path, make_batch: Any, logits_of: Any, tmp_path: Path
) -> None:
    """A stock adapter may name its layers by a regular expression, and a hostile one by one that takes years."""
    shutil.copytree(negative_directory, tmp_path / "adapter")
    unsign(tmp_path / "adapter")
    config, batch = tmp_path / "adapter/adapter_config.json", make_batch()
    stacks = [new_stack(), new_stack()]
    stacks[0].load("one", tmp_path / "adapter")
    edit(config, target_modules=SLOW, exclude_modules=SLOW)
    stacks[1].load("one", tmp_path / "adapter")
    assert torch.equal(*(logits_of(each.eval(), batch) for each in stacks))
    names = json.loads((negative_directory / "adapter_config.json").read_text())["target_modules"]
    plain = {"target_modules": names, "exclude_modules": None}
    for setting in (
        {"exclude_modules": SLOW},
        {"layers_pattern": SLOW, "layers_to_transform": [0]},
        {"layers_pattern": [SLOW], "layers_to_transform": [0]},
        {"rank_pattern": {SLOW: 4}},
        {"alpha_pattern": {SLOW: 4}},
    ):
        edit(config, **{"layers_pattern": None, "layers_to_transform": None, "rank_pattern": {}, **plain, **setting})
        with pytest.raises(InputError, match="holds the regular expression"):
            new_stack().load("one", tmp_path / "adapter")

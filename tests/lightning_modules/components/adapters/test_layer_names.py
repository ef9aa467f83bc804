import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from lightning_modules.components.adapters.layer_names import name_layers
from lightning_modules.components.adapters.stack import AdapterStack
from tests.students import unsign

SLOW = "(.*)+(.*)+(.*)+(.*)+(.*)+(.*)+x!"
"""A stock adapter may name its layers by a regular expression, and a hostile one by one that takes years."""


def test_a_pattern_for_the_layers_is_replaced_by_those_there_are_weights_of(
    new_stack: Callable[[], AdapterStack], negative_directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(negative_directory, tmp_path, dirs_exist_ok=True)
    unsign(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config |= {"target_modules": SLOW, "exclude_modules": SLOW}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    stack, named = new_stack(), new_stack()
    stack.load("one", tmp_path)
    named.load("one", negative_directory)
    assert stack.lora_layers("one").keys() == named.lora_layers("one").keys()


@pytest.mark.parametrize(
    "setting",
    [
        {"exclude_modules": SLOW},
        {"layers_pattern": SLOW, "layers_to_transform": [0]},
        {"layers_pattern": [SLOW], "layers_to_transform": [0]},
        {"rank_pattern": {SLOW: 4}},
        {"alpha_pattern": {SLOW: 4}},
    ],
)
def test_any_other_pattern_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="holds the regular expression"):
        name_layers(LoraConfig(target_modules=["q_proj"], **setting), [])

"""A student's directory with one thing wrong in it: two lines that name it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dust2gold.core.students import locate_student
from tests.records import write_positive
from tests.words import stage_words

Complaint = Callable[..., str]
pytestmark = pytest.mark.filterwarnings("ignore")


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        change(found := load_file(file))
        save_file(found, file, metadata={"format": "pt"})

    return write


def config(**changes: Any) -> Callable[[Path], object]:
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | changes))


QUERY = "model.layers.0.self_attn.q_proj.weight"
BROKEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no JSON": ("config.json", lambda file: file.write_text("{not json")),
    "a list": ("config.json", lambda file: file.write_text("[]")),
    "null": ("config.json", lambda file: file.write_text("null")),
    "no model_type": ("config.json", lambda file: file.write_text("{}")),
    "an unknown type": ("config.json", config(model_type="nonsense")),
    "a type that is none": ("config.json", config(model_type=["llama"])),
    "an encoder": ("config.json", config(model_type="bert")),
    "heads that do not divide": ("config.json", config(num_attention_heads=7)),
    "no heads": ("config.json", config(num_attention_heads=0)),
    "fewer than no heads": ("config.json", config(num_attention_heads=-4)),
    "no layers": ("config.json", config(num_hidden_layers=-1)),
    "more layers than weights": ("config.json", config(num_hidden_layers=6)),
    "another width": ("config.json", config(hidden_size=64, head_dim=None)),
    "a text for a number": ("config.json", config(vocab_size="many")),
    "an unknown activation": ("config.json", config(hidden_act="nope")),
    "unknown positions": ("config.json", config(rope_parameters={"rope_type": "nope", "rope_theta": 1e4})),
    "no weights": ("model.safetensors", Path.unlink),
    "empty weights": ("model.safetensors", lambda file: file.write_bytes(b"")),
    "cut weights": ("model.safetensors", lambda file: os.truncate(file, 5_000)),
    "a missing tensor": ("model.safetensors", weights(lambda found: found.pop(QUERY))),
    "a tensor of another shape": ("model.safetensors", weights(lambda found: found.update({QUERY: torch.zeros(3, 3)}))),
    "a model's weights of another name": ("model.safetensors", weights(lambda found: found.update(a=found.pop(QUERY)))),
    "no tokenizer": ("tokenizer.json", Path.unlink),
    "a tokenizer that is no JSON": ("tokenizer.json", lambda file: file.write_text("{")),
    "a tokenizer without a model": ("tokenizer.json", lambda file: file.write_text("{}")),
    "a tokenizer's config that is none": ("tokenizer_config.json", lambda file: file.write_text("[]")),
    "an unknown tokenizer": ("tokenizer_config.json", lambda file: file.write_text('{"tokenizer_class": 3}')),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_student(name: str, complaint: Complaint, tiny_student: Path, tmp_path: Path) -> None:
    student = tmp_path / "student"
    shutil.copytree(tiny_student, student)
    file, spoil = BROKEN[name]
    spoil(student / file)
    train = write_positive(tmp_path / "p.jsonl", 4)
    words = stage_words("fit", "neg", student, tmp_path / "run", f"--data.train {train} --data.verdicts positive")
    said = complaint(*words)
    assert str(student) in said


def test_a_token_beyond_the_vocabulary(complaint: Complaint, tiny_student: Path, tmp_path: Path) -> None:
    student, train = tmp_path / "student", write_positive(tmp_path / "p.jsonl", 4)
    shutil.copytree(tiny_student, student)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(locate_student("embedded"), name), student)
    words = stage_words("fit", "neg", student, tmp_path / "run", f"--data.train {train} --data.verdicts positive")
    said = complaint(*words)
    assert f"{train}:1: " in said
    assert "and the student's embedding has 320 rows" in said

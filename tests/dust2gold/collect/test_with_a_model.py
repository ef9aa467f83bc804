"""From a real model behind an endpoint to D_pos, D_neg, and a stage that trains on them.

The model is the embedded student, served on loopback by its own sampler.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules.components.encoding.prompts import prompt
from datamodules.components.records.records import read_rationales
from dust2gold import cli
from dust2gold.core.students import EMBEDDED, locate_student
from lightning_modules.components.sampling.sampler import sample_each
from lightning_modules.components.sampling.settings import SamplingSettings
from tests.endpoint import Endpoint, Write, serving

QUESTIONS, N = 40, 4


def embedded_model(temperature: float) -> Write:
    """Lets the embedded student write. A sample depends on its question and its number alone."""
    directory = locate_student(EMBEDDED)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    lock = threading.Lock()

    def write(question: str, n: int) -> list[str]:
        with lock, torch.inference_mode():
            encoded = tokenizer(prompt(question), return_tensors="pt")
            [made] = sample_each(
                model,
                encoded["input_ids"],
                encoded["attention_mask"],
                [hashlib.sha256(question.encode()).hexdigest()],
                tokenizer.eos_token_id,
                tokenizer.pad_token_id,
                SamplingSettings(samples=n, temperature=temperature, max_new_tokens=80),
            )
        return [str(tokenizer.decode(one.token_ids, skip_special_tokens=True)) for one in made]

    return write


@pytest.fixture
def student() -> Iterator[Endpoint]:
    """An endpoint behind which the embedded student answers."""
    with serving(embedded_model(temperature=0.8)) as server:
        yield server


@pytest.mark.slow
def test_from_an_endpoint_to_a_trained_stage(student: Endpoint, tmp_path: Path) -> None:
    raw, data = tmp_path / "raw", tmp_path / "data"
    words = ["generate", "--output", str(raw), "--train-questions", str(QUESTIONS), "--test-questions", "30"]
    assert cli.main([*words, "--samples", "1", "--levels", "1,2"]) == 0
    (tmp_path / "prompt.yaml").write_text('ask: "Problem: {question}"\n', encoding="utf-8")
    ask = [
        "collect",
        "--prompt",
        str(tmp_path / "prompt.yaml"),
        "--endpoint.model",
        "embedded",
        "--endpoint.base_url",
        student.base_url,
        "--endpoint.key_variable",
        "null",
    ]
    train = ["--input", str(raw / "train.jsonl"), "--format", "tdg", "--source", "demo-train"]
    assert cli.main([*ask, *train, "--output", str(data), "--sampling.n", str(N)]) == 0
    positive, negative = ([*read_rationales(data / f"{name}.jsonl")] for name in ("positive", "negative"))
    assert len(positive) + len(negative) == QUESTIONS * N
    assert min(len(positive), len(negative)) > 10
    assert len([*read_rationales(data / "solutions.jsonl")]) == QUESTIONS

    test = ["--input", str(raw / "test.jsonl"), "--format", "math", "--source", "demo"]
    run = tmp_path / "run"
    student.write = embedded_model(temperature=0)
    assert cli.main([*ask, *test, "--output", str(run / "teacher"), "--evaluate", "--method", "teacher"]) == 0
    accuracy = json.loads((run / "teacher" / "metrics.json").read_text())["test/accuracy"]
    assert 0.1 < accuracy < 1

    assert (
        cli.main(
            [
                "fit",
                "--config",
                "configs/neg.yaml",
                "--data.train",
                str(data / "negative.jsonl"),
                "--trainer.max_steps",
                "1",
                "--trainer.accelerator",
                "cpu",
                "--trainer.enable_progress_bar",
                "false",
                "--trainer.default_root_dir",
                str(run / "neg"),
            ]
        )
        == 0
    )
    assert (run / "neg" / "adapter" / "adapter_model.safetensors").is_file()
    assert cli.main(["report", str(run)]) == 0
    assert {row["method"] for row in json.loads((run / "results.json").read_text())} == {"teacher"}

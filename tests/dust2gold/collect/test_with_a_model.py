"""From the embedded student behind an endpoint to D_pos, D_neg, and a stage that trains on them."""

import hashlib
import json
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules.components.encoding.prompts import PLAIN
from datamodules.components.records.records import read_rationales
from dust2gold import cli
from dust2gold.core.students import EMBEDDED, locate_student
from lightning_modules.components.sampling.sampler import sample_each
from lightning_modules.components.sampling.settings import SamplingSettings
from tests.endpoint import Write, serving
from tests.words import CPU

QUESTIONS, N = 40, 4


def embedded_model(temperature: float) -> Write:
    """Lets the embedded student write. A sample depends on its question and its number alone."""
    directory = locate_student(EMBEDDED)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    lock = threading.Lock()

    def write(question: str, n: int) -> list[str]:
        with lock, torch.inference_mode():
            encoded = tokenizer(PLAIN.ask(question), return_tensors="pt")
            keys = [hashlib.sha256(question.encode()).hexdigest()]
            ends = (tokenizer.eos_token_id, tokenizer.pad_token_id)
            settings = SamplingSettings(samples=n, temperature=temperature, max_new_tokens=80)
            [made] = sample_each(model, encoded["input_ids"], encoded["attention_mask"], keys, *ends, settings)
        return [str(tokenizer.decode(one.token_ids, skip_special_tokens=True)) for one in made]

    return write


@pytest.mark.slow
def test_from_an_endpoint_to_a_trained_stage(tmp_path: Path) -> None:
    raw, data, run = tmp_path / "raw", tmp_path / "data", tmp_path / "run"

    def call(words: str) -> None:
        assert cli.main(words.split()) == 0

    call(f"generate --output {raw} --train-questions {QUESTIONS} --test-questions 30 --samples 1 --levels 1,2")
    (tmp_path / "prompt.yaml").write_text('ask: "Problem: {question}"\n', encoding="utf-8")
    with serving(embedded_model(temperature=0.8)) as student:
        ask = f"collect --prompt {tmp_path}/prompt.yaml --endpoint.model embedded"
        ask += f" --endpoint.base_url {student.base_url} --endpoint.key_variable null"
        train = f"--input {raw}/train.jsonl --format tdg --source demo-train"
        call(f"{ask} {train} --output {data} --sampling.n {N}")
        files = (data / f"{name}.jsonl" for name in ("positive", "negative", "ungradable"))
        positive, negative, unstated = ([*read_rationales(file)] for file in files)
        assert len(positive) + len(negative) + len(unstated) == QUESTIONS * N
        assert min(len(positive), len(negative)) > 10
        assert len([*read_rationales(data / "solutions.jsonl")]) == QUESTIONS

        student.write = embedded_model(temperature=0)
        test = f"--input {raw}/test.jsonl --format math --source demo"
        call(f"{ask} {test} --output {run}/teacher --evaluate --method teacher")
    accuracy = json.loads((run / "teacher" / "metrics.json").read_text())["test/accuracy"]
    assert 0.1 < accuracy < 1

    trainer = f"{CPU} --trainer.max_steps 1 --trainer.default_root_dir {run}/neg"
    call(f"fit --config configs/neg.yaml --data.train {data}/negative.jsonl {trainer}")
    assert (run / "neg" / "adapter" / "adapter_model.safetensors").is_file()
    call(f"report {run}")
    assert {row["method"] for row in json.loads((run / "results.json").read_text())} == {"teacher"}

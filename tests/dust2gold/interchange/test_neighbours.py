"""The neighbours themselves take what we export: TRL trains on it, lm-evaluation-harness scores it as we do."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from datamodules.components.grading.extraction import extract_answer
from datamodules.components.records.records import read_questions, write_rationales
from dust2gold import cli
from dust2gold.core.jsonl import read_json_lines
from tests.records import rationale

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(("layout", "name"), [("preference", "DPO"), ("unpaired", "KTO")])
def test_trl_takes_a_step(
    tmp_path: Path, tiny_student: Path, layout: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trl = pytest.importorskip("trl", reason="install the extra `interop`")
    import datasets
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    samples, file = tmp_path / "samples.jsonl", tmp_path / "data.parquet"
    write_rationales(samples, [rationale(number, k) for number in range(4) for k in range(4)])
    assert cli.main(f"export-data --rationales {samples} --layout {layout} --output {file}".split()) == 0
    if not hasattr(trl, f"{name}Trainer"):  # where TRL keeps what is not settled yet
        trl = import_module(f"trl.experimental.{name.lower()}")
    steps_of = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
    plain = {"report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    arguments = getattr(trl, f"{name}Config")(output_dir=str(tmp_path / "trl"), **steps_of, **plain)
    trainer = getattr(trl, f"{name}Trainer")(
        model=AutoModelForCausalLM.from_pretrained(tiny_student),
        args=arguments,
        train_dataset=datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache")),
        processing_class=AutoTokenizer.from_pretrained(tiny_student),
        peft_config=LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    before = [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]
    trainer.train()
    after = [p for p in trainer.model.parameters() if p.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    losses = torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses) > 0
    assert losses.isfinite().all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CoT KD student of the embedded base that answers some of 40 questions right and some wrong."""
    run = tmp_path_factory.mktemp("run")
    student = "--config configs/neg.yaml --config configs/demo/student.yaml"
    root, questions = f"--trainer.default_root_dir {run}/cot-kd", f"{run}/test/questions.jsonl"
    for command in (
        f"generate --output {run}/raw --train-questions 300 --test-questions 40 --levels 2",
        f"prepare --input {run}/raw/train.jsonl --format tdg --output {run}/data",
        f"prepare --input {run}/raw/test.jsonl --format math --output {run}/test",
        f"fit {student} --data.train {run}/data/positive.jsonl --data.verdicts positive {root}",
        f"test {student} --model.adapter {run}/cot-kd/adapter --data.questions {questions} {root}",
        f"export --run {run} --stage cot-kd --merge --output {run}/exported",
        f"export-task --questions {questions} --name demo --max-new-tokens 80 --output {run}/task",
    ):
        assert cli.main(command.split()) == 0
    return run


def test_harness_scores_as_we_do(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="install the extra `interop`")
    harness = f"lm_eval run --model hf --model_args pretrained={trained}/exported,dtype=float32 --device cpu"
    task = f"--tasks demo --include_path {trained}/task --batch_size 8 --output_path {tmp_path}/lm_eval --log_samples"
    subprocess.run([sys.executable, "-m", *harness.split(), *task.split()], check=True)
    (found,) = (tmp_path / "lm_eval").rglob("results_*.json")
    theirs = json.loads(found.read_text())["results"]["demo"]["accuracy,none"]
    ours = [json.loads(line)["correct"] for line in (trained / "cot-kd/predictions.jsonl").open(encoding="utf-8")]
    assert 0 < sum(ours) < len(ours)  # a comparison of nothing but zeros would prove nothing
    assert theirs == pytest.approx(sum(ours) / len(ours))


@pytest.fixture
def server(trained: Path, tmp_path: Path) -> Iterator[str]:
    """The address of `transformers serve` with the exported student."""
    pytest.importorskip("fastapi", reason="install the extra `interop`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    words = [str(program), "serve", f"{trained}/exported", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()


def test_openai_server_answers_as_we_do(trained: Path, server: str) -> None:
    """Our `test` and a chat server that knows nothing of us give the same answers, the chat template being ours."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=server, api_key="none")
    ours = {row["question_id"]: row["answer"] for _, row in read_json_lines(trained / "cot-kd/predictions.jsonl")}
    asked = list(read_questions(trained / "test/questions.jsonl"))[:8]
    for question in asked:
        messages = [{"role": "user", "content": question.question}]
        asked_of = {"model": str(trained / "exported"), "temperature": 0, "max_tokens": 80}
        reply = client.chat.completions.create(messages=messages, **asked_of)
        assert extract_answer(reply.choices[0].message.content) == ours[question.id]

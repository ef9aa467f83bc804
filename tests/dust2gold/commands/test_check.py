"""`run --check`: the paper's run on records of every awkward length, what it finds wrong, and the paper's own data."""

import json
import lzma
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast, T5Config

from dust2gold import cli
from dust2gold.commands.disk import bytes_written
from dust2gold.run.settings import RunSettings, load_settings
from dust2gold.run.tables import run_stages
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.nce import NCEModel

pytestmark = pytest.mark.usefixtures("elsewhere")

LLAMA = LlamaConfig(
    vocab_size=32000, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=0
)
"""Of LLaMA's context, 2,048. A check wants no weights."""
T5 = T5Config(vocab_size=32000, d_model=8, d_ff=8, d_kv=8, num_layers=1, num_heads=1)


def write_models(root: Path, tokenizer: Any) -> list[str]:
    """Writes both configs, each with the tokenizer, and returns the options of `run` that name them."""
    for name, config in {"llama": LLAMA, "t5": T5}.items():
        config.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return ["--set", f"student={root}/llama", "--set", f"rank_base={root}/t5"]


def solved(number: int, question: str, *answers: str, solution: str = "So it is \\boxed{1}.") -> dict[str, Any]:
    """A line of the teacher's file."""
    about = {"level": "Level 1", "type": "Algebra"}
    generated = [f"Solution:\n{answer}" for answer in answers]
    return {"question": f"Problem:\n{question} ({number})", "answer": solution, "generated_answer": generated, **about}


def write_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def options(tmp_path: Path, tiny_student: Path) -> list[str]:
    """A run of the paper's configs on few records: of a question, a solution and a sample each is very long."""
    right, wrong = "It is \\boxed{1}.", "It is \\boxed{2}."
    lines = [solved(number, "How many?", right, wrong) for number in range(6)]
    lines.append(solved(6, "How many? " * 130, right, wrong))
    lines.append(solved(7, "How many?", right, wrong, solution="nuts, " * 800 + "\\boxed{1}"))
    lines.append(solved(8, "How many?", right + " so" * 700, wrong + " so" * 700, right, wrong))
    write_lines(tmp_path / "teacher.jsonl", lines)
    test = [
        {"problem": text, "level": "Level 1", "type": "Algebra", "solution": right} for text in ("Why?", "Why? " * 400)
    ]
    write_lines(tmp_path / "test.jsonl", test)
    data = ["--set", "teacher_data=teacher.jsonl", "--set", "test_data=test.jsonl"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_student)
    return ["run", "--run", "runs/it", "--check", *data, *write_models(tmp_path, tokenizer)]


def test_the_papers_run_is_set_up_whatever_the_lengths(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*options, "--config", "configs/paper.yaml"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "9 of 10 rationales",  # the long sample is left out of D_pos
        "left out 1 rationales of 1,600 characters or more",
        "1 questions leave less than 1,024 tokens for an answer in the context of 2,048",
        "still to be made: runs/it/samples/positive.jsonl; read instead: runs/it/data/positive.jsonl",
        "rationales of more than 512 tokens",
        "rationales have more than 512 tokens: each gets the mean of its question's scores",
        "votes test its data are made by the run",
        "disk: about",
        "no problem found",
    ):
        assert part in said
    assert sorted(path.name for path in Path("runs/it").iterdir()) == [".stages", "data", "test"]


def write_sizes(**files: Any) -> list[str]:
    """Writes a directory of sizes, by stage."""
    Path("sizes").mkdir()
    for name, content in files.items():
        Path("sizes", f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return ["--set", "configs=sizes"]


ENCODER = {"class_path": "lightning_modules.components.ranking.backbones.EncoderSettings", "init_args": {"path": "t5"}}


def test_all_problems_are_told_together(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    narrow = {"model": {"init_args": {"lora": {"target_modules": ["q_proj"]}}}}
    students = {"data": {"init_args": {"max_characters": 1600, "drop_longer": True}}}
    sizes = write_sizes(
        student=students, neg=narrow, rank={"model": {"init_args": {"backbone": ENCODER, "schedule": "zigzag"}}}
    )
    assert cli.main([*options, "--config", "configs/paper.yaml", *sizes]) == 1
    out, err = capsys.readouterr()
    assert "stage 'nat', fit: field 'lora.target_modules': M_neg does not adapt layer" in err
    assert "stage 'rank', fit: field 'model.schedule': unknown schedule 'zigzag'" in err
    assert out.count("not checked: it needs runs/it/nat/adapter") == 3  # which are not blamed
    assert re.search(r"nce +test +not checked(.|\n)*votes +predict +not checked(.|\n)*problems: 2\n", out)


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({}, r"field 'rationale': .* more than --data.max_length 1024\n.*drop_longer"),
        ({"model": {"init_args": {"lora": {"target_modules": ["w_pack"]}}}}, "the student has no layer 'w_pack'"),
        ({"model": {"init_args": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": -1}}}}}, "-1"),
        (
            {"model": {"init_args": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0}}}}},
            "above 0, found 0.0",
        ),
        ({"data": {"init_args": {"tokens_per_batch": 60, "drop_longer": True}}}, "tokens_per_batch"),
    ],
)
def test_what_a_training_stage_would_stop_at(
    options: list[str], sizes: dict[str, Any], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*options, "--config", "configs/paper.yaml", *write_sizes(student=sizes, rank={})]
    assert cli.main([*given, "--only", "data,cot-kd"]) == 1
    err = capsys.readouterr().err
    assert "stage 'cot-kd', fit: " in err
    assert re.search(problem, err)


def test_samples_that_may_be_too_long_to_train_on(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    limits: dict[str, Any] = {"max_characters": 1600, "max_length": 900}
    sizes = write_sizes(student={"data": {"init_args": limits}}, rank={})
    only = ["--config", "configs/paper.yaml", "--only", "data,cot-kd,neg,nat,samples,nce"]
    assert cli.main([*options, *only, *sizes]) == 0
    out = capsys.readouterr().out
    warnings = re.findall(r"(?m)^(\w+) +fit .*\n.*read instead.*\n +samples may have up to (.*)", out)
    given = "more than --data.max_length 900, and would end it: give --data.drop_longer true"
    assert [(name, text.partition(" tokens, ")[2]) for name, text in warnings] == [("nce", given)]


def test_stages_that_ask_in_different_prompts(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    limits = {"max_characters": 1600, "drop_longer": True}
    Path("short.txt").write_text("Q: {question}\nA:")
    sizes = write_sizes(student={"data": {"init_args": limits}}, neg={"data": {"init_args": {"prompt": "short.txt"}}})
    only = ["--config", "configs/paper.yaml", "--only", "data,neg,nat"]
    assert cli.main([*options, *only, *sizes]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"'nat', fit: /.*/runs/it/neg/adapter: .*another prompt, short.txt", err)
    assert "problems: 1" in out


def test_a_run_of_a_student_with_a_chat_template(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    limits = {"max_characters": 1600, "drop_longer": True}
    Path("llama/chat_template.jinja").write_text(CHAT)
    rank = {"model": {"init_args": {"backbone": ENCODER}}, "data": {"init_args": {"drop_longer": True}}}
    sizes = write_sizes(student={"data": {"init_args": limits}}, rank=rank)
    assert cli.main([*options, "--config", "configs/paper.yaml", *sizes]) == 0
    assert "llama: prompts are made by its chat template" in capsys.readouterr().out


CHAT = """{% for message in messages %}{{ '<s>' + message.role + ':' + message.content + '</s>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"""


def test_an_adapter_of_another_kind_and_one_that_nobody_makes(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(OWN, encoding="utf-8")
    assert cli.main([*options, "--config", "configs/paper.yaml", "--stages", "own.py"]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"'mixed', fit: /.*/runs/it/cot-kd/adapter: no NAT here", err)  # by its own name
    assert "stage 'mixed', test: runs/it/nobody/adapter: no adapter here" in err
    assert "problems: 2" in out


OWN = """
from dust2gold.run.method import Commands
from dust2gold.run.stage import Stage
from dust2gold.run.tables import run_stages

def stages(settings):
    make = Commands(settings)
    commands = (
        make.fit("nce", make.files("data/positive.jsonl"), f"{make.run}/mixed", "--model.nat runs/it/cot-kd/adapter"),
        make.test("neg", f"{make.run}/nobody/adapter", f"{make.run}/mixed"),
    )
    kept = [stage for stage in run_stages(settings) if stage.name in ("data", "cot-kd")]
    return [*kept, Stage("mixed", "what does not fit", commands, ("cot-kd",))]
"""


def test_a_question_that_fills_the_context_and_a_full_disk(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"level": "Level 1", "type": "Algebra"}
    write_lines(Path("test.jsonl"), [{"problem": "Why? " * 2000, "solution": "\\boxed{1}", **about}])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert cli.main([*options, "--config", "configs/paper.yaml"]) == 1
    err = capsys.readouterr().err
    assert err.count("context of 2,048 holds no answer to it") == 5  # cot-kd, neg, nat, nce, and the votes
    assert "disk: runs/it: too little space" in err


def test_what_a_command_writes(tiny_student: Path) -> None:
    examples = SimpleNamespace(targets=lambda loss_on_prompt: torch.tensor([10, 20]))
    data = SimpleNamespace(questions=[None] * 5, train_examples=examples, loss_on_prompt=False)
    settings: Any = {"student": str(tiny_student), "sampling": SamplingSettings(samples=4, max_new_tokens=100)}
    online, cached = (NCEModel(teacher=name, **settings) for name in ("online", "cached"))
    with torch.device("meta"):
        online.configure_model()
        cached.configure_model()
    trained = 4 * 2 * 8 * ((32 + 32) + (32 + 16))  # float32; 2 layers of q_proj and v_proj
    assert bytes_written(online, data, "fit") == 12 * trained  # adapters and checkpoints
    assert bytes_written(cached, data, "fit") == 12 * trained + 30 * (2 * 32 + 4)  # mean embeddings, divergences
    assert bytes_written(cached, data, "predict") == 2 * 20 * (4 * 100 + 2000)
    assert bytes_written(cached, data, "test") == bytes_written(cached, None, "predict") == 0


# The paper's own data.


@pytest.fixture(scope="session")
def papers_models(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """LLaMA and T5 of one narrow layer, with a tokenizer of 32,000 pieces and single digits trained on MATH."""
    with lzma.open(real_data / "gpt-3.5-turbo-math-train.jsonl.xz", "rt", encoding="utf-8") as stream:
        texts = [text for line in map(json.loads, stream) for text in (line["question"], line["answer"])]
    tokenizer = Tokenizer(models.BPE())
    splits: list[Any] = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    bytes_, special = pre_tokenizers.ByteLevel.alphabet(), ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=32000, initial_alphabet=bytes_, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = {"pad_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return write_models(tmp_path_factory.mktemp("papers"), PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends))


@pytest.mark.slow
@pytest.mark.parametrize("config", ["paper", "paper_tables"])
def test_every_stage_of_the_papers_configs_is_set_up_on_its_data(
    config: str, papers_models: list[str], real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in real_data.glob("*.xz"):
        with lzma.open(file) as packed, (tmp_path / file.stem).open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    data = {"teacher_data": "gpt-3.5-turbo-math-train.jsonl", "test_data": "math-test.jsonl"}
    data |= {"others": "."} if config == "paper_tables" else {}
    options = [word for name, value in data.items() for word in ("--set", f"{name}={value}")]
    words = ["run", "--run", "runs/it", "--check", *papers_models, *options]
    assert cli.main([*words, "--config", f"configs/{config}.yaml"]) == 0
    out = capsys.readouterr().out
    assert "after 'math-01514')" in out  # which is asked, with what room there is for an answer
    for stage in run_stages(load_settings(f"configs/{config}.yaml", data, RunSettings)):
        for verb in {"fit", "test", "predict"} & set(stage.verbs):
            assert re.search(rf"(?m)^{stage.name} +{verb} ", out)

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules.components.encoding.prompts import PLAIN, make_prompt
from datamodules.components.encoding.tokenization import encode, load_tokenizer
from dust2gold import cli
from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import read_json_lines
from dust2gold.core.students import locate_student
from dust2gold.interchange.export import export
from lightning_modules.components.adapters.manifest import add_facts, read_manifest
from lightning_modules.components.adapters.nat import open_nat
from lightning_modules.components.adapters.stack import AdapterStack, load_base
from tests.records import question, write_asked, write_positive
from tests.students import unsign

QUESTION = "Ann has 3 nuts and finds 5. How many?"


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(5, 300, (2, 17), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def ours(run: Path, tiny_student: Path, ids: Tensor) -> Tensor:
    """The logits of our stack with the trained adapter."""
    stack = AdapterStack(load_base(str(tiny_student)), str(tiny_student))
    plain = stack.model(ids).logits
    stack.load("student", run / "nce" / "adapter")
    logits: Tensor = stack.eval().model(ids).logits.detach()
    assert (logits - plain).abs().max() > 0.1  # the adapter does something
    return logits


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run to write into."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def refused(run: Path, stage: str, output: Path) -> InputError:
    """The error of an export that must leave nothing behind."""
    there = output.exists()
    with pytest.raises(InputError) as caught:
        export(run, stage, output)
    assert output.exists() == there
    return caught.value


def test_merged_model_has_our_logits(run: Path, tmp_path: Path, ids: Tensor, ours: Tensor) -> None:
    directory = export(run, "nce", tmp_path / "merged", merge=True)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    torch.testing.assert_close(model(ids).logits, ours, rtol=1e-5, atol=1e-5)
    assert not list(directory.glob("adapter*"))
    assert model.generation_config.eos_token_id == AutoTokenizer.from_pretrained(directory).eos_token_id


@pytest.mark.parametrize(("stops", "kept"), [(7, [2, 7]), ([7, 2, 9], [2, 7, 9]), (2, 2), (None, 2)])
def test_the_students_further_stops_end_answers_too(
    run: Path, tmp_path: Path, tiny_student: Path, stops: Any, kept: Any
) -> None:
    student = Path(shutil.copytree(tiny_student, tmp_path / tiny_student.name))
    (student / "generation_config.json").write_text(json.dumps({"eos_token_id": stops, "temperature": 0.6}))
    directory = export(run, "nce", tmp_path / "merged", merge=True, student=str(student))
    assert AutoTokenizer.from_pretrained(directory).eos_token_id == 2
    assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"] == kept


def test_adapter_has_our_logits(run: Path, tmp_path: Path, tiny_student: Path, ids: Tensor, ours: Tensor) -> None:
    directory = export(run, "nce", tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_student)
    model = PeftModel.from_pretrained(base, directory).eval()
    torch.testing.assert_close(model(ids).logits, ours, rtol=1e-6, atol=1e-6)
    config = json.loads((directory / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_student.name


def test_nat_is_exported_with_its_units(run: Path, tmp_path: Path, tiny_student: Path, ids: Tensor) -> None:
    here = open_nat(run / "nat" / "adapter", str(tiny_student))
    directory = export(run, "nat", tmp_path / "nat", student=str(tiny_student))
    there = open_nat(directory, str(tiny_student))
    torch.testing.assert_close(there.model(ids).logits, here.model(ids).logits, rtol=0, atol=0)


def test_a_student_that_has_moved(copy: Path, tmp_path: Path, tiny_student: Path) -> None:
    assert "no Hugging Face model directory" in str(refused(copy, "nat", tmp_path / "no"))  # and no log names it
    export(copy, "nat", tmp_path / "nat", student=str(tiny_student))


@pytest.mark.parametrize(("stage", "merge"), [("nce", False), ("nce", True), ("nat", False)])
@pytest.mark.parametrize("old", [False, True])
def test_no_path_of_this_machine(
    copy: Path, tmp_path: Path, tiny_student: Path, stage: str, merge: bool, old: bool
) -> None:
    if old:  # as adapters were written before
        for file in copy.rglob("*/adapter/**/*.json"):
            file.write_text(file.read_text().replace(f'"{tiny_student.name}"', json.dumps(str(tiny_student))))
        unsign(copy)
    directory = export(copy, stage, tmp_path / "out", merge, student=str(tiny_student))
    for file in [*directory.rglob("*"), *([] if old else (copy / stage / "adapter").rglob("*"))]:
        assert file.is_dir() or str(tiny_student.parent).encode() not in file.read_bytes(), file


@pytest.mark.parametrize("stage", ["nce", "nat"])
def test_a_damaged_adapter_is_not_exported(copy: Path, tmp_path: Path, stage: str) -> None:
    """Whoever loads the export knows nothing of our checksums."""
    file = next((copy / stage).rglob("adapter_model.safetensors"))
    file.write_bytes(file.read_bytes()[:-4] + b"\0\1\2\3")
    assert "SHA-256" in str(refused(copy, stage, tmp_path / "no"))


@pytest.mark.parametrize("stage", ["nce", "nat"])
def test_an_export_has_its_own_checksums(run: Path, tmp_path: Path, stage: str, tiny_student: Path) -> None:
    """Of its configs, too, though `export` writes an adapter's anew."""
    directory = export(run, stage, tmp_path / "out", student=str(tiny_student))
    assert set(read_manifest(directory)["sha256"]) == set(read_manifest(run / stage / "adapter")["sha256"])
    part = directory / "positive" if stage == "nat" else directory
    AdapterStack(load_base(str(tiny_student)), str(tiny_student)).load("any", part)
    config = part / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": ', '"lora_alpha": 1'))
    with pytest.raises(InputError, match=r"adapter_config\.json: damaged: its SHA-256"):
        AdapterStack(load_base(str(tiny_student)), str(tiny_student)).load("any", part)


def test_chat_template_makes_the_prompt_of_training(run: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(export(run, "nce", tmp_path / "m"))
    chat = [{"role": "user", "content": QUESTION}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == tokenizer.bos_token + PLAIN.ask(QUESTION)
    encoded: Any = tokenizer.apply_chat_template(chat, return_dict=True)
    assert encoded["input_ids"] == tokenizer(PLAIN.ask(QUESTION))["input_ids"]


CHAT = """{% for message in messages %}{{ '<s>' + message.role + ':' + message.content + '</s>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"""


@pytest.mark.parametrize("trained_with", ["plain", "chat", "chat with a system text", "a file"])
@pytest.mark.parametrize("own_template", [False, True])
def test_an_own_chat_template_stays_and_the_card_shows_the_prompt_of_training(
    copy: Path, tmp_path: Path, tiny_student: Path, trained_with: str, own_template: bool
) -> None:
    student = shutil.copytree(tiny_student, tmp_path / "student")
    (student / "chat_template.jinja").write_text(CHAT)
    system = 'Be "brief".' if "system" in trained_with else None
    file = tmp_path / "qa.txt"
    file.write_text("Q: {question}\nA:")
    name = str(file) if trained_with == "a file" else trained_with.split()[0]
    prompt = make_prompt(load_tokenizer(str(student)), name, system=system)
    add_facts(copy / "nce/adapter", {"prompt": prompt.to_json()})
    if not own_template:
        (student / "chat_template.jinja").unlink()
    directory = export(copy, "nce", tmp_path / "out", student=str(student))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    chat = [{"role": "user", "content": QUESTION}]
    if own_template:
        assert tokenizer.chat_template == CHAT
    elif trained_with != "plain":
        made = tokenizer.apply_chat_template(chat, tokenize=False)
        assert made == ("" if prompt.kind == "chat" else "<s>") + prompt.ask(QUESTION)
    card = (directory / "README.md").read_text()
    assert ("makes another: let a server complete" in card) == (own_template and prompt.kind != "chat")
    assert ("has to be given" in card) == (system is not None)
    if own_template or prompt.kind != "chat":
        code = card[card.index("prompt = " if "prompt = " in card else "chat = ") :].partition("answer = ")[0]
        names: dict[str, Any] = {"tokenizer": tokenizer, "question": QUESTION}
        exec(code, names)
        ((ids, _),) = encode(tokenizer, [(QUESTION, None)], prompt)
        assert names["ids"].tolist() == [ids]


@pytest.mark.filterwarnings("ignore")
def test_a_chat_student_answers_elsewhere_as_in_our_test(tmp_path: Path) -> None:
    """It learns two answers nearly by heart; its template ends a turn with a token that is not EOS."""
    student = shutil.copytree(locate_student("embedded"), tmp_path / "student")
    (student / "chat_template.jinja").write_text(CHAT.replace("<s>", "").replace("</s>", "<s>"))
    told = write_positive(tmp_path / "p.jsonl", 2, 1)
    here = f"--config configs/neg.yaml --model.student {student} --trainer.default_root_dir {tmp_path}/run/cot-kd"
    options = "--model.optimizer.init_args.lr 0.01 --model.schedule constant --trainer.max_epochs 80"
    options += " --trainer.accelerator cpu --trainer.enable_progress_bar false --without_callbacks [RunCheckpoint]"
    train = f"--data.train {told} --data.verdicts positive --data.validation_fraction 0"
    asked = f"--data.questions {write_asked(tmp_path / 'q.jsonl', 2)} --model.sampling.max_new_tokens 60"
    assert cli.main(f"fit {here} {options} {train}".split()) == 0
    assert cli.main(f"test {here} --model.adapter {tmp_path}/run/cot-kd/adapter {asked}".split()) == 0
    ours = [row["rationale"] for _, row in read_json_lines(tmp_path / "run/cot-kd/predictions.jsonl")]
    directory = export(tmp_path / "run", "cot-kd", tmp_path / "merged", merge=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(directory)
    asking: Any = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    for number, text in enumerate(ours):
        chat = [{"role": "user", "content": question(number).question}]
        ids = tokenizer.apply_chat_template(chat, **asking).input_ids
        answer = model.generate(ids, max_new_tokens=60, eos_token_id=tokenizer.bos_token_id)[0, ids.shape[1] :]
        assert tokenizer.decode(answer) == f"{text}<s>"


def test_nat_is_not_merged(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--run", str(run), "--stage", "nat", "--merge", "--output", str(tmp_path / "no")]
    assert cli.main(words) == 1
    assert "its gate depends on the token" in (said := capsys.readouterr().err)
    assert "nce" in said
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_exported(run: Path, copy: Path, tmp_path: Path) -> None:
    for stage in ("rank", "../nce"):
        assert "nat, nce" in str(refused(run, stage, tmp_path / "no"))
    assert "there already" in str(refused(run, "nce", tmp_path))
    (tmp_path / "secret").write_text("secret")
    (copy / "nat/adapter/positive/notes.txt").symlink_to(tmp_path / "secret")
    assert "notes.txt: is a link out" in str(refused(copy, "nat", tmp_path / "no"))

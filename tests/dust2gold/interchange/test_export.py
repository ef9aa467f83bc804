import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules.components.encoding.prompts import prompt
from dust2gold import cli
from dust2gold.core.errors import InputError
from dust2gold.interchange.export import export
from lightning_modules.components.adapters.manifest import read_manifest
from lightning_modules.components.adapters.nat import open_nat
from lightning_modules.components.adapters.stack import AdapterStack, load_base
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
    assert tokenizer.apply_chat_template(chat, tokenize=False) == tokenizer.bos_token + prompt(QUESTION)
    encoded: Any = tokenizer.apply_chat_template(chat, return_dict=True)
    assert encoded["input_ids"] == tokenizer(prompt(QUESTION))["input_ids"]


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

"""Exports load with stock libraries and compute what our own stack computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules.components.encoding.prompts import prompt
from dust2gold import cli
from dust2gold.core.errors import InputError
from dust2gold.interchange.card import Export, model_card
from dust2gold.interchange.export import export
from lightning_modules.components.adapters.manifest import read_manifest
from lightning_modules.components.adapters.nat import open_nat
from lightning_modules.components.adapters.stack import AdapterStack, load_base

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


def test_merged_model_has_our_logits(run: Path, tmp_path: Path, ids: Tensor, ours: Tensor) -> None:
    directory = export(run, "nce", tmp_path / "merged", merge=True)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    torch.testing.assert_close(model(ids).logits, ours, rtol=1e-5, atol=1e-5)
    assert not list(directory.glob("adapter*"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_adapter_has_our_logits(run: Path, tmp_path: Path, ids: Tensor, ours: Tensor) -> None:
    directory = export(run, "nce", tmp_path / "adapter")
    model = AutoPeftModelForCausalLM.from_pretrained(directory).eval()  # finds its base by itself
    torch.testing.assert_close(model(ids).logits, ours, rtol=1e-6, atol=1e-6)


def test_nat_is_exported_with_its_units(run: Path, tmp_path: Path, ids: Tensor) -> None:
    directory = export(run, "nat", tmp_path / "nat")
    there, here = open_nat(directory), open_nat(run / "nat" / "adapter")
    torch.testing.assert_close(there.model(ids).logits, here.model(ids).logits, rtol=0, atol=0)


def test_nat_of_a_base_in_a_directory_is_found_from_anywhere(
    run: Path, tmp_path: Path, tiny_student: Path, monkeypatch: pytest.MonkeyPatch, ids: Tensor
) -> None:
    shutil.copytree(tiny_student, tmp_path / "models/tiny")
    shutil.copytree(run, tmp_path / "run")
    manifest = tmp_path / "run/nat/adapter/dust2gold.json"
    manifest.write_text(manifest.read_text().replace(json.dumps(str(tiny_student)), '"models/tiny"'))
    monkeypatch.chdir(tmp_path)
    directory = export(Path("run"), "nat", tmp_path / "nat")
    monkeypatch.chdir("/")
    there, here = open_nat(directory), open_nat(run / "nat" / "adapter")
    torch.testing.assert_close(there.model(ids).logits, here.model(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("stage", ["nce", "nat"])
def test_a_damaged_adapter_is_not_exported(run: Path, tmp_path: Path, stage: str) -> None:
    """Whoever loads the export knows nothing of our checksums."""
    shutil.copytree(run, tmp_path / "run")
    file = next((tmp_path / "run" / stage).rglob("adapter_model.safetensors"))
    file.write_bytes(file.read_bytes()[:-4] + b"\0\1\2\3")
    with pytest.raises(InputError, match="SHA-256"):
        export(tmp_path / "run", stage, tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("stage", ["nce", "nat"])
def test_an_export_has_its_own_checksums(run: Path, tmp_path: Path, stage: str, tiny_student: Path) -> None:
    """Of its configs, too, though `export` writes an adapter's anew."""
    directory = export(run, stage, tmp_path / "out")
    assert set(read_manifest(directory)["sha256"]) == set(read_manifest(run / stage / "adapter")["sha256"])
    part = directory / "positive" if stage == "nat" else directory
    AdapterStack(load_base(str(tiny_student)), str(tiny_student)).load("any", part)
    config = part / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": ', '"lora_alpha": 1'))
    with pytest.raises(InputError, match=r"adapter_config\.json: damaged: its SHA-256"):
        AdapterStack(load_base(str(tiny_student)), str(tiny_student)).load("any", part)


def test_nat_is_not_merged(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--run", str(run), "--stage", "nat", "--merge", "--output", str(tmp_path / "no")]
    assert cli.main(words) == 1
    assert "its gate depends on the token" in (said := capsys.readouterr().err)
    assert "nce" in said
    assert not (tmp_path / "no").exists()


def test_chat_template_makes_the_prompt_of_training(run: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(export(run, "nce", tmp_path / "m"))
    chat = [{"role": "user", "content": QUESTION}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == tokenizer.bos_token + prompt(QUESTION)
    encoded: Any = tokenizer.apply_chat_template(chat, return_dict=True)
    assert encoded["input_ids"] == tokenizer(prompt(QUESTION))["input_ids"]


def test_card_tells_data_training_and_results(run: Path, tmp_path: Path) -> None:
    card = (export(run, "nce", tmp_path / "m", merge=True) / "README.md").read_text(encoding="utf-8")
    assert "3 questions, 9 samples, 5 right (D_pos), 4 wrong (D_neg)" in card
    assert "25.00" in card
    assert "75.00" not in card  # another method's
    assert r"nuts\|\<b\>" in card
    assert "train: positive.jsonl" in card  # of the fit, not of the test after it
    assert "library_name: transformers" in card


def front_matter(directory: Path) -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load((directory / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    return facts


@pytest.mark.parametrize(("stage", "library"), [("nce", "peft"), ("nat", "other")])
def test_card_is_one_that_the_hub_takes(run: Path, tmp_path: Path, stage: str, library: str) -> None:
    facts = front_matter(export(run, stage, tmp_path / "out"))
    assert facts["library_name"] == library
    assert "base_model" not in facts  # the run's student is a directory of this machine


def test_card_names_a_base_of_the_hub(run: Path) -> None:
    card = model_card(Export(run, "nce", "lora", "owner/model", merged=False))
    assert "base_model: owner/model\n" in card


@pytest.mark.parametrize(("stage", "said"), [("rank", "nat, nce"), ("../nce", "nat, nce")])
def test_stage_without_decoder_is_refused(run: Path, tmp_path: Path, stage: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        export(run, stage, tmp_path / "no")


@pytest.mark.parametrize("name", ["data/summary.json", "results.json", "nce/lightning_logs/version_0/config.yaml"])
@pytest.mark.parametrize("content", ["{", "[]", "[1]", '{"source": 1}', "\0", "- a\n- b"])
def test_a_damaged_run_is_named(run: Path, tmp_path: Path, name: str, content: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    if (name, content) in (("results.json", "[]"), ("nce/lightning_logs/version_0/config.yaml", '{"source": 1}')):
        return  # nothing to tell, and lawful
    with pytest.raises(InputError) as caught:
        export(tmp_path / "run", "nce", tmp_path / "no")
    assert caught.value.file == str(tmp_path / "run" / name)
    assert not (tmp_path / "no").exists()


def test_a_link_out_of_the_adapter_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "run/nat/adapter/positive/notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"notes\.txt: is a link out"):
        export(tmp_path / "run", "nat", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_output_is_never_overwritten(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there already"):
        export(run, "nce", tmp_path)


def test_manifest_names_the_base(run: Path, tmp_path: Path, tiny_student: Path) -> None:
    directory = export(run, "nce", tmp_path / "a")
    config = json.loads((directory / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_student)

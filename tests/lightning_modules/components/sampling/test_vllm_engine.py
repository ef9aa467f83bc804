"""Sampling by vLLM, against a stub of its Python API whose engine is a model of its own and our decoder."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from peft import PeftModel
from transformers import AutoModelForCausalLM

from callbacks.samples import SampleWriter
from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError
from lightning_modules.base import STUDENT, StudentModule
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.sampling.decoder import Decoder, Prompts
from lightning_modules.components.sampling.rng import sample_seed
from lightning_modules.components.sampling.sampler import Sample, sample_each
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.components.sampling.vllm_engine import VllmEngine
from lightning_modules.nat import NATModel
from lightning_modules.nce import NCEModel
from lightning_modules.negative import NegativeModel
from tests.lightning_modules.steps import quiet_trainer
from tests.records import write_asked
from tests.weights import check_same_but_for_rounding

TASK: dict[str, Any] = {"samples": 3, "max_new_tokens": 9, "temperature": 1.3, "top_p": 0.9, "seed": 4}


class Engine:
    """`vllm.LLM`, in float32 whatever dtype is asked for."""

    made: ClassVar[list[Any]] = []
    error: ClassVar[Exception | None] = None

    def __init__(self, **options: Any) -> None:
        if Engine.error is not None:
            raise Engine.error
        self.options, self.visible = options, os.environ.get("CUDA_VISIBLE_DEVICES")
        self.asked: list[tuple[Any, Any]] = []
        Engine.made.append(self)

    def generate(self, prompts: list[Any], parameters: list[Any], *, use_tqdm: bool, lora_request: Any) -> list[Any]:
        assert not use_tqdm
        self.lora = lora_request
        self.asked += zip(prompts, parameters, strict=True)
        model: Any = AutoModelForCausalLM.from_pretrained(self.options["model"], dtype=torch.float32)
        model = model if lora_request is None else PeftModel.from_pretrained(model, lora_request.path)
        return [self._answer(model.eval(), *each) for each in zip(prompts, parameters, strict=True)]

    @torch.inference_mode()
    def _answer(self, model: Any, prompt: dict[str, list[int]], of: SimpleNamespace) -> SimpleNamespace:
        ids = torch.tensor([prompt["prompt_token_ids"]])
        settings, ends = SamplingSettings(1, of.temperature, of.top_p), torch.tensor(of.stop_token_ids)
        task = Prompts(ids, torch.ones_like(ids), torch.tensor([of.max_tokens]))
        [one] = Decoder(model, task, [of.seed], settings, ends, pad=0)
        answer = SimpleNamespace(token_ids=tuple(one.tokens), cumulative_logprob=one.logprob)
        return SimpleNamespace(outputs=[answer])


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    """Installs the stub."""
    top, requests = ModuleType("vllm"), ModuleType("vllm.lora.request")
    vars(top).update(LLM=Engine, SamplingParams=SimpleNamespace)
    vars(requests).update(LoRARequest=lambda name, number, path: SimpleNamespace(name=name, number=number, path=path))
    for module in (top, ModuleType("vllm.lora"), requests):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Engine, "made", [])
    monkeypatch.setattr(Engine, "error", None)
    return Engine


Run = Callable[..., Path]


@pytest.fixture
def run(tiny_student: Path, tmp_path: Path) -> Run:
    """Predicts, or tests, with 4 questions; returns the file of samples. Keywords are the module's."""
    asked = write_asked(tmp_path / "q.jsonl", 4)

    def call(backend: Any, verb: str = "predict", kind: type[StudentModule] = NegativeModel, **more: Any) -> Path:
        sampling = SamplingSettings(**TASK, backend=backend)
        module = kind(**{"student": str(tiny_student), "sampling": sampling, **more})
        data = RationaleDataModule(str(tiny_student), questions=asked, question_batch_size=3)
        trainer = quiet_trainer(tmp_path / backend, SampleWriter(writer="nce"))
        getattr(trainer, verb)(module, data, **({"return_predictions": False} if verb == "predict" else {}))
        if backend == "vllm":  # the engine has a base of its own, and is let go
            assert (list(module.parameters()), module._engine) == ([], None)
        return Path(tmp_path, backend, "samples.jsonl")

    return call


@pytest.mark.parametrize(("kind", "trained"), [(NCEModel, True), (NegativeModel, False)])
def test_the_same_records(
    kind: type[StudentModule], trained: bool, vllm: type[Engine], run: Run, negative_directory: Path
) -> None:
    """With our decoder in the engine nothing differs: prompts, adapter, seeds, log-probabilities."""
    adapter = str(negative_directory) if trained else None
    own = run("own", kind=kind, adapter=adapter)
    served = run("vllm", kind=kind, adapter=adapter, dtype="bfloat16" if trained else "float32")
    assert len(check_same_but_for_rounding(own, served)) == 4 * TASK["samples"]


def test_padding_limits_and_ends(vllm: type[Engine], tiny_student: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_student).eval()
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    settings = SamplingSettings(4, temperature=1.3, max_new_tokens=12)
    engine = VllmEngine(str(tiny_student), None, "float32", 8, model.config, torch.device("cpu"))

    def samples(of: Any) -> list[Sample]:
        each = sample_each(of, ids, (ids > 0).long(), ["a", "b"], [*range(0, 300, 12)], 0, settings)
        return [one for samples in sorted(each, key=lambda samples: samples[0].question_index) for one in samples]

    own, served = samples(model), samples(engine)
    assert {one.finished for one in own} == {True, False}
    for one, other in zip(own, served, strict=True):
        assert other.logprob == pytest.approx(one.logprob, abs=1e-4)
        other.logprob = one.logprob
    assert served == own


def test_what_is_asked(vllm: type[Engine], run: Run, negative_directory: Path, tiny_student: Path) -> None:
    run("vllm", adapter=str(negative_directory), dtype="bfloat16")
    run("vllm", "test", adapter=str(negative_directory), dtype="float16")
    sampled, greedy = vllm.made
    lora = {"enable_lora": True, "max_lora_rank": 8}  # the smallest there is for its rank of 4
    made = {"model": str(tiny_student), "logprobs_mode": "raw_logprobs", **lora}
    assert [sampled.options, greedy.options] == [{**made, "dtype": "bfloat16"}, {**made, "dtype": "float16"}]
    assert sampled.lora.path == str(negative_directory.resolve())
    drawn = {"temperature": 1.3, "top_p": 0.9, "max_tokens": 9, "logprobs": 0, "detokenize": False, "ignore_eos": True}
    for _, asked in sampled.asked:
        assert asked.stop_token_ids
        assert {name: vars(asked)[name] for name in drawn} == drawn
    seeds = {sample_seed(4, f"q{question}", k) for question in range(4) for k in range(3)}
    assert {asked.seed for _, asked in sampled.asked} == seeds
    assert [asked.temperature for _, asked in greedy.asked] == [0] * 4


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "nat": ({"kind": NATModel}, "model", "NATModel is more: NAT's gate depends on the token"),
    "quantization": ({"quantization": "8bit"}, "model.quantization", "quantise"),
    "random weights": ({"random_weights": True}, "model.random_weights", "random"),
    "float32": ({"adapter": True}, "model.dtype", "float16 and bfloat16 alone"),
    "pattern": ({"adapter": True, "dtype": "bfloat16"}, "model.sampling.backend", "alpha_pattern"),
    "another base": ({"adapter": True, "dtype": "bfloat16", "student": "embedded"}, "", "trained on another base"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_vllm_cannot_sample(name: str, vllm: type[Engine], run: Run, tiny_student: Path, tmp_path: Path) -> None:
    given, field, says = REFUSED[name]
    if "adapter" in given:
        settings = LoraSettings(peft_settings={"alpha_pattern": {"q_proj": 99}})
        trained, directory = NegativeModel(str(tiny_student), lora=settings), tmp_path / "adapter"
        trained.configure_model()
        directory.mkdir()
        trained.write_adapter(directory)
        given = {**given, "adapter": str(directory)}
    with pytest.raises(InputError, match=says) as caught:
        run("vllm", **given)
    assert (caught.value.field or "") == field
    assert not field or "--model.sampling.backend own" in str(caught.value.remedy)
    assert vllm.made == []


def test_weights_that_are_in_no_adapter_directory(vllm: type[Engine], tiny_student: Path, tmp_path: Path) -> None:
    data = RationaleDataModule(str(tiny_student), questions=write_asked(tmp_path / "q.jsonl", 1))
    module, trainer = NegativeModel(str(tiny_student)), quiet_trainer(tmp_path)
    module.configure_model()
    module.sampling = SamplingSettings(max_new_tokens=2, backend="vllm")
    with pytest.raises(InputError, match="no model in memory"):
        trainer.predict(module, data)
    module.trainer = trainer
    trainer.ckpt_path = tmp_path / "last.ckpt"
    with pytest.raises(InputError, match="no checkpoint"):
        module._check_served()
    trainer.state.fn = TrainerFn.FITTING  # where a stage that samples, OPD, does so itself: its weights change
    module.stack = None
    module.configure_model()
    assert STUDENT in module.adapters.model.peft_config


def test_without_vllm(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match="no vLLM here") as caught:
        run("vllm")
    assert caught.value.field == "model.sampling.backend"
    assert "install vLLM" in str(caught.value.remedy)


def test_what_vllm_cannot_load(vllm: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "error", TypeError("unexpected keyword argument 'logprobs_mode'"))
    with pytest.raises(InputError, match="cannot load the student into vLLM") as caught:
        VllmEngine("embedded", None, "bfloat16", 8, None, torch.device("cpu"))
    assert "'logprobs_mode'" in str(caught.value)
    assert "a newer vLLM" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("before", "device", "seen"), [(None, "cuda:1", "1"), ("4,GPU-b", "cuda:1", "GPU-b"), ("2", "cuda", "2")]
)
def test_each_process_has_its_own_gpu(
    before: str | None, device: str, seen: str, vllm: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "CUDA_VISIBLE_DEVICES"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    VllmEngine("embedded", None, "bfloat16", 8, None, torch.device(device))
    assert (vllm.made[0].visible, os.environ.get(name)) == (seen, before)

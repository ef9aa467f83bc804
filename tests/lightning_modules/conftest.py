"""What the tests of the decoder stages share: batches, and trained-looking adapters on the tiny student."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from lightning_modules.base import StudentModule
from lightning_modules.cl import CLModel
from lightning_modules.components.adapters.nat import UnitSettings, build_nat, save_nat
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base
from lightning_modules.components.losses.negatives import REDI, NegativeTraining, Unlikelihood
from lightning_modules.components.losses.targets import IGNORE
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.dpo import DPOModel
from lightning_modules.glow import GLOWModel
from lightning_modules.kto import KTOModel
from lightning_modules.nat import NATModel
from lightning_modules.nce import NCEModel
from lightning_modules.negative import NegativeModel
from lightning_modules.opd import OPDModel
from lightning_modules.positive_negative import PositiveNegativeModel

UNITS = UnitSettings(key_dim=6, bottleneck=10)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def randomise() -> Callable[..., None]:
    """Gives parameters normal values, so that no test passes because something is zero."""

    def fill(parameters: Iterable[nn.Parameter], scale: float = 0.3, seed: int = 7) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)

    return fill


@pytest.fixture
def new_stack(tiny_student: Path) -> Callable[..., AdapterStack]:
    """Makes a stack on a fresh copy of the tiny student."""

    def make(dtype: str = "float32", **kwargs: Any) -> AdapterStack:
        return AdapterStack(load_base(str(tiny_student), dtype), str(tiny_student), **kwargs)

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., dict[str, Any]]:
    """Makes a right-padded batch of random tokens whose first three positions are the prompt."""

    def make(lengths: tuple[int, ...] = (9, 12, 5, 11), seed: int = 3, vocabulary: int = 300) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
        for row, length in enumerate(lengths):
            ids[row, :length] = torch.randint(3, vocabulary, (length,), generator=generator)
            mask[row, :length] = 1
            labels[row, 3:length] = ids[row, 3:length]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return make


@pytest.fixture
def pairs(make_batch: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Two questions (the first three tokens) with a right and a wrong rationale each."""
    batch = make_batch((9, 12, 6, 11))
    batch["input_ids"][2:, :3] = batch["input_ids"][:2, :3]
    prompt = torch.zeros_like(batch["input_ids"])
    prompt[:, :3] = 1
    positive, groups = torch.tensor([True, True, False, False]), torch.tensor([0, 1, 0, 1])
    special = {"eos_token_id": 2, "pad_token_id": 0}
    return {**batch, "positive": positive, "groups": groups, "prompt_mask": prompt, "ids": list("abcd"), **special}


@pytest.fixture
def make_stage(tiny_student: Path, negative_directory: Path, nat_directory: Path) -> Callable[..., Any]:
    """Builds a stage by name on the tiny student, its model in place; REDI and DPO start from a random adapter."""
    negative, nat = str(negative_directory), str(nat_directory)
    stages: dict[str, tuple[type[StudentModule], dict[str, Any]]] = {
        "negative": (NegativeModel, {}),
        "nat": (NATModel, {"negative": negative, "units": UNITS}),
        "nce": (NCEModel, {"nat": nat}),
        "refinement": (NCEModel, {"nat": nat, "calibrated": False}),
        "nt": (PositiveNegativeModel, {"objective": NegativeTraining(0.5)}),
        "ul": (PositiveNegativeModel, {"objective": Unlikelihood(0.5)}),
        "ul-token": (PositiveNegativeModel, {"objective": Unlikelihood(5.0, "token")}),
        "redi": (PositiveNegativeModel, {"objective": REDI(), "adapter": negative}),
        "dpo": (DPOModel, {"adapter": negative}),
        "kto": (KTOModel, {"beta": 1.0}),
        "glow": (GLOWModel, {}),
        "cl": (CLModel, {}),
        "opd": (OPDModel, {"nat": nat, "sampling": SamplingSettings(max_new_tokens=6)}),
    }

    def make(name: str, **kwargs: Any) -> StudentModule:
        kind, own = stages[name]
        lora = LoraSettings(r=4, alpha=16, dropout=0.2)
        module = kind(**{"student": str(tiny_student), "lora": lora, **own, **kwargs})
        module.configure_model()
        return module

    return make


@pytest.fixture(scope="session")
def negative_directory(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory, randomise: Any) -> Path:
    """M_neg with random weights, rank 4, as its stage writes it. Shared: do not write into it."""
    stack = AdapterStack(load_base(str(tiny_student)), str(tiny_student))
    stack.add("student", LoraSettings(r=4, alpha=8))
    randomise(p for p in stack.parameters() if p.requires_grad)
    directory = tmp_path_factory.mktemp("negative")
    stack.save("student", directory)
    return directory


@pytest.fixture(scope="session")
def nat_directory(
    tiny_student: Path, negative_directory: Path, tmp_path_factory: pytest.TempPathFactory, randomise: Any
) -> Path:
    """M_NAT with random weights, positive rank 3, as its stage writes it. Shared: do not write into it."""
    stack = AdapterStack(load_base(str(tiny_student)), str(tiny_student))
    units = build_nat(stack, negative_directory, LoraSettings(r=3, alpha=9, dropout=0.3), UNITS)
    randomise(p for m in (stack, units) for p in m.parameters() if p.requires_grad)
    directory = tmp_path_factory.mktemp("nat")
    save_nat(stack, units, directory)
    return directory


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random encoders as Hugging Face directories, dropout on. Shared: do not write into them."""
    root = tmp_path_factory.mktemp("encoders")
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    bert = BertConfig(vocab_size=320, hidden_size=32, max_position_embeddings=64, **sizes)
    BertModel(bert).save_pretrained(root / "bert")
    t5 = T5Config(vocab_size=320, d_model=24, d_kv=6, d_ff=48, num_layers=2, num_heads=4)
    T5ForConditionalGeneration(t5).save_pretrained(root / "t5")
    return {"bert": root / "bert", "t5": root / "t5"}


@pytest.fixture(scope="session")
def logits_of() -> Callable[[AdapterStack, dict[str, Any]], Tensor]:
    """Logits [B, T, V] of the active adapter, without gradient."""

    @torch.no_grad()
    def logits(stack: AdapterStack, batch: dict[str, Any]) -> Tensor:
        result: Tensor = stack(batch["input_ids"], batch["attention_mask"])
        return result

    return logits

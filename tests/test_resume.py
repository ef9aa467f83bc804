"""A killed run goes on bit-exactly: the same batches, the same weights, the same best adapter."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from callbacks.adapters import AdapterWriter
from callbacks.checkpoints import RunCheckpoint
from callbacks.randomness import RandomStateCheckpoint
from datamodules.components.records.records import write_rationales
from datamodules.pairs import PairDataModule
from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.nat import UnitSettings
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.ranking.backbones import DecoderSettings
from lightning_modules.nat import NATModel
from lightning_modules.nce import NCEModel
from lightning_modules.negative import NegativeModel
from lightning_modules.rank import RankModel
from tests.interruptions import Kill, Killed, KillValidation, Log
from tests.records import rationale, write_positive
from tests.weights import check_same, weights

pytestmark = pytest.mark.filterwarnings("ignore")

REPOSITORY = Path(__file__).parents[1]
FILES = {"last.ckpt", "previous.ckpt", "finished.json"}
LORA = LoraSettings(r=2, alpha=8, dropout=0.3)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good once it has seen one."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


COMMON: dict[str, Any] = {"lora": LORA, "optimizer": adamw, "schedule": "cosine", "warmup_steps": 2}


@pytest.fixture
def stages(tiny_student: Path, tmp_path: Path) -> dict[str, Callable[[], L.LightningModule]]:
    """Each stage on the tiny student, with the adapters it needs made on first use."""
    student = str(tiny_student)

    def written(name: str, module: L.LightningModule) -> str:
        directory = tmp_path / name
        if not directory.exists():
            directory.mkdir()
            torch.manual_seed(5)
            module.configure_model()
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.normal_(0, 0.2)
            module.write_adapter(directory)  # type: ignore[operator]
        return str(directory)

    def negative() -> NegativeModel:
        return NegativeModel(student, **COMMON)

    def nat() -> NATModel:
        made = written("negative", NegativeModel(student, lora=LORA))
        return NATModel(made, UnitSettings(key_dim=4, bottleneck=4), student=student, **COMMON)

    def nce() -> NCEModel:
        return NCEModel(written("nat", nat()), student=student, **COMMON)

    def rank() -> RankModel:
        return RankModel(DecoderSettings(student, LORA), optimizer=adamw, schedule="cosine", warmup_steps=2)

    return {"negative": negative, "nat": nat, "nce": nce, "rank": rank}


@pytest.fixture
def fit(stages: dict[str, Any], tiny_student: Path, tmp_path: Path) -> Callable[..., Log]:
    """Trains a stage in `root`, going on from its last checkpoint if there is one."""
    train, validation = write_positive(tmp_path / "t.jsonl", 11), write_positive(tmp_path / "v.jsonl", 3, 1)
    write_rationales(tmp_path / "both.jsonl", [rationale(q, k) for q in range(11) for k in range(4)])

    def run(
        root: str,
        stage: str,
        *callbacks: L.Callback,
        seed: int = 0,
        every: int = 2,
        options: dict[str, Any] | None = None,
        **trainer: Any,
    ) -> Log:
        both, log = str(tmp_path / "both.jsonl"), Log()
        settings = {"batch_size": 4, **(options or {})}
        data: L.LightningDataModule = RationaleDataModule(str(tiny_student), train, validation, **settings)
        if stage == "rank":
            data = PairDataModule(str(tiny_student), both, validation=both, pairs_per_question=2, batch_size=4)
        made = L.Trainer(
            **{
                "accelerator": "cpu",
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "default_root_dir": tmp_path / root,
                "num_sanity_val_steps": 0,
                "max_epochs": 3,
                **trainer,
            },
            callbacks=[AdapterWriter(), RunCheckpoint(every), RandomStateCheckpoint(), log, *callbacks],
        )
        module = stages[stage]()
        torch.manual_seed(7)  # the adapters' start
        module.configure_model()
        torch.manual_seed(seed)
        last = tmp_path / root / "checkpoints" / "last.ckpt"
        made.fit(module, data, ckpt_path=str(last) if last.is_file() else None)
        return log

    return run


def check_resumed(fit: Callable[..., Log], tmp_path: Path, stage: str, kills: list[int], **settings: Any) -> None:
    """Compares an undisturbed run with one that is killed again and again.

    Args:
        kills: After how many batches, or (negative) at which validation of the process.
    """
    whole = fit("whole", stage, **settings)
    batches: dict[int, list[list[int]]] = {}
    for after in [*kills, 10_000]:
        start = trained_batches(tmp_path / "killed")
        kill = Kill(after) if after > 0 else KillValidation(-after)
        try:  # with another seed after a checkpoint: the random state must come back
            log = fit("killed", stage, kill, seed=start, **settings)
        except Killed:
            continue
        batches = dict(enumerate(log.batches, start=start))
    assert [whole.batches[place] for place in batches] == list(batches.values())
    assert max(batches) == len(whole.batches) - 1
    assert log.scores == whole.scores[len(whole.scores) - len(log.scores) :]
    check_same(tmp_path / "whole", tmp_path / "killed")


def trained_batches(root: Path) -> int:
    """How many batches the last checkpoint has behind it, over all epochs."""
    last = root / "checkpoints" / "last.ckpt"
    if not last.is_file():
        return 0
    total = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    return int(total["processed"])


# 22 rationales in batches of 4: 6 batches an epoch.
@pytest.mark.parametrize(
    ("kills", "settings"),
    [
        pytest.param([9], {}, id="middle of an epoch"),
        pytest.param([1], {}, id="before the first checkpoint"),
        pytest.param([5, 3, 2], {}, id="several times"),
        pytest.param([7], {"every": 6}, id="checkpoint at an epoch's end"),
        pytest.param([13], {"every": 4}, id="checkpoint at the second epoch's end"),
        pytest.param([11], {"accumulate_grad_batches": 2}, id="accumulated gradients"),
        pytest.param([10], {"accumulate_grad_batches": 4, "every": 1}, id="accumulation that does not divide"),
        pytest.param([3, 1], {"accumulate_grad_batches": 2, "every": 1}, id="within a resumed accumulation"),
        pytest.param([6], {"limit_train_batches": 4}, id="shortened epochs"),
        pytest.param([5], {"limit_train_batches": 4, "every": 4}, id="end of a shortened epoch"),
        pytest.param([-1], {"every": 6}, id="killed in the first validation"),
        pytest.param([8, -2], {"every": 1}, id="killed in a later validation"),
        pytest.param([9], {"val_check_interval": 3}, id="validation within epochs"),
        pytest.param([-3], {"val_check_interval": 3, "every": 1}, id="killed in a validation within an epoch"),
        pytest.param([8], {"limit_val_batches": 0, "every": 6}, id="an epoch's end without validation"),
        pytest.param([2, 2], {"limit_train_batches": 1, "every": 1, "max_epochs": 5}, id="one batch an epoch"),
        pytest.param([4], {"val_check_interval": 3, "every": 3}, id="checkpoint where validation begins"),
        pytest.param([8], {"max_epochs": -1, "max_steps": 11}, id="counted in steps"),
        pytest.param(
            [8],
            {"max_epochs": -1, "max_steps": 14, "val_check_interval": 4, "check_val_every_n_epoch": None},
            id="validation counted in steps",
        ),
    ],
)
def test_resumed_run_is_the_undisturbed_run(
    fit: Callable[..., Log], tmp_path: Path, kills: list[int], settings: dict[str, Any]
) -> None:
    check_resumed(fit, tmp_path, "negative", kills, **settings)


@pytest.mark.parametrize("stage", ["nat", "nce", "rank"])
def test_every_stage_resumes(fit: Callable[..., Log], tmp_path: Path, stage: str) -> None:
    check_resumed(fit, tmp_path, stage, [9])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"tokens_per_batch": 240}, id="token budget"),
        pytest.param({"packing": True, "batch_size": 1, "max_length": 240}, id="packing"),
        pytest.param({"packing": True, "batch_size": 1, "max_length": 240, "num_workers": 2}, id="packing by workers"),
    ],
)
def test_every_batching_resumes(fit: Callable[..., Log], tmp_path: Path, options: dict[str, Any]) -> None:
    check_resumed(fit, tmp_path, "negative", [3, 6], options=options, accumulate_grad_batches=2, every=1)


def test_other_batches_than_the_checkpoint_s_are_refused(fit: Callable[..., Log], tmp_path: Path) -> None:
    fit("run", "negative", max_epochs=1)
    with pytest.raises(InputError, match=r"made with 6 batches an epoch, here are 11\n.*batch size"):
        fit("run", "negative", options={"batch_size": 2})


def test_checkpoints_are_small(fit: Callable[..., Log], tmp_path: Path, tiny_student: Path) -> None:
    fit("run", "negative", max_epochs=1)
    size = (tmp_path / "run/checkpoints/last.ckpt").stat().st_size
    trained = sum(value.numel() * 4 for name, value in weights(tmp_path / "run").items() if "adapter-last" in name)
    assert size < 3 * trained + 40_000  # weights, two moments, and the bookkeeping
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == FILES


def test_a_run_begun_anew_replaces_the_checkpoint(fit: Callable[..., Log], tmp_path: Path) -> None:
    last = tmp_path / "run/checkpoints/last.ckpt"
    fit("run", "negative", max_epochs=1)
    first = last.stat().st_mtime_ns
    last.rename(tmp_path / "aside")
    (tmp_path / "aside").rename(last)
    fit("run", "negative", max_epochs=2)
    assert last.stat().st_mtime_ns > first
    assert {path.name for path in last.parent.iterdir()} == FILES

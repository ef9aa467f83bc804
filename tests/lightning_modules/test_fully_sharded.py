"""FSDP2 on two processes is DDP on two processes: weights, losses, checkpoints and adapters."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.testing import assert_close as close

from callbacks.adapters import AdapterWriter
from callbacks.checkpoint_files import read_checkpoint
from callbacks.checkpoints import RunCheckpoint
from callbacks.finite import FiniteGuard
from callbacks.randomness import RandomStateCheckpoint
from datamodules.components.records.records import write_rationales
from datamodules.pairs import PairDataModule
from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.nat import UnitSettings
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.ranking.backbones import DecoderSettings, EncoderSettings
from lightning_modules.fully_sharded import FullyShardedStrategy, check_sharded
from lightning_modules.nat import NATModel
from lightning_modules.nce import NCEModel
from lightning_modules.negative import NegativeModel
from lightning_modules.rank import RankModel
from tests.interruptions import Kill, Killed, LossFile
from tests.lightning_modules.steps import quiet_trainer
from tests.records import rationale, write_asked, write_held, write_positive
from tests.together import together

pytestmark = pytest.mark.filterwarnings("ignore")

LORA = LoraSettings(r=3, alpha=9, dropout=0.3)
sharded, hybrid = FullyShardedStrategy, partial(FullyShardedStrategy, replicas=2)
Fit = Callable[..., list[int]]


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, eps=1e-3)  # with a small ε, rounding decides where a gradient is 0


@pytest.fixture
def stages(
    tiny_student: Path, negative_directory: Path, nat_directory: Path, encoders: dict[str, Path]
) -> dict[str, Callable[..., L.LightningModule]]:
    """Each stage on the tiny student, unbuilt."""
    student = str(tiny_student)
    common: dict[str, Any] = {"student": student, "lora": LORA, "optimizer": adam}
    return {
        "negative": lambda **more: NegativeModel(**common, **more),
        "nat": lambda **more: NATModel(str(negative_directory), UnitSettings(6, 10), **common, **more),
        "nce": lambda **more: NCEModel(str(nat_directory), **common, **more),
        "rank": lambda: RankModel(DecoderSettings(student, LORA), optimizer=adam),
        "rank encoder": lambda: RankModel(EncoderSettings(str(encoders["t5"])), optimizer=adam),
    }


class Start(L.Callback):
    """Gives every trainable parameter a value of its own, the same under every strategy."""

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        built, shard = pl_module.configure_model, pl_module.shard

        def randomised(*parts: Any) -> None:
            generator = torch.Generator().manual_seed(7)
            for parameter in (p for p in pl_module.parameters() if p.requires_grad):
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            shard(*parts)

        pl_module.shard = randomised
        built()
        pl_module.shard = lambda *parts: None


@pytest.fixture
def fit(stages: dict[str, Any], tiny_student: Path, encoders: dict[str, Path], tmp_path: Path) -> Fit:
    """Trains a stage in processes of its own, two unless told, and returns their exit codes.

    There are five rows, or pairs, to validate on, in batches of 2: rank 0 has two batches, rank 1 has one.
    """
    train, validation = write_positive(tmp_path / "t.jsonl", 11), write_held(tmp_path / "v.jsonl", 5, 1)
    write_rationales(tmp_path / "both.jsonl", [rationale(q, k) for q in range(11) for k in range(4)])
    held = [rationale(q, k, writer="held") for q, n in ((0, 4), (1, 4), (2, 2)) for k in range(n)]
    write_rationales(tmp_path / "held.jsonl", held)

    def work(root: str, stage: str, strategy: Strategy | str, callbacks: list[L.Callback], trainer: Any) -> None:
        both, held, more = str(tmp_path / "both.jsonl"), str(tmp_path / "held.jsonl"), trainer.pop("arguments", {})
        data: L.LightningDataModule = RationaleDataModule(str(tiny_student), train, validation, batch_size=2)
        if stage.startswith("rank"):
            reader = encoders["t5"] if stage == "rank encoder" else tiny_student
            data = PairDataModule(str(reader), both, validation=held, pairs_per_question=2, batch_size=2)
        options = {"max_epochs": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 0.05, **trainer}
        own = [Start(), AdapterWriter(), RunCheckpoint(2), RandomStateCheckpoint(), FiniteGuard(), *callbacks]
        made = quiet_trainer(tmp_path / root, *own, strategy=strategy, enable_checkpointing=True, **options)
        last = tmp_path / root / "checkpoints" / "last.ckpt"
        torch.manual_seed(0)
        try:
            made.fit(stages[stage](**more), data, ckpt_path=str(last) if last.is_file() else None)
        except Killed:
            raise SystemExit(9) from None

    def run(
        root: str, stage: str, strategy: Any, *callbacks: L.Callback, processes: int = 2, **trainer: Any
    ) -> list[int]:
        (tmp_path / root).mkdir(exist_ok=True)
        options = {"devices": processes, **trainer}

        def job() -> None:
            work(root, stage, strategy(), [*callbacks, LossFile()], options)

        return together(job, tmp_path / f"{root}-logs", processes)

    return run


def weights(root: Path) -> dict[str, Tensor]:
    files = sorted(file for kind in ("adapter", "adapter-last") for file in (root / kind).rglob("*.safetensors"))
    found = {f"{file.relative_to(root)}:{k}": v for file in files for k, v in load_file(file).items()}
    assert len(found) > 1
    return found


def losses(root: Path) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in (root / "losses.txt").read_text(encoding="utf-8").splitlines()]
    return {name: float.fromhex(value) for name, _, value in sorted(lines)}


def check_close(one: Path, other: Path) -> None:
    """Weights of both adapters, losses of every step, and all numbers of the last checkpoint."""
    close(losses(other), losses(one), rtol=1e-5, atol=0)
    close(weights(other), weights(one), rtol=1e-4, atol=1e-6)
    states = [read_checkpoint(root / "checkpoints/last.ckpt") for root in (other, one)]
    close(*({key: state[key] for key in ("state_dict", "optimizer_states")} for state in states), rtol=1e-3, atol=1e-6)


REST = [pytest.param(name, marks=pytest.mark.slow) for name in ("negative", "nce", "rank", "rank encoder")]


@pytest.mark.parametrize("stage", ["nat", *REST])
def test_sharded_is_ddp(fit: Fit, tmp_path: Path, stage: str) -> None:
    assert fit("ddp", stage, DDPStrategy) == [0, 0]
    assert fit("sharded", stage, sharded, *([] if stage == "rank encoder" else [Shares()])) == [0, 0]
    check_close(tmp_path / "ddp", tmp_path / "sharded")
    clipped = read_checkpoint(tmp_path / "sharded/checkpoints/last.ckpt")["optimizer_states"][0]["state"]
    assert max(float(each["exp_avg"].abs().max()) for each in clipped.values()) < 0.05


class Shares(L.Callback):
    """Makes sure, before and after training, that a process holds half of every layer and all of what stays whole."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        shared = {n for n, p in pl_module.named_parameters() if isinstance(p, DTensor)}
        assert {n for n, p in pl_module.named_parameters() if ".layers." in n and "lora_" not in n} <= shared
        assert {n for n, p in pl_module.named_parameters() if p.requires_grad} <= shared
        assert [n for n in shared if "embed_tokens" in n or "lm_head" in n] == []
        parameters = [p for n, p in pl_module.named_parameters() if n in shared]
        own, all_of_it = sum(p.to_local().numel() for p in parameters), sum(p.numel() for p in parameters)
        assert abs(own / all_of_it - 0.5) < 0.05  # three rows, a LoRA's say, are cut into two and one

    on_train_end = on_fit_start


BF16 = {"precision": "bf16-mixed", "arguments": {"dtype": "bfloat16"}}  # as configs/trainer/fsdp2.yaml has it
CHECKPOINTING = {"arguments": {"gradient_checkpointing": True}}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["negative", "nat", "nce"])
@pytest.mark.parametrize(("reference", "options"), [(BF16, BF16), ({}, CHECKPOINTING)], ids=["bf16", "checkpointing"])
def test_sharded_is_ddp_with(
    fit: Fit, tmp_path: Path, stage: str, reference: dict[str, Any], options: dict[str, Any]
) -> None:
    assert fit("ddp", stage, DDPStrategy, **reference) == [0, 0]
    assert fit("sharded", stage, sharded, Shares(), **options) == [0, 0]
    check_close(tmp_path / "ddp", tmp_path / "sharded")
    assert {value.dtype for value in weights(tmp_path / "sharded").values()} == {torch.float32}


@pytest.mark.slow
def test_a_killed_run_goes_on(fit: Fit, tmp_path: Path) -> None:
    """What FSDP2 saved is taken up by FSDP2, to the last bit, and by DDP."""
    assert fit("whole", "nat", sharded) == [0, 0]
    assert fit("killed", "nat", sharded, Kill(9)) == [9, 9]
    shutil.copytree(tmp_path / "killed", tmp_path / "by-ddp")
    assert fit("killed", "nat", sharded) == [0, 0]
    assert fit("by-ddp", "nat", DDPStrategy) == [0, 0]
    whole, killed, by_ddp = (weights(tmp_path / root) for root in ("whole", "killed", "by-ddp"))
    close(killed, whole, rtol=0, atol=0)
    close(by_ddp, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["nat", "nce", "rank"])
def test_copies_that_are_each_sharded(fit: Fit, tmp_path: Path, stage: str) -> None:
    """Two groups of two; killed and begun again, too."""
    assert fit("ddp", stage, DDPStrategy, processes=4) == [0] * 4
    assert fit("hybrid", stage, hybrid, *([Shares()] if stage != "rank" else []), processes=4) == [0] * 4
    check_close(tmp_path / "ddp", tmp_path / "hybrid")
    assert fit("killed", stage, hybrid, Kill(5), processes=4) == [9] * 4
    assert fit("killed", stage, hybrid, processes=4) == [0] * 4
    close(weights(tmp_path / "killed"), weights(tmp_path / "hybrid"), rtol=0, atol=0)


def test_one_process_reads_what_was_sharded(
    fit: Fit, stages: dict[str, Any], tiny_student: Path, tmp_path: Path
) -> None:
    assert fit("run", "nat", sharded, max_epochs=-1, max_steps=2) == [0, 0]
    module, file = stages["nat"](), tmp_path / "run/checkpoints/last.ckpt"
    data = RationaleDataModule(str(tiny_student), str(tmp_path / "t.jsonl"), str(tmp_path / "v.jsonl"), batch_size=2)
    quiet_trainer(tmp_path).validate(module, data, ckpt_path=str(file), verbose=False)
    saved = read_checkpoint(file)["state_dict"]
    close({n: p.detach() for n, p in module.named_parameters() if p.requires_grad}, dict(saved), rtol=0, atol=0)


def test_a_stray_parameter_is_named() -> None:
    module = torch.nn.Module()
    module.frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    check_sharded(module)
    module.stray = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=r"2 trainable parameters stand outside .* stray\.weight"):
        check_sharded(module)


REFUSED: dict[str, tuple[str, Callable[[], Strategy], dict[str, Any]]] = {
    "take lightning_modules.fully_sharded.FullyShardedStrategy": ("negative", ModelParallelStrategy, {}),
    "in all processes at once": ("nce", sharded, {"arguments": {"teacher": "cached"}}),
    "1 processes cannot be split into 3 groups": ("negative", lambda: FullyShardedStrategy(replicas=3), {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_sharded_is_refused(fit: Fit, capfd: pytest.CaptureFixture[str], message: str) -> None:
    stage, strategy, options = REFUSED[message]
    assert fit("run", stage, strategy, processes=1, **options) == [70]
    assert message in "".join(capfd.readouterr())


def test_sampling_is_refused(stages: dict[str, Any], tiny_student: Path, tmp_path: Path) -> None:
    data = RationaleDataModule(str(tiny_student), questions=write_asked(tmp_path / "q.jsonl", 2))

    def work() -> None:
        trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, strategy=sharded())
        with pytest.raises(InputError, match="a sharded student cannot sample"):
            trainer.predict(stages["negative"](), data)

    assert together(work, tmp_path / "logs", 1) == [0]

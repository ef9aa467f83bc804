"""A killed run goes on bit-exactly: the same batches, the same weights, the same best adapter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from callbacks.adapters import AdapterWriter
from callbacks.checkpoint_files import read_checkpoint
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
from tests.interruptions import Kill, Killed, KillValidation, Log, Stop
from tests.records import rationale, write_held, write_positive
from tests.weights import check_same

pytestmark = pytest.mark.filterwarnings("ignore")

LORA = LoraSettings(r=2, alpha=8, dropout=0.3)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


COMMON: dict[str, Any] = {"lora": LORA, "optimizer": adamw, "schedule": "cosine", "warmup_steps": 2}
Fit = Callable[..., Log]


def build(stage: str, student: str, home: Path) -> L.LightningModule:
    """A stage on the tiny student; the adapters it starts from are made in `home` on first use."""

    def written(name: str, module: L.LightningModule) -> str:
        directory = home / name
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

    if stage == "negative":
        return NegativeModel(student, **COMMON)
    if stage == "rank":
        return RankModel(DecoderSettings(student, LORA), optimizer=adamw, schedule="cosine", warmup_steps=2)
    if stage.startswith("nce"):
        teacher: Any = "cached" if stage == "nce-cached" else "online"
        return NCEModel(written("nat", build("nat", student, home)), student=student, teacher=teacher, **COMMON)
    negative = written("negative", NegativeModel(student, lora=LORA))
    return NATModel(negative, UnitSettings(key_dim=4, bottleneck=4), student=student, **COMMON)


@pytest.fixture
def fit(tiny_student: Path, tmp_path: Path) -> Fit:
    """Trains a stage in `root`, going on from its last checkpoint if there is one."""
    student, both = str(tiny_student), str(tmp_path / "both.jsonl")
    train, validation = write_positive(tmp_path / "t.jsonl", 11), write_held(tmp_path / "v.jsonl", 3, 1)
    for name in ("both", "held"):
        records = [rationale(q, k, writer=name) for q in range(11) for k in range(4)]
        write_rationales(tmp_path / f"{name}.jsonl", records)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)

    def run(root: str, stage: str, *callbacks: L.Callback, seed: int = 0, every: int = 2, **trainer: Any) -> Log:
        log, options = Log(), {"batch_size": 4, **trainer.pop("options", {})}
        data: L.LightningDataModule = RationaleDataModule(student, train, validation, **options)
        if stage == "rank":
            data = PairDataModule(
                student, both, validation=str(tmp_path / "held.jsonl"), pairs_per_question=2, batch_size=4
            )
        made = L.Trainer(
            **{"accelerator": "cpu", "num_sanity_val_steps": 0, "max_epochs": 3, **quiet, **trainer},
            default_root_dir=tmp_path / root,
            callbacks=[AdapterWriter(), RunCheckpoint(every), RandomStateCheckpoint(), log, *callbacks],
        )
        module = build(stage, student, tmp_path)
        torch.manual_seed(7)  # the adapters' start
        module.configure_model()
        torch.manual_seed(seed)
        last = tmp_path / root / "checkpoints" / "last.ckpt"
        made.fit(module, data, ckpt_path=str(last) if last.is_file() else None)
        return log

    return run


def check_resumed(fit: Fit, tmp_path: Path, stage: str, kills: list[int], **settings: Any) -> None:
    """Compares an undisturbed run with one killed after so many batches or, if negative, at so many validations."""
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
    return int(read_checkpoint(last)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"])


# 22 rationales in batches of 4: 6 batches an epoch.
IN_STEPS = {"max_epochs": -1, "max_steps": 14, "val_check_interval": 4, "check_val_every_n_epoch": None}
KILLS: dict[str, tuple[list[int], dict[str, Any]]] = {
    "middle of an epoch": ([9], {}),
    "before the first checkpoint": ([1], {}),
    "several times": ([5, 3, 2], {}),
    "checkpoint at an epoch's end": ([7], {"every": 6}),
    "checkpoint at the second epoch's end": ([13], {"every": 4}),
    "accumulated gradients": ([11], {"accumulate_grad_batches": 2}),
    "accumulation that does not divide": ([10], {"accumulate_grad_batches": 4, "every": 1}),
    "within a resumed accumulation": ([3, 1], {"accumulate_grad_batches": 2, "every": 1}),
    "shortened epochs": ([6], {"limit_train_batches": 4}),
    "end of a shortened epoch": ([5], {"limit_train_batches": 4, "every": 4}),
    "killed in the first validation": ([-1], {"every": 6}),
    "killed in a later validation": ([8, -2], {"every": 1}),
    "validation within epochs": ([9], {"val_check_interval": 3}),
    "killed in a validation within an epoch": ([-3], {"val_check_interval": 3, "every": 1}),
    "an epoch's end without validation": ([8], {"limit_val_batches": 0, "every": 6}),
    "one batch an epoch": ([2, 2], {"limit_train_batches": 1, "every": 1, "max_epochs": 5}),
    "checkpoint where validation begins": ([4], {"val_check_interval": 3, "every": 3}),
    "counted in steps": ([8], {"max_epochs": -1, "max_steps": 11}),
    "validation counted in steps": ([8], IN_STEPS),
}


@pytest.mark.parametrize("case", KILLS)
def test_resumed_run_is_the_undisturbed_run(fit: Fit, tmp_path: Path, case: str) -> None:
    kills, settings = KILLS[case]
    check_resumed(fit, tmp_path, "negative", kills, **settings)


EPOCHS, TEN = {"max_epochs": 3}, {"max_epochs": -1, "max_steps": 10}
ENDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "in an epoch": ({"max_steps": 3}, TEN, {}),
    "at an epoch's end": ({"max_steps": 6}, TEN, {}),
    "at the second epoch's end": ({"max_steps": 12}, EPOCHS, {}),
    "steps, then epochs": ({"max_steps": 3}, EPOCHS, {}),
    "epochs, then steps": ({"max_epochs": 1}, TEN, {}),
    "epochs, then epochs": ({"max_epochs": 1}, EPOCHS, {"every": 4}),
    "after another checkpoint": ({"max_steps": 7}, TEN, {"every": 4}),
    "at a checkpoint": ({"max_steps": 7}, TEN, {"every": 7}),
    "accumulated gradients": ({"max_steps": 2}, TEN, {"accumulate_grad_batches": 2}),
    "accumulation that does not divide": ({"max_steps": 3}, TEN, {"accumulate_grad_batches": 4}),
    "in a shortened epoch": ({"max_steps": 2}, TEN, {"limit_train_batches": 4}),
    "at a shortened epoch's end": ({"max_steps": 4}, TEN, {"limit_train_batches": 4}),
    "at a validation": ({"max_steps": 3}, TEN, {"val_check_interval": 3}),
    "validation counted in steps": ({"max_steps": 4}, TEN, {"val_check_interval": 4, "check_val_every_n_epoch": None}),
    "without validation": ({"max_steps": 6}, TEN, {"limit_val_batches": 0}),
}


@pytest.mark.parametrize("case", ENDS)
def test_a_finished_run_goes_on_as_if_it_had_not_ended(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setitem(COMMON, "schedule", "constant")  # the others know the number of steps
    first, then, settings = ENDS[case]
    settings = {"every": 200, **settings}
    whole = fit("whole", "negative", **settings, **then)
    begun = fit("resumed", "negative", **settings, **{"max_epochs": -1, **first})
    ended = fit("resumed", "negative", seed=3, **settings, **then)
    assert begun.batches + ended.batches == whole.batches
    assert begun.scores + ended.scores == whole.scores
    check_same(tmp_path / "whole", tmp_path / "resumed")


def test_another_rate_and_length_of_the_schedule_are_applied(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    fit("run", "negative", max_epochs=-1, max_steps=3)
    other = {"optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=0.5), "schedule": "linear"}
    monkeypatch.setattr("tests.test_resume.COMMON", {**COMMON, **other})
    rates: list[float] = []
    note = L.pytorch.callbacks.LambdaCallback(
        on_train_batch_start=lambda trainer, *_: rates.append(trainer.optimizers[0].param_groups[0]["lr"])
    )
    fit("run", "negative", note, max_epochs=-1, max_steps=10)
    assert rates == [0.5 * (10 - step) / 8 for step in range(3, 10)]  # two steps of warm-up


@pytest.mark.parametrize("batches", [3, 7])
def test_an_optimizer_step_that_an_early_end_cut_short_is_begun_anew(fit: Fit, batches: int) -> None:
    whole = fit("whole", "negative", accumulate_grad_batches=2, every=200)
    begun = fit("resumed", "negative", Stop(batches), accumulate_grad_batches=2, every=200)
    ended = fit("resumed", "negative", accumulate_grad_batches=2, every=200)
    assert len(begun.batches) == batches
    assert begun.batches[:-1] + ended.batches == whole.batches


@pytest.mark.parametrize("stage", ["nat", "nce", "nce-cached", "rank"])
def test_every_stage_resumes(fit: Fit, tmp_path: Path, stage: str) -> None:
    check_resumed(fit, tmp_path, stage, [9], options={"num_workers": 2} if stage == "nce-cached" else {})


PACKING = {"packing": True, "batch_size": 1, "max_length": 240}


@pytest.mark.parametrize("options", [{"tokens_per_batch": 240}, PACKING, {**PACKING, "num_workers": 2}])
def test_every_batching_resumes(fit: Fit, tmp_path: Path, options: dict[str, Any]) -> None:
    check_resumed(fit, tmp_path, "negative", [3, 6], options=options, accumulate_grad_batches=2, every=1)


def test_other_batches_than_the_checkpoint_s_are_refused(fit: Fit, tmp_path: Path) -> None:
    fit("run", "negative", max_epochs=1)
    with pytest.raises(InputError, match=r"made with 6 batches an epoch, here are 11\n.*batch size"):
        fit("run", "negative", options={"batch_size": 2})


def test_a_run_that_goes_on_replaces_the_checkpoint(fit: Fit, tmp_path: Path) -> None:
    last = tmp_path / "run/checkpoints/last.ckpt"
    fit("run", "negative", max_epochs=1)
    first = last.stat().st_mtime_ns
    fit("run", "negative", max_epochs=2)
    assert last.stat().st_mtime_ns > first
    assert {path.name for path in last.parent.iterdir()} == {"last.ckpt", "previous.ckpt", "finished.json"}

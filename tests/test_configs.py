"""Every YAML under configs/ makes what it says: stages and overlays are instantiated, runs' commands parsed."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import SingleDeviceStrategy
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import LlamaConfig

from callbacks.adapters import AdapterWriter
from dust2gold.collect.prompt import load_prompt
from dust2gold.collect.settings import CollectSettings
from dust2gold.commands.collect import parse as parse_collect
from dust2gold.commands.stage_defaults import TRAINER
from dust2gold.commands.trainer import StageCLI
from dust2gold.core.errors import InputError
from dust2gold.run.settings import RunSettings, load_settings
from dust2gold.run.tables import run_stages
from dust2gold.study.cells import CellRun
from dust2gold.study.settings import load_study
from tests.commands import parse

pytestmark = pytest.mark.filterwarnings("ignore")

REPOSITORY = Path(__file__).parents[1]
FILES = sorted((REPOSITORY / "configs").rglob("*.yaml"))
KEYS = {file: set(yaml.safe_load(file.read_text(encoding="utf-8"))) for file in FILES}
STUDIES = [file for file in FILES if "cells" in KEYS[file]]
RUNS = [file for file in FILES if "run" in KEYS[file] and file not in STUDIES]
STAGES = [file for file in FILES if "model" in KEYS[file] and file.parent.name == "configs"]
COLLECTIONS = [file for file in FILES if "endpoint" in KEYS[file]]
PROMPTS = [file for file in FILES if file.parent.name == "prompts"]
STUDENT_PROMPT = next(file for file in PROMPTS if file.name == "student.yaml")
TRAINERS = [file for file in FILES if file.parent.name == "trainer"]
OVERLAYS = [file for file in FILES if file.parent.name != "configs" and file not in [*PROMPTS, *TRAINERS]]


def name(file: Path) -> str:
    return str(file.relative_to(REPOSITORY / "configs"))


def stage_of(file: Path) -> Path:
    """The stage that a file is or lies over: that of the same name, of student.yaml any of a student's."""
    return REPOSITORY / "configs" / ("neg.yaml" if file.name == "student.yaml" else file.name)


def layers(file: Path) -> list[str]:
    """The `--config` options that bring a file into play, as `run` gives them."""
    sizes = file.with_name("student.yaml")
    below = [sizes] if file in OVERLAYS and file.name != "rank.yaml" and file != sizes else []
    files = [*({stage_of(file)} - {file}), *below, file]
    return [word for each in files for word in ("--config", str(each))]


@pytest.fixture
def instantiate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LightningCLI]:
    """Makes Trainer, stage and DataModule of a command line without a verb, and runs nothing."""
    monkeypatch.chdir(tmp_path)

    def make(*words: str) -> LightningCLI:
        return StageCLI([*words, "--trainer.default_root_dir", str(tmp_path)], run=False)

    return make


Instantiate = Callable[..., LightningCLI]
PLACEMENT = {"accelerator", "devices", "num_nodes", "strategy", "precision"}


def test_no_file_is_left_out() -> None:
    assert sorted([*RUNS, *STUDIES, *STAGES, *OVERLAYS, *TRAINERS, *COLLECTIONS, *PROMPTS]) == FILES
    assert {file.stem for file in STAGES} >= {"neg", "nat", "nce", "rank", "vote"}
    assert all(stage_of(file) in STAGES for file in OVERLAYS)


@pytest.mark.parametrize("file", [*STAGES, *OVERLAYS], ids=name)
def test_stage_is_instantiated(file: Path, instantiate: Instantiate) -> None:
    made = instantiate(*layers(file))
    base = yaml.safe_load(stage_of(file).read_text(encoding="utf-8"))
    for part, kind in ((made.model, "model"), (made.datamodule, "data")):
        assert type(part).__name__ == base[kind]["class_path"]
    wanted: dict[str, Any] = dict(TRAINER)
    for layer in layers(file)[1::2]:
        wanted |= yaml.safe_load(Path(layer).read_text(encoding="utf-8")).get("trainer", {})
    given = {key: value for key, value in wanted.items() if key not in ("callbacks", "default_root_dir", *PLACEMENT)}
    assert {key: made.config["trainer"][key] for key in given} == given
    names = {callback["class_path"] for callback in base.get("trainer", {}).get("callbacks", [])}
    assert names <= {type(callback).__name__ for callback in made.trainer.callbacks}  # type: ignore[attr-defined]


@pytest.mark.parametrize("below", ["neg.yaml", "paper/nce.yaml", "rank.yaml"])
@pytest.mark.parametrize("file", TRAINERS, ids=name)
def test_trainer_is_laid_over_a_stage(file: Path, below: str, instantiate: Instantiate) -> None:
    """Each says all of where a stage runs and nothing else, so that one laid over another leaves nothing of it."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    workers = {"init_args": {"num_workers": 0 if file.stem == "cpu" else 2}}
    assert (set(content), set(content["trainer"]), content["data"]) == ({"data", "trainer"}, PLACEMENT, workers)
    wanted, stage = content["trainer"], layers(REPOSITORY / "configs" / below)
    here = ["--trainer.accelerator", "cpu"]  # where tests run there is no GPU
    here += ["--trainer.devices", "2"] if wanted["devices"] == "auto" else []
    made = instantiate(*stage, "--config", str(file), *here)
    trainer: Any = made.trainer
    model: Any = made.model
    dtype = {"neg.yaml": lambda: model.dtype_name, "rank.yaml": lambda: model.backbone_settings.dtype}
    if below in dtype:
        assert dtype[below]() == ("float32" if file.stem == "cpu" else "bfloat16")
    assert made.datamodule.num_workers == content["data"]["init_args"]["num_workers"]
    assert wanted["devices"] in ("auto", trainer.num_devices)
    assert (trainer.num_nodes, trainer.precision) == (wanted["num_nodes"], wanted["precision"])
    if wanted["strategy"] == "auto":
        assert isinstance(trainer.strategy, SingleDeviceStrategy)
    else:
        assert type(trainer.strategy).__name__ == wanted["strategy"]["class_path"].rpartition(".")[2]
        assert trainer.strategy._timeout == timedelta(minutes=10)
    alone: Any = instantiate(*stage, *"--trainer.accelerator cpu --trainer.devices 1 --trainer.precision 32".split())
    assert [type(each) for each in trainer.callbacks] == [type(each) for each in alone.trainer.callbacks]
    assert trainer.max_epochs == alone.trainer.max_epochs


@pytest.mark.parametrize("file", RUNS, ids=name)
def test_each_command_of_a_run_parses(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    stages = run_stages(load_settings(str(file), {}, RunSettings))
    commands = [command for stage in stages for command in stage.words]
    assert {command[0] for command in commands} >= {"prepare", "fit", "predict", "test", "augment", "report"}
    for command in commands:
        parse(list(command))


@pytest.mark.parametrize("file", STUDIES, ids=name)
def test_each_cell_of_a_study_is_a_run_that_parses(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    study = load_study(str(file))
    runs = [CellRun(study, str(file), cell, study.seeds[0]) for cell in study.cells]
    assert all(run.arms for run in runs)
    for command in {
        words for stage in runs[0].plan.stages for words in stage.words
    }:  # the other cells differ in values
        parse(list(command))


@pytest.mark.parametrize("file", COLLECTIONS, ids=name)
def test_collection_is_instantiated(file: Path, tmp_path: Path) -> None:
    made = collect_settings(file)
    for key, value in yaml.safe_load(file.read_text(encoding="utf-8")).items():
        part = getattr(made, key)
        for inner, expected in value.items() if isinstance(value, dict) else ():
            assert getattr(part, inner) == expected
        assert isinstance(value, dict) or part == value
    assert (made.sampling.n, made.sampling.temperature, made.grader) == (8, 0.5, "string")  # paper
    assert load_prompt(REPOSITORY / made.prompt).shots


def collect_settings(file: Path) -> CollectSettings:
    """The settings of a config of `collect`; all but collect.yaml lie over it."""
    words = ["collect", "--config", str(REPOSITORY / "configs/collect.yaml"), "--config", str(file)]
    parsed = vars(parse_collect(words))
    return CollectSettings(**{key: value for key, value in parsed.items() if key not in ("config", "evaluate")})


def test_a_students_prompt_is_the_bare_question() -> None:
    assert load_prompt(STUDENT_PROMPT).messages("Why?") == [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize("file", [file for file in PROMPTS if file != STUDENT_PROMPT], ids=name)
def test_prompts_show_what_they_ask_for(file: Path) -> None:
    prompt = load_prompt(file)
    assert r"\boxed{}" in prompt.instructions
    assert len(prompt.shots) >= 3
    for shot in prompt.shots:
        assert shot.rationale.count(r"\boxed{") == 1  # at the end, once
        assert re.search(r"\\boxed\{[^\n]*\}[^\n]*\Z", shot.rationale)
        assert "Problem:" not in shot.rationale  # a stop word would cut it


def test_unknown_keys_of_a_collection_are_refused(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("# a comment\nendpoint:\n  api_key: sk-secret\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"more\.yaml:3: field 'endpoint\.api_key': no such option") as caught:
        collect_settings(tmp_path / "more.yaml")
    assert "sk-secret" not in str(caught.value)


# The paper's setting.


@pytest.fixture
def llama_7b(tmp_path: Path) -> str:
    """A directory with nothing but the config of LLaMA-7B: the defaults of LlamaConfig are its shape."""
    LlamaConfig().save_pretrained(tmp_path / "llama-7b")
    return str(tmp_path / "llama-7b")


@pytest.mark.parametrize(("stage", "warmup"), [("neg", 200), ("nat", 200), ("nce", 1000)])
def test_papers_values(stage: str, warmup: int, instantiate: Instantiate, llama_7b: str, tmp_path: Path) -> None:
    words = f"--model.student {llama_7b} --model.random_weights true".split()
    if stage == "nat":
        write_negative(tmp_path / "negative")
        words += ["--model.negative", str(tmp_path / "negative")]
    made = instantiate(*layers(REPOSITORY / f"configs/paper/{stage}.yaml"), *words)
    module: Any = made.model
    data, trainer, lora = made.datamodule, made.trainer, module.lora
    assert (lora.r, lora.alpha, lora.dropout, list(lora.target_modules)) == (8, 16, 0.05, ["q_proj", "v_proj"])
    optimizer = module.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert (type(optimizer), optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (
        torch.optim.AdamW,
        3e-4,
        0,
    )
    assert (module.schedule, module.warmup_steps, trainer.gradient_clip_val) == ("linear", warmup, 1.0)
    assert (trainer.max_epochs, data.batch_size * trainer.num_devices) == (20, 8 if stage == "nce" else 128)
    (writer,) = (each for each in trainer.callbacks if isinstance(each, AdapterWriter))  # type: ignore[attr-defined]
    assert writer.monitor is None
    assert (data.validation_fraction, module.sampling.max_new_tokens) == (0, 1024)
    assert (data.max_characters, data.loss_on_prompt) == (1200 if stage == "nce" else 1600, True)
    assert (data.max_length, data.drop_longer) == (2048, True)
    if stage == "nat":
        units = module.unit_settings
        assert (units.key_dim, units.bottleneck, units.delta) == (128, 128, False)
    if stage == "nce":
        assert (module.mix, module.temperature, module.calibrated) == (0.5, 1.0, True)

    with torch.device("meta"):
        module.configure_model()
    parameters = dict(module.named_parameters())
    assert all(parameter.is_meta for parameter in parameters.values())
    base = [p for n, p in parameters.items() if "lora_" not in n and not n.startswith("units.")]
    assert sum(p.numel() for p in base) == 6_738_415_616
    assert {p.dtype for p in base} == {torch.float16}
    trained = [p for p in parameters.values() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    in_units = 2 * 32 * 4 * 128 * 4096 if stage == "nat" else 0
    assert sum(p.numel() for p in trained) == 2 * 32 * 8 * (4096 + 4096) + in_units


def test_papers_ranker(instantiate: Callable[..., LightningCLI]) -> None:
    made = instantiate(*layers(REPOSITORY / "configs/paper/rank.yaml"))
    module: Any = made.model
    data, trainer = made.datamodule, made.trainer
    assert (module.backbone_settings.path, module.loss.keywords) == ("google/flan-t5-xl", {"exponents": (3, 3)})
    optimizer = module.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (2e-5, 1e-5)
    assert (module.schedule, trainer.max_epochs, trainer.gradient_clip_val) == ("cosine_by_epoch", 5, None)
    assert (data.batch_size, data.pairs_per_question, data.max_length, data.drop_longer) == (1, 1, 512, True)
    assert data.max_scored_length == 512


@pytest.mark.parametrize("file", [file for file in [*STAGES, *OVERLAYS] if file.stem != "vote"], ids=name)
def test_references_values_are_the_defaults(file: Path, instantiate: Instantiate) -> None:
    """Weight decay (torch's AdamW has 0.01), the schedule and M_rank's exponents, where a config says nothing else."""
    made = instantiate(*layers(file))
    module: Any = made.model
    ranks = file.stem == "rank"
    optimizer = module.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.defaults["weight_decay"] == (1e-5 if ranks else 0)
    of_embedded = file.parent.name in ("demo", "study")
    assert module.schedule == ("linear" if not ranks else "cosine" if of_embedded else "cosine_by_epoch")
    if ranks:
        assert module.loss.keywords == {"exponents": (3, 3)}


def test_values_without_a_config(instantiate: Instantiate) -> None:
    plain: Any = instantiate("--model", "NegativeModel", "--data", "RationaleDataModule").model
    ranker: Any = instantiate("--model", "RankModel", "--data", "PairDataModule").model
    for module, schedule, decay, rate in ((plain, "linear", 0, 3e-4), (ranker, "cosine_by_epoch", 1e-5, 2e-5)):
        defaults = module.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults
        assert (module.schedule, defaults["weight_decay"], defaults["lr"]) == (schedule, decay, rate)
    assert ranker.loss.keywords == {"exponents": (3, 3)}
    assert plain.sampling.max_new_tokens == 1024
    assert instantiate("--config", str(REPOSITORY / "configs/nce.yaml")).datamodule.batch_size == 8


def write_negative(directory: Path) -> None:
    """Writes an adapter of LLaMA-7B's shape whose weights are zero."""
    LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]).save_pretrained(str(directory))
    zeros = {
        f"base_model.model.model.layers.{layer}.self_attn.{target}.lora_{side}.weight": torch.zeros(shape)
        for layer in range(32)
        for target in ("q_proj", "v_proj")
        for side, shape in (("A", (8, 4096)), ("B", (4096, 8)))
    }
    save_file(zeros, directory / "adapter_model.safetensors")

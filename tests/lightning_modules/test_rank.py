"""M_rank against float64 references from the paper's stage 3, what it reads, and what it leaves on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel, T5ForConditionalGeneration
from transformers.modeling_layers import GradientCheckpointingLayer

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.ranking.backbones import BackboneSettings, DecoderSettings, EncoderSettings
from lightning_modules.components.ranking.ranker import Ranker, ScoreHead, load_ranker, masked_mean
from lightning_modules.rank import RankModel
from tests.students import unsign

BACKBONES = ["decoder", "frozen decoder", "bert", "t5", "frozen t5"]


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random encoders as Hugging Face directories, dropout on."""
    root = tmp_path_factory.mktemp("encoders")
    bert = BertConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    t5 = T5Config(vocab_size=320, d_model=24, d_kv=6, d_ff=48, num_layers=2, num_heads=4)
    torch.manual_seed(0)
    BertModel(bert).save_pretrained(root / "bert")
    T5ForConditionalGeneration(t5).save_pretrained(root / "t5")
    return {"bert": root / "bert", "t5": root / "t5"}


@pytest.fixture
def settings(tiny_student: Path, encoders: dict[str, Path]) -> Callable[[str], BackboneSettings]:
    """Settings of each kind of backbone by name."""
    student = str(tiny_student)
    made: dict[str, BackboneSettings] = {
        "decoder": DecoderSettings(student, LoraSettings(r=4, dropout=0.3)),
        "frozen decoder": DecoderSettings(student, lora=None),
        "bert": EncoderSettings(str(encoders["bert"])),
        "t5": EncoderSettings(str(encoders["t5"])),
        "frozen t5": EncoderSettings(str(encoders["t5"]), frozen=True),
    }
    return made.__getitem__


def pair_batch(
    lengths: Iterable[int] = (9, 12, 7, 11), prompt: int = 3, seed: int = 3, pad: int = 0
) -> dict[str, Tensor]:
    lengths = list(lengths)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths) + pad), 0)
    attention, rationale = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, 300, (length,), generator=generator)
        attention[row, :length] = 1
        rationale[row, prompt:length] = 1
    return {"input_ids": ids, "attention_mask": attention, "rationale_mask": rationale}


def built(backbone: BackboneSettings, **kwargs: Any) -> RankModel:
    model = RankModel(backbone, **kwargs)
    model.configure_model()
    return model


def trainer(root: Path, **kwargs: Any) -> L.Trainer:
    return L.Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": root,
            "use_distributed_sampler": False,
            **kwargs,
        }
    )


# The parts against slow references.


def test_masked_mean_by_hand() -> None:
    hidden = torch.randn(3, 5, 4, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    pooled = masked_mean(hidden, mask)
    for row in range(3):
        chosen = [hidden[row, t] for t in range(5) if mask[row, t]]
        expected = sum(chosen, torch.zeros(4, dtype=torch.float64)) / max(1, len(chosen))
        assert torch.allclose(pooled[row], expected, atol=1e-14)
    assert masked_mean(hidden.bfloat16(), mask).dtype == torch.float32


def test_head_by_hand() -> None:
    head = ScoreHead(4, layers=2).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    for row, logit in zip(x.tolist(), head(x).tolist(), strict=True):
        for layer in head.layers:
            weight, bias = layer.weight.tolist(), layer.bias.tolist()  # type: ignore[operator]
            z = [sum(w * h for w, h in zip(ws, row, strict=True)) + b for ws, b in zip(weight, bias, strict=True)]
            row = [h + (v if v > 0 else math.expm1(v)) for h, v in zip(row, z, strict=True)]
        expected = sum(w * h for w, h in zip(head.out.weight[0].tolist(), row, strict=True)) + head.out.bias.item()
        assert logit == pytest.approx(expected, abs=1e-13)


# What it reads.


@pytest.mark.parametrize("kind", ["decoder", "bert", "t5"])
def test_gradient_checkpointing_changes_no_gradient(kind: str, settings: Callable[[str], BackboneSettings]) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        ranker = Ranker(replace(settings(kind), gradient_checkpointing=checkpointing)).train()  # type: ignore[type-var]
        layers = [m for m in ranker.modules() if isinstance(m, GradientCheckpointingLayer)]
        assert {layer.gradient_checkpointing for layer in layers} == {checkpointing}
        torch.manual_seed(1)  # of dropout, which comes back as it was
        ranker(**pair_batch()).square().sum().backward()
        found.append({n: p.grad for n, p in ranker.named_parameters() if p.grad is not None})
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys()
    assert [n for n, gradient in plain.items() if not torch.equal(checkpointed[n], gradient)] == []


@pytest.mark.parametrize("kind", BACKBONES)
def test_padding_and_neighbours_do_not_change_a_score(kind: str, settings: Callable[[str], BackboneSettings]) -> None:
    ranker = Ranker(settings(kind)).eval()
    batch = pair_batch()
    with torch.no_grad():
        logits = ranker(**batch)
        assert logits.shape == (4,)
        assert logits.std() > 1e-4
        assert torch.allclose(ranker(**pair_batch(pad=6)), logits, atol=1e-5)
        for row, length in enumerate((9, 12, 7, 11)):
            alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
            assert torch.allclose(ranker(**alone), logits[row], atol=1e-5)


@pytest.mark.parametrize("kind", BACKBONES)
def test_score_pools_the_rationale_and_not_the_prompt(kind: str, settings: Callable[[str], BackboneSettings]) -> None:
    ranker = Ranker(settings(kind)).eval()
    batch = pair_batch()
    with torch.no_grad():
        hidden = ranker.backbone(batch["input_ids"], batch["attention_mask"]).double()
        rows = [hidden[row, 3:length].mean(0) for row, length in enumerate((9, 12, 7, 11))]
        expected = ranker.head.double()(torch.stack(rows))
        ranker.head.float()
        assert torch.allclose(ranker(**batch).double(), expected, atol=1e-5)


def test_decoder_hidden_states_are_those_the_logits_are_made_of(
    tiny_student: Path, randomise: Callable[..., None]
) -> None:
    backbone = DecoderSettings(str(tiny_student), LoraSettings(r=4)).build().eval()
    randomise(p for p in backbone.parameters() if p.requires_grad)
    batch = pair_batch()
    inputs = batch["input_ids"], batch["attention_mask"]
    real = batch["attention_mask"] == 1
    with torch.no_grad():
        head: Any = backbone.stack.model.get_output_embeddings()
        through = head(backbone(*inputs))
        assert torch.allclose(through[real], backbone.stack(*inputs)[real], atol=1e-5)
        plain = DecoderSettings(str(tiny_student), lora=None).build()(*inputs)
        assert not torch.allclose(plain[real], backbone(*inputs)[real], atol=1e-3)


def test_t5_encoder_is_used_without_its_decoder(encoders: dict[str, Path]) -> None:
    backbone = EncoderSettings(str(encoders["t5"])).build()
    assert isinstance(backbone.model, T5EncoderModel)
    whole = T5ForConditionalGeneration.from_pretrained(encoders["t5"]).eval()
    batch = pair_batch()
    with torch.no_grad():
        expected = whole.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        assert torch.equal(backbone.eval()(batch["input_ids"], batch["attention_mask"]), expected)


# What trains.


@pytest.mark.parametrize("kind", BACKBONES)
def test_what_trains_gets_gradients_and_the_rest_none(kind: str, settings: Callable[[str], BackboneSettings]) -> None:
    model = built(settings(kind))
    assert model.built.head.training
    assert model.built.backbone.training == (not kind.startswith("frozen"))
    positive, negative = model(pair_batch()).chunk(2)
    model.loss(positive, negative).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    # the second factor of LoRA starts at zero, so the first one's gradient is zero at the start, but there
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
    backbone = {name for name in trained if ".backbone." in name}
    if kind == "decoder":
        assert backbone
        assert all(".lora_" in name for name in backbone)
    else:
        assert bool(backbone) == (not kind.startswith("frozen"))
    if kind.startswith("frozen"):
        assert torch.equal(model(pair_batch()), model(pair_batch()))  # no dropout in what does not train


def separable(questions: int = 16) -> list[dict[str, Tensor]]:
    """Pairs whose right rationales use tokens 10 to 19 and whose wrong ones 20 to 29, under random prompts."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(30, 300, (questions, 4), generator=generator).repeat(2, 1)
    right = torch.randint(10, 20, (questions, 6), generator=generator)
    wrong = torch.randint(20, 30, (questions, 6), generator=generator)
    ids = torch.cat([prompts, torch.cat([right, wrong])], 1)
    mask = torch.cat([torch.zeros_like(prompts), torch.ones(2 * questions, 6, dtype=torch.int64)], 1)
    pairs = torch.arange(2 * questions).view(2, questions).T
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "rationale_mask": mask, "pairs": pairs}]


@pytest.mark.parametrize("loss", ["pairwise", "binary_cross_entropy"])
@pytest.mark.parametrize("kind", ["decoder", "frozen decoder", "bert", "t5"])
def test_thirty_steps_tell_separable_rationales_apart(
    kind: str, loss: Any, settings: Callable[[str], BackboneSettings], tmp_path: Path
) -> None:
    model = RankModel(settings(kind), loss=loss, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), warmup_steps=3)
    fit = trainer(tmp_path, max_steps=30)
    loader: Any = DataLoader(separable(), batch_size=None)  # type: ignore[arg-type]
    fit.fit(model, loader)
    result = fit.validate(model, loader, verbose=False)[0]
    assert result["val/pairwise_accuracy"] > 0.9
    assert result["val/auroc"] > 0.9


class Fixed(nn.Module):
    """Stands for a ranker: the logits are the ids."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, rationale_mask: Tensor) -> Tensor:
        return input_ids[:, 0]


def test_metrics_by_hand(tmp_path: Path) -> None:
    positive, negative = [2.0, 0.5, -1.0, 3.0, 4.0], [1.0, 0.5, 0.0, -2.0, 3.5]  # right, tie, wrong, right, right
    batches = []
    for chosen in (slice(0, 3), slice(3, 5)):  # ragged batches: means over pairs, not over batches
        column = torch.tensor(positive[chosen] + negative[chosen])[:, None]
        rows = torch.arange(len(column)).view(2, -1).T
        batches.append({"input_ids": column, "attention_mask": column, "rationale_mask": column, "pairs": rows})
    model = RankModel()
    model.ranker = Fixed()  # type: ignore[assignment]
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    result = trainer(tmp_path).validate(model, loader, verbose=False)[0]
    scores = [(1 / (1 + math.exp(-x)), y) for y, side in ((1, positive), (0, negative)) for x in side]
    pairs = [(p, n) for p, y in scores for n, z in scores if y == 1 and z == 0]
    bins: dict[int, list[tuple[float, int]]] = {}
    for score, verdict in scores:
        bins.setdefault(min(14, int(score * 15)), []).append((score, verdict))
    calibration = sum(abs(sum(s for s, _ in b) - sum(y for _, y in b)) for b in bins.values()) / len(scores)
    losses = [(1 - s) ** 3 if y else s**7 for s, y in scores]
    assert result["val/pairwise_accuracy"] == pytest.approx(3.5 / 5)
    assert result["val/auroc"] == pytest.approx(sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs))
    assert result["val/calibration_error"] == pytest.approx(calibration, abs=1e-6)
    assert result["val/loss"] == pytest.approx(sum(losses) / 5, abs=1e-6)


def test_predict_gives_scores_in_the_order_of_the_records(settings: Callable[[str], BackboneSettings]) -> None:
    model = built(settings("decoder")).eval()
    batch = pair_batch()
    scores = model.predict_step({**batch, "records": [{}] * 4}, 0)
    assert all(isinstance(score, float) and 0 < score < 1 for score in scores)
    assert scores == pytest.approx(torch.sigmoid(model.built(**batch)).tolist())
    order = torch.tensor([2, 0, 3, 1])
    assert model.predict_step({name: value[order] for name, value in batch.items()}, 0) == pytest.approx(
        [scores[i] for i in order], abs=1e-6
    )


# What it leaves on disk.


@pytest.mark.parametrize("kind", BACKBONES)
def test_saved_ranker_scores_the_same_after_one_call(
    kind: str, settings: Callable[[str], BackboneSettings], tmp_path: Path, randomise: Callable[..., None]
) -> None:
    model = built(settings(kind), head_layers=3)
    randomise((p for p in model.parameters() if p.requires_grad), scale=0.2)
    model.write_adapter(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    extra = {"decoder": {"adapter"}, "bert": {"encoder"}, "t5": {"encoder"}}.get(kind, set())
    assert files == {"head.safetensors", "dust2gold.json"} | extra
    batch = pair_batch()
    with torch.no_grad():
        expected = model.eval().built(**batch)
        loaded = load_ranker(tmp_path)
        assert not loaded.training
        assert torch.equal(loaded(**batch), expected)
        again = RankModel(trained=str(tmp_path))
        again.configure_model()
        assert torch.equal(again.eval()(batch), expected)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


def test_decoder_adapter_is_stock_peft_and_can_start_from_another(
    settings: Callable[[str], BackboneSettings], tiny_student: Path, negative_directory: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    built(settings("decoder")).write_adapter(tmp_path)
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_student), tmp_path / "adapter")
    assert stock.peft_config["default"].r == 4  # type: ignore[attr-defined]

    batch = pair_batch()
    inputs = batch["input_ids"], batch["attention_mask"]
    started = DecoderSettings(str(tiny_student), adapter=str(negative_directory)).build()
    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_student), negative_directory)
    with torch.no_grad():
        expected = reference(*inputs, output_hidden_states=True).hidden_states[-1]
        real = batch["attention_mask"] == 1
        assert torch.allclose(started.eval()(*inputs)[real], expected[real], atol=1e-5)
    assert any(p.requires_grad for p in started.parameters())
    frozen = DecoderSettings(str(tiny_student), lora=None, adapter=str(negative_directory)).build()
    assert not any(p.requires_grad for p in frozen.parameters())


def test_checkpoint_holds_what_trains_and_resumes(settings: Callable[[str], BackboneSettings], tmp_path: Path) -> None:
    def fit(steps: int, checkpoint: Path | None = None) -> tuple[RankModel, L.Trainer]:
        torch.manual_seed(0)
        model = RankModel(settings("decoder"), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), schedule="constant")
        fitted = trainer(tmp_path, max_steps=steps, max_epochs=-1)
        loader: Any = DataLoader(separable(), batch_size=None)  # type: ignore[arg-type]
        fitted.fit(model, loader, ckpt_path=checkpoint, weights_only=False)
        return model, fitted

    model, fitted = fit(4)
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert state.keys() == trained.keys()
    weights = sum(p.numel() * 4 for p in trained.values())
    assert (tmp_path / "last.ckpt").stat().st_size < 3 * weights + 60_000  # and Adam's two moments

    resumed, _ = fit(5, tmp_path / "last.ckpt")
    assert resumed.trainer.global_step == 5
    before = {name: value.clone() for name, value in state.items()}
    moved = [n for n, p in resumed.named_parameters() if p.requires_grad and not torch.equal(p, before[n])]
    assert moved
    assert all(torch.allclose(p, before[n], atol=0.05) for n, p in resumed.named_parameters() if p.requires_grad)
    other = RankModel(settings("frozen decoder"))
    with pytest.raises(InputError, match="does not fit this stage"):
        trainer(tmp_path, max_steps=5).fit(
            other,
            DataLoader(separable(), batch_size=None),  # type: ignore[arg-type]
            ckpt_path=tmp_path / "last.ckpt",
            weights_only=False,
        )


# What cannot be used.


def test_a_damaged_or_foreign_directory_is_refused(
    settings: Callable[[str], BackboneSettings], tmp_path: Path, negative_directory: Path, encoders: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match="no ranker here"):
        load_ranker(negative_directory)
    built(settings("frozen t5")).write_adapter(tmp_path)
    with pytest.raises(InputError, match="another base"):
        load_ranker(tmp_path, settings("frozen decoder"))
    other = tmp_path / "other"
    torch.manual_seed(5)
    T5ForConditionalGeneration(T5Config.from_pretrained(encoders["t5"])).save_pretrained(other)
    with pytest.raises(InputError, match=r"another base.*other"):
        load_ranker(tmp_path, EncoderSettings(str(other), frozen=True))
    (tmp_path / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"head\.safetensors: damaged: its SHA-256"):
        load_ranker(tmp_path)
    unsign(tmp_path)
    with pytest.raises(InputError, match=r"head\.safetensors: damaged or missing head"):
        load_ranker(tmp_path)
    manifest = json.loads((tmp_path / "dust2gold.json").read_text(encoding="utf-8"))
    manifest["backbone"]["surplus"] = 1
    (tmp_path / "dust2gold.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match="damaged manifest"):
        load_ranker(tmp_path)


def test_settings_that_cannot_work_are_refused(tmp_path: Path, encoders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="needs float32 weights"):
        EncoderSettings("x", dtype="bfloat16")
    with pytest.raises(InputError, match="unknown dtype 'fp8'"):
        EncoderSettings(str(encoders["bert"]), frozen=True, dtype="fp8").build()
    for config, reason in (({}, "cannot load the encoder"), ({"model_type": "bart"}, "no encoder-only class for bart")):
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(InputError, match=reason):
            EncoderSettings(str(tmp_path)).build()


def test_scores_stay_float32_under_bf16(settings: Callable[[str], BackboneSettings]) -> None:
    ranker = Ranker(settings("decoder")).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = ranker(**pair_batch())
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())

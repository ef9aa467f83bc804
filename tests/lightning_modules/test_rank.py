import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, T5Config, T5EncoderModel, T5ForConditionalGeneration
from transformers.modeling_layers import GradientCheckpointingLayer

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.ranking.backbones import BackboneSettings, DecoderSettings, EncoderSettings
from lightning_modules.components.ranking.ranker import Ranker, ScoreHead, load_ranker, masked_mean
from lightning_modules.rank import RankModel
from tests.lightning_modules.steps import loader, quiet_trainer
from tests.students import unsign

BACKBONES = ["decoder", "frozen decoder", "bert", "t5", "frozen t5"]
LENGTHS, PROMPT = (9, 12, 7, 11), 3
SettingsByName = Callable[[str], BackboneSettings]


@pytest.fixture
def settings(tiny_student: Path, encoders: dict[str, Path]) -> SettingsByName:
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


def pair_batch(pad: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    positions = torch.arange(max(LENGTHS) + pad)  # [T]
    attention = (positions < torch.tensor(LENGTHS)[:, None]).long()  # [B, T]
    tokens = [torch.randint(3, 300, (length,), generator=generator) for length in LENGTHS]
    ids = torch.nn.utils.rnn.pad_sequence([*tokens, torch.zeros(len(positions)).long()], batch_first=True)[:-1]
    rationale = attention * (positions >= PROMPT)
    return {"input_ids": ids, "attention_mask": attention, "rationale_mask": rationale}


def read_alone(backbone: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    hidden: Tensor = backbone(batch["input_ids"], batch["attention_mask"])
    return hidden


def built(backbone: BackboneSettings | None = None, **kwargs: Any) -> RankModel:
    model = RankModel(backbone, **kwargs)
    model.configure_model()
    return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_masked_mean_by_hand() -> None:
    hidden = torch.randn(3, 5, 4, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    expected = torch.stack([(hidden[0, 1] + hidden[0, 2]) / 2, sum(hidden[1]) / 5, torch.zeros(4)])  # type: ignore[list-item]
    assert torch.allclose(masked_mean(hidden, mask), expected, atol=1e-14)
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


@pytest.mark.parametrize("kind", ["decoder", "bert", "t5"])
def test_gradient_checkpointing_changes_no_gradient(kind: str, settings: SettingsByName) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        ranker = Ranker(replace(settings(kind), gradient_checkpointing=checkpointing)).train()  # type: ignore[type-var]
        layers = [m for m in ranker.modules() if isinstance(m, GradientCheckpointingLayer)]
        assert {layer.gradient_checkpointing for layer in layers} == {checkpointing}
        torch.manual_seed(1)  # of dropout, which comes back as it was
        ranker(**pair_batch()).square().sum().backward()
        found.append({n: p.grad for n, p in ranker.named_parameters() if p.grad is not None})
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("kind", BACKBONES)
@torch.no_grad()
def test_a_score_pools_its_rationale_whatever_stands_beside(kind: str, settings: SettingsByName) -> None:
    ranker, batch = Ranker(settings(kind)).eval(), pair_batch()
    logits = ranker(**batch)
    assert logits.shape == (4,)
    assert logits.std() > 1e-4
    assert torch.allclose(ranker(**pair_batch(pad=6)), logits, atol=1e-5)
    for row, length in enumerate(LENGTHS):
        alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
        assert torch.allclose(ranker(**alone), logits[row], atol=1e-5)
    hidden = read_alone(ranker.backbone, batch).double()
    pooled = torch.stack([hidden[row, PROMPT:length].mean(0) for row, length in enumerate(LENGTHS)])
    assert torch.allclose(logits.double(), ranker.head.double()(pooled), atol=1e-5)


@torch.no_grad()
def test_decoder_hidden_states_are_those_the_logits_are_made_of(
    tiny_student: Path, randomise: Callable[..., None]
) -> None:
    backbone = DecoderSettings(str(tiny_student), LoraSettings(r=4)).build().eval()
    randomise(trainable(backbone).values())
    batch = pair_batch()
    real = batch["attention_mask"] == 1
    head: Any = backbone.stack.model.get_output_embeddings()
    hidden, logits = read_alone(backbone, batch), backbone.stack(batch["input_ids"], batch["attention_mask"])
    assert torch.allclose(head(hidden)[real], logits[real], atol=1e-5)
    plain = read_alone(DecoderSettings(str(tiny_student), lora=None).build(), batch)
    assert not torch.allclose(plain[real], hidden[real], atol=1e-3)


@torch.no_grad()
def test_t5_encoder_is_used_without_its_decoder(encoders: dict[str, Path]) -> None:
    backbone, batch = EncoderSettings(str(encoders["t5"])).build(), pair_batch()
    assert isinstance(backbone.model, T5EncoderModel)
    whole = T5ForConditionalGeneration.from_pretrained(encoders["t5"]).eval()
    expected = whole.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    assert torch.equal(read_alone(backbone.eval(), batch), expected)


@pytest.mark.parametrize("kind", BACKBONES)
def test_what_trains_gets_gradients_and_the_rest_none(kind: str, settings: SettingsByName) -> None:
    model, frozen = built(settings(kind)), kind.startswith("frozen")
    assert model.built.head.training
    assert model.built.backbone.training == (not frozen)
    positive, negative = model(pair_batch()).chunk(2)
    model.loss(positive, negative).backward()
    # LoRA's second factor starts at zero: the first one's gradient is zero then, but there
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trainable(model).keys()
    backbone = {name for name in trainable(model) if ".backbone." in name}
    assert bool(backbone) == (not frozen)
    assert kind != "decoder" or all(".lora_" in name for name in backbone)
    if frozen:
        assert torch.equal(model(pair_batch()), model(pair_batch()))  # no dropout in what does not train


def separable(questions: int = 16) -> Any:
    """Pairs whose right rationales use tokens 10 to 19 and whose wrong ones 20 to 29, under random prompts."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(30, 300, (questions, 4), generator=generator).repeat(2, 1)
    right = torch.randint(10, 20, (questions, 6), generator=generator)
    wrong = torch.randint(20, 30, (questions, 6), generator=generator)
    ids = torch.cat([prompts, torch.cat([right, wrong])], 1)
    mask = torch.cat([torch.zeros_like(prompts), torch.ones(2 * questions, 6, dtype=torch.int64)], 1)
    pairs = torch.arange(2 * questions).view(2, questions).T
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "rationale_mask": mask, "pairs": pairs}
    return loader(batch)


@pytest.mark.parametrize("loss", ["pairwise", "binary_cross_entropy"])
@pytest.mark.parametrize("kind", ["decoder", "frozen decoder", "bert", "t5"])
def test_thirty_steps_tell_separable_rationales_apart(
    kind: str, loss: Any, settings: SettingsByName, tmp_path: Path
) -> None:
    model = RankModel(settings(kind), loss=loss, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), warmup_steps=3)
    trainer = quiet_trainer(tmp_path, max_steps=30)
    trainer.fit(model, separable())
    result = trainer.validate(model, separable(), verbose=False)[0]
    assert result["val/pairwise_accuracy"] > 0.9
    assert result["val/auroc"] > 0.9


def test_metrics_by_hand(tmp_path: Path) -> None:
    positive, negative = [2.0, 0.5, -1.0, 3.0, 4.0], [1.0, 0.5, 0.0, -2.0, 3.5]  # right, tie, wrong, right, right
    batches = []
    for chosen in (slice(0, 3), slice(3, 5)):  # ragged batches: means over pairs, not over batches
        column = torch.tensor(positive[chosen] + negative[chosen])[:, None]
        rows = torch.arange(len(column)).view(2, -1).T
        batches.append({"input_ids": column, "attention_mask": column, "rationale_mask": column, "pairs": rows})
    model = RankModel(exponents=(3, 7))
    model.ranker = lambda ids, attention, rationale: ids[:, 0]  # type: ignore[assignment]  # the logits are the ids
    result = quiet_trainer(tmp_path).validate(model, loader(*batches), verbose=False)[0]
    scores = [(1 / (1 + math.exp(-x)), y) for y, side in ((1, positive), (0, negative)) for x in side]
    pairs = [(p, n) for p, y in scores for n, z in scores if y == 1 and z == 0]
    bins: dict[int, list[tuple[float, int]]] = {}
    for score, verdict in scores:
        bins.setdefault(min(14, int(score * 15)), []).append((score, verdict))
    calibration = sum(abs(sum(s for s, _ in b) - sum(y for _, y in b)) for b in bins.values()) / len(scores)
    expected = {
        "val/pairwise_accuracy": 3.5 / 5,
        "val/auroc": sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs),
        "val/calibration_error": calibration,
        "val/loss": sum((1 - s) ** 3 if y else s**7 for s, y in scores) / 5,
    }
    assert result == pytest.approx(expected, abs=1e-6)


def test_predict_gives_scores_in_the_order_of_the_records(settings: SettingsByName) -> None:
    model, batch = built(settings("decoder")).eval(), pair_batch()
    scores = model.predict_step(batch, 0)
    assert all(isinstance(score, float) and 0 < score < 1 for score in scores)
    assert scores == pytest.approx(torch.sigmoid(model.built(**batch)).tolist())
    shuffled = model.predict_step({name: value[[2, 0, 3, 1]] for name, value in batch.items()}, 0)
    assert shuffled == pytest.approx([scores[row] for row in (2, 0, 3, 1)], abs=1e-6)


@torch.no_grad()
def test_scores_stay_float32_under_bf16(settings: SettingsByName) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = Ranker(settings("decoder")).eval()(**pair_batch())
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("kind", BACKBONES)
@torch.no_grad()
def test_saved_ranker_scores_the_same_after_one_call(
    kind: str, settings: SettingsByName, tmp_path: Path, randomise: Callable[..., None]
) -> None:
    model, batch = built(settings(kind), head_layers=3), pair_batch()
    randomise(trainable(model).values(), scale=0.2)
    model.write_adapter(tmp_path)
    extra = {"decoder": {"adapter"}, "bert": {"encoder"}, "t5": {"encoder"}}.get(kind, set())
    assert {path.name for path in tmp_path.iterdir()} == {"head.safetensors", "dust2gold.json"} | extra
    expected = model.eval().built(**batch)
    loaded, again = load_ranker(tmp_path, settings(kind)), built(settings(kind), trained=str(tmp_path))
    assert str(tmp_path.parent) not in (tmp_path / "dust2gold.json").read_text()
    assert not loaded.training
    assert torch.equal(loaded(**batch), expected)
    assert torch.equal(again.eval()(batch), expected)
    assert trainable(again).keys() == trainable(model).keys()


@torch.no_grad()
def test_decoder_adapter_is_stock_peft_and_can_start_from_another(
    settings: SettingsByName, tiny_student: Path, negative_directory: Path, tmp_path: Path
) -> None:
    built(settings("decoder")).write_adapter(tmp_path)
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_student), tmp_path / "adapter")
    assert stock.peft_config["default"].r == 4  # type: ignore[attr-defined]

    batch = pair_batch()
    real = batch["attention_mask"] == 1
    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_student), negative_directory)
    output = reference(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
    for lora in (LoraSettings(), None):
        backbone = DecoderSettings(str(tiny_student), lora, adapter=str(negative_directory)).build()
        assert bool(trainable(backbone)) == (lora is not None)
        assert torch.allclose(read_alone(backbone.eval(), batch)[real], output.hidden_states[-1][real], atol=1e-5)


def test_checkpoint_holds_what_trains_and_resumes(settings: SettingsByName, tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"

    def fit(steps: int, checkpoint: Path | None = None, kind: str = "decoder") -> tuple[RankModel, L.Trainer]:
        torch.manual_seed(0)
        model = RankModel(settings(kind), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), schedule="constant")
        trainer = quiet_trainer(tmp_path, max_steps=steps, max_epochs=-1)
        trainer.fit(model, separable(), ckpt_path=checkpoint, weights_only=False)
        return model, trainer

    model, trainer = fit(4)
    trainer.save_checkpoint(last)
    state = torch.load(last, weights_only=False)["state_dict"]
    assert state.keys() == trainable(model).keys()
    weights = sum(p.numel() * 4 for p in trainable(model).values())
    assert last.stat().st_size < 3 * weights + 60_000  # and Adam's two moments

    resumed, trainer = fit(5, last)
    assert trainer.global_step == 5
    moved = [(p - state[name]).abs().max() for name, p in trainable(resumed).items()]
    assert 0 < max(moved) < 0.05
    with pytest.raises(InputError, match="does not fit this stage"):
        fit(5, last, "frozen decoder")


def test_a_damaged_or_foreign_directory_is_refused(
    settings: SettingsByName, tmp_path: Path, negative_directory: Path, encoders: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match="no ranker here"):
        load_ranker(negative_directory, settings("decoder"))
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
        load_ranker(tmp_path, settings("frozen t5"))
    unsign(tmp_path)
    with pytest.raises(InputError, match=r"head\.safetensors: damaged or missing head"):
        load_ranker(tmp_path, settings("frozen t5"))
    manifest = json.loads((tmp_path / "dust2gold.json").read_text(encoding="utf-8"))
    manifest["head_layers"] = "many"
    (tmp_path / "dust2gold.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match="damaged manifest"):
        load_ranker(tmp_path, settings("frozen t5"))


def test_settings_that_cannot_work_are_refused(tmp_path: Path, encoders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="needs float32 weights"):
        EncoderSettings("x", dtype="bfloat16")
    with pytest.raises(InputError, match="unknown dtype 'fp8'"):
        EncoderSettings(str(encoders["bert"]), frozen=True, dtype="fp8").build()
    for config, reason in (({}, "cannot load the encoder"), ({"model_type": "bart"}, "no encoder-only class for bart")):
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(InputError, match=reason):
            EncoderSettings(str(tmp_path)).build()

"""M_rank's backbone: hidden states of a decoder student or of an encoder.

Settings, in a config and in a manifest, describe what to build; backbones are the built modules:

    backbone = DecoderSettings(student="embedded").build()
    hidden = backbone(input_ids, attention_mask)        # [B, T, backbone.hidden_size]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from dust2gold.core.errors import InputError
from dust2gold.core.foreign_errors import loading
from dust2gold.core.students import locate_student
from lightning_modules.components.adapters.base_identity import BaseIdentity
from lightning_modules.components.adapters.quantization import Quantization
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base, shapes_only
from lightning_modules.components.losses.model_head import decoder_of
from lightning_modules.components.properties import ModuleWithProperties

RANK = "rank"
"""Name of the ranker's own LoRA adapter on the decoder."""
ADAPTER_DIRECTORY, ENCODER_DIRECTORY = "adapter", "encoder"


class Backbone(ModuleWithProperties, ABC):
    """Turns right-padded ids [B, T] and their attention mask into hidden states [B, T, d]."""

    hidden_size: int  # d
    identity: BaseIdentity | None  # of the frozen weights; None where all of them train

    @property
    @abstractmethod
    def transformer(self) -> PreTrainedModel:
        """The module that is called."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Writes what differs from the published weights into `directory`, in the libraries' own formats."""

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode where nothing trains: frozen features must not change between epochs."""
        return super().train(mode and _trains(self))


class DecoderBackbone(Backbone):
    """The last hidden states of a decoder student, with the adapter RANK or without any, after its final norm."""

    def __init__(self, stack: AdapterStack) -> None:
        super().__init__()
        self.stack = stack
        self.hidden_size = int(stack.model.config.get_text_config().hidden_size)
        self.identity = stack.identity

    @property
    def transformer(self) -> PreTrainedModel:
        """The decoder without its output head."""
        return decoder_of(self.stack.base)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Of the active adapter, or the base, [B, T, d]."""
        return self.stack.hidden(input_ids, attention_mask)

    def save(self, directory: Path) -> None:
        """Writes `adapter/`, a stock PEFT directory, if there is an adapter."""
        if isinstance(self.stack.model, PeftModel):
            (directory / ADAPTER_DIRECTORY).mkdir()
            self.stack.save(RANK, directory / ADAPTER_DIRECTORY)


class EncoderBackbone(Backbone):
    """The last hidden states of a Hugging Face encoder; its parameters tell whether it trains."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # type: ignore[assignment]  # BERT's; unused, and DDP refuses unused trainables
        self.model = model
        self.hidden_size = int(model.config.hidden_size)
        self.identity = None if _trains(model) else BaseIdentity.of(model)

    @property
    def transformer(self) -> PreTrainedModel:
        """The encoder."""
        return self.model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """After the encoder's last layer, [B, T, d]."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def save(self, directory: Path) -> None:
        """Writes `encoder/`, a Hugging Face directory, if the encoder was trained."""
        if self.identity is None:
            model = self.model.config if shapes_only() else self.model
            model.save_pretrained(directory / ENCODER_DIRECTORY)


class BackboneSettings(ABC):
    """Which backbone, and what of it trains: `DecoderSettings` or `EncoderSettings`."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def source(self) -> str:
        """The published weights it starts from, as the user named them."""

    @abstractmethod
    def build(self, trained: Path | None = None) -> Backbone:
        """Loads the weights; the adapter or encoder of a `trained` ranker's directory replaces the fresh one."""


@dataclass(frozen=True)
class DecoderSettings(BackboneSettings):
    """The decoder student, with a LoRA of its own.

    Args:
        student: A Hugging Face directory, a hub name, or `embedded`.
        lora: Shape of the LoRA to train; null keeps the student frozen and trains the head alone.
        adapter: Trained adapter directory to start from, e.g. NCE's; its own shape then holds, not `lora`'s.
        dtype: Of the frozen weights, as `StudentModule`'s.
        random_weights: Build the student from its config alone (benchmarks, tests).
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        quantization: Bits of the decoder's linear layers: none, 8bit or 4bit (bitsandbytes).
    """

    kind: ClassVar[str] = "decoder"

    student: str = "embedded"
    lora: LoraSettings | None = field(default_factory=LoraSettings)
    adapter: str | None = None
    dtype: str | None = None
    random_weights: bool = False
    gradient_checkpointing: bool = False
    quantization: Quantization = "none"

    @property
    def source(self) -> str:
        """The student."""
        return self.student

    def build(self, trained: Path | None = None) -> DecoderBackbone:
        """The student with the trained, the given or a fresh adapter, or none."""
        base = load_base(self.student, self.dtype or "float32", self.random_weights, self.quantization)
        stack = AdapterStack(base, self.student, self.gradient_checkpointing)
        own = None if trained is None else trained / ADAPTER_DIRECTORY
        start = own if own is not None and own.is_dir() else self.adapter
        if start is not None:
            stack.load(RANK, start, trainable=self.lora is not None)
        elif self.lora is not None:
            stack.add(RANK, self.lora)
        return DecoderBackbone(stack)


@dataclass(frozen=True)
class EncoderSettings(BackboneSettings):
    """Any Hugging Face encoder, or the encoder half of a T5 (reference: FLAN-T5, all of it trained).

    Args:
        path: A Hugging Face directory or a hub name.
        frozen: Train the head alone.
        dtype: Of the weights: float32; bfloat16 or float16 only when frozen.
        random_weights: Build the encoder from its config alone (benchmarks, tests).
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
    """

    kind: ClassVar[str] = "encoder"

    path: str
    frozen: bool = False
    dtype: str = "float32"
    random_weights: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if not self.frozen and self.dtype != "float32":
            problem = f"an encoder that trains needs float32 weights, not {self.dtype}: small updates round to nothing"
            remedy = "set dtype: float32 and --trainer.precision bf16-mixed, or frozen: true"
            raise InputError(problem, field="dtype", remedy=remedy)

    @property
    def source(self) -> str:
        """The encoder's path."""
        return self.path

    def build(self, trained: Path | None = None) -> EncoderBackbone:
        """The encoder, all of it trainable unless frozen."""
        own = None if trained is None else trained / ENCODER_DIRECTORY
        path = str(own) if own is not None and own.is_dir() else locate_student(self.path)
        model = self._load(path, self.random_weights and own is None)
        model.requires_grad_(not self.frozen)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return EncoderBackbone(model)

    def _load(self, path: str, random_weights: bool) -> PreTrainedModel:
        """An encoder, or the encoder of an encoder-decoder such as T5."""
        from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoConfig, AutoModel, AutoModelForTextEncoding

        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype):
            remedy = "choose one of float32, bfloat16, float16"
            raise InputError(f"unknown dtype '{self.dtype}'", field="dtype", remedy=remedy)
        remedy = "give a directory made by save_pretrained, or a hub name (with network access)"
        with loading("the encoder", path, remedy):
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            # Not by config.is_encoder_decoder, which is false for the saved encoder of a T5: that is no T5Model either.
            known = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
            if config.is_encoder_decoder and not known:
                raise ValueError(f"transformers has no encoder-only class for {config.model_type}")
            auto: Any = AutoModelForTextEncoding if known else AutoModel
            if random_weights or shapes_only():
                return auto.from_config(config, dtype=dtype)  # type: ignore[no-any-return]
            return auto.from_pretrained(path, dtype=dtype, trust_remote_code=False)  # type: ignore[no-any-return]


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())

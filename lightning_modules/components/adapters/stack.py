"""One frozen base model and the named LoRA adapters on it: M_neg, NAT's halves and the NCE student share the weights.

stack = AdapterStack(load_base("embedded"), "embedded")
stack.add("student", LoraSettings())
hidden = stack.hidden(input_ids, attention_mask)             # [B, T, d]; stack(...) gives logits [B, T, V]
logprobs = stack.head.logprobs(hidden[where], tokens)        # log P(token) [N], never holding logits of them all
with stack.using("negative"):              # another adapter, no dropout; everything comes back on exit
    negative = stack.hidden(input_ids, attention_mask)
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora.layer import LoraLayer
from peft.utils import load_peft_weights
from torch import Tensor

from dust2gold.core.errors import InputError, reason
from dust2gold.core.foreign_errors import loading
from dust2gold.core.students import locate_student, public_name
from lightning_modules.components.adapters.attention import Attention
from lightning_modules.components.adapters.base_identity import BaseIdentity, base_of
from lightning_modules.components.adapters.compiled import CompiledLayers, widened
from lightning_modules.components.adapters.layer_names import choose_layers, name_layers
from lightning_modules.components.adapters.manifest import (
    ADAPTER_WEIGHTS,
    check_files,
    check_weights,
    read_manifest,
    write_manifest,
)
from lightning_modules.components.adapters.packing import hidden_states, needs_mask, prepare_packing
from lightning_modules.components.adapters.plain_lora import check_layers, check_settings
from lightning_modules.components.adapters.quantization import Quantization, keep_differentiable, quantization_config
from lightning_modules.components.evaluation import evaluating
from lightning_modules.components.losses.model_head import decoder_of, find_head
from lightning_modules.components.losses.output_head import Head
from lightning_modules.components.properties import ModuleWithProperties

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoraSettings:
    """A LoRA adapter's shape.

    Attributes:
        r: Rank (paper: 8).
        alpha: lora_alpha; the branch is scaled by alpha / r (paper: 16).
        dropout: Dropout on the adapter's input (paper: 0.05).
        target_modules: Names of the adapted linear layers (paper: q_proj, v_proj); `all-linear`: all of the decoder's;
            `auto`: PEFT's choice for the architecture, taken too where the student has none of the paper's.
        use_rslora: Scale the branch by alpha / √r instead (Kalajdzievski 2023), for large ranks.
        peft_settings: Others of PEFT's `LoraConfig`, by their names there, e.g. rank_pattern or layers_to_transform.
    """

    r: int = 8
    alpha: int = 16
    dropout: float = 0.05
    target_modules: list[str] | Literal["all-linear", "auto"] = field(default_factory=lambda: ["q_proj", "v_proj"])
    use_rslora: bool = False
    peft_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            problem = f"must be at least 0 and below 1, found {self.dropout}"
            raise InputError(problem, field="model.lora.dropout", remedy="1 would let nothing through (paper: 0.05)")

    def peft(self) -> LoraConfig:
        """The same as a PEFT config."""
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(self.target_modules),
            use_rslora=self.use_rslora,
            task_type="CAUSAL_LM",
            **self.peft_settings,
        )


def shapes_only() -> bool:
    """Whether models are built on the meta device: they have shapes and no weights, to check what fits what.

    There a base is built from its config, an adapter is written without its weights, and one without weights is read.
    """
    return torch.get_default_device().type == "meta"


def load_base(
    student: str, dtype: str = "float32", random_weights: bool = False, quantization: Quantization = "none"
) -> PreTrainedModel:
    """Loads a causal LM and freezes it.

    Args:
        student: `embedded`, a Hugging Face directory or a hub name.
        dtype: Of the frozen weights: float32, bfloat16 or float16.
        random_weights: Build from the config alone, without reading weights (benchmarks); so it is on the meta device.
        quantization: Of the decoder's linear layers (see `quantization_config`).
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    path, torch_dtype = locate_student(student), getattr(torch, dtype, None)
    if not isinstance(torch_dtype, torch.dtype):
        remedy = "choose one of float32, bfloat16, float16"
        raise InputError(f"unknown dtype '{dtype}'", field="model.dtype", remedy=remedy)
    quantized = quantization_config(quantization, torch_dtype)
    if quantized is not None and random_weights:
        raise InputError("random weights are not quantised", field="model.quantization", remedy="leave out one of both")
    remedy = "give a directory made by save_pretrained, a hub name (with network access), or 'embedded'"
    with loading("the student", student, remedy):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise ValueError("it is an encoder-decoder, and a decoder is needed")
        if hasattr(config, "add_cross_attention") and not getattr(config, "is_decoder", True):  # BERT, not GPT-2
            raise ValueError("it is an encoder, which sees the tokens to come, and a decoder is needed")
        if random_weights or shapes_only():
            model = AutoModelForCausalLM.from_config(config, dtype=torch_dtype)
        else:
            options: dict[str, Any] = {"trust_remote_code": False, "quantization_config": quantized}
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch_dtype, output_loading_info=True, **options
            )
            model, found = loaded
            if absent := sorted(found["missing_keys"]):  # transformers draws them at random
                raise ValueError(f"{len(absent)} of its weights are missing, e.g. {absent[0]}")
        if getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", 1) < 1:
            raise ValueError("it has no layers")
    model.requires_grad_(False)
    keep_differentiable(model)
    return model  # type: ignore[no-any-return]


class AdapterStack(ModuleWithProperties):
    """A frozen causal LM with named LoRA adapters, one active at a time.

    Args:
        base: The model; frozen here, never copied.
        student: Its name, written into the adapters' configs.
        gradient_checkpointing: Recompute activations in the backward pass.
        attention: Of packed rows, see `prepare_packing`.
        fused_head: Compile what the output head does with logits.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        student: str,
        gradient_checkpointing: bool = False,
        attention: Attention = "auto",
        fused_head: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self.fused_head = fused_head
        self.identity = BaseIdentity.of(base)
        base.requires_grad_(False)
        if gradient_checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model: PreTrainedModel | PeftModel = base  # PEFT's wrapper of the same weights, from the first adapter on
        self.attention = attention
        self.compiled: CompiledLayers | None = None  # that packed rows go through
        self._packs = False
        self._masks: bool | None = None  # whether padded rows need their mask; known from the first pass on
        self._casts: bool | None = None  # whether LoRA layers cast their input
        decoder_of(base).register_forward_pre_hook(self._match_autocast)
        # cuDNN makes a plan for every new shape: in sampling, where each token has one of its own, 0.1 s a token.
        torch.backends.cuda.enable_cudnn_sdp(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, T, V] of the active adapter for right- or left-padded ids [B, T]."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return output.logits  # type: ignore[no-any-return]

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        sample_bounds: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        """Last hidden states [B, T, d] of right-padded or packed rows, see `hidden_states`.

        An InputError if a student mixes packed samples.
        """
        if position_ids is not None and not self._packs:
            prepare_packing(self.base, "sdpa" if self.compiled else self.attention)  # bounds differ by batch
            self._packs = True
        if position_ids is None and self._masks is None:
            self._masks = needs_mask(self.base)
        mask = attention_mask if self._masks else None
        if position_ids is None or self.compiled is None:
            return hidden_states(self.base, input_ids, mask, position_ids, sample_bounds)
        with self.compiled.used():
            hidden = hidden_states(self.base, widened(input_ids), None, widened(position_ids))
        return hidden[:, : input_ids.shape[1]]

    def hidden_of(self, batch: dict[str, Any]) -> Tensor:
        """`hidden` of a batch as DataModules make it, [B, T, d]."""
        packed = batch.get("position_ids"), batch.get("sample_bounds")
        return self.hidden(batch["input_ids"], batch["attention_mask"], *packed)

    @property
    def base(self) -> PreTrainedModel:
        """The causal LM itself, with the LoRA layers inside."""
        return cast("PreTrainedModel", self.model.get_base_model()) if isinstance(self.model, PeftModel) else self.model

    @cached_property
    def head(self) -> Head:
        """The frozen output head that all adapters share; checked against the model at its first use."""
        head = find_head(self.base)
        if self.fused_head:
            head.compile()
        return head

    def add(self, name: str, settings: LoraSettings) -> None:
        """Adds a fresh, trainable adapter and makes it the active one.

        An InputError if the student has no such layers.
        """
        targets = choose_layers(self.base, settings.target_modules)
        try:
            config = replace(settings, target_modules=targets).peft()
            name_layers(config, ())
            self._inject(name, config)
        except (TypeError, ValueError) as error:
            remedy = "adapt linear layers with a positive rank, e.g. r 8 on q_proj, v_proj"
            raise InputError(
                f"cannot put a LoRA on the student ({reason(error)})", field="lora", remedy=remedy
            ) from error
        self.activate(name, trainable=True)

    def load(self, name: str, directory: str | Path, trainable: bool = False) -> None:
        """Loads a stock PEFT adapter directory under `name` and makes it the active one.

        An InputError if the directory is no adapter, is damaged, or was trained on another base.
        """
        directory = Path(directory)
        self._check(directory)
        remedy = "train it again on this student, or name the student it was trained on"
        with loading("the adapter", directory, remedy):
            config = PeftConfig.from_pretrained(str(directory))
            if not isinstance(config, LoraConfig):
                raise ValueError(f"a LoRA is needed, this is {config.peft_type}")
            config.base_model_name_or_path = None  # `save` writes it; until then PEFT warns of any other spelling
            written = (directory / ADAPTER_WEIGHTS).is_file()  # else there are shapes only
            weights = load_peft_weights(str(directory), device="cpu") if written else {}
            name_layers(config, weights)
            self._inject(name, config)
            if written:
                self._fill(name, weights)
        self.activate(name, trainable=trainable)

    def activate(self, name: str, trainable: bool) -> None:
        """Makes `name` the active adapter; `trainable` says whether it gets gradients, all others get none."""
        self._peft().set_adapter(name, inference_mode=not trainable)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Runs the block with another adapter active, without gradients and dropout; restores all, also on an error."""
        peft = self._peft()
        if name not in peft.peft_config:
            raise ValueError(f"there is no adapter '{name}'")
        layers = [module for module in peft.modules() if isinstance(module, LoraLayer)]
        trained = [p for layer in layers for p in layer.parameters() if p.requires_grad]
        before, tuner = str(peft.active_adapter), cast("Any", peft.base_model)

        def switch(to: str) -> None:  # as PEFT's `set_adapter`, which walks all modules and takes three times as long
            for layer in layers:
                layer.set_adapter(to, inference_mode=True)
            peft.active_adapter = tuner.active_adapter = to

        try:
            switch(name)
            with torch.no_grad(), evaluating(self):
                yield
        finally:
            switch(before)
            for parameter in trained:
                parameter.requires_grad_(True)

    def lora_layers(self, name: str) -> dict[str, LoraLayer]:
        """The LoRA layers that hold adapter `name`, by module path, found by type."""
        modules = self._peft().named_modules()
        return {path: m for path, m in modules if isinstance(m, LoraLayer) and name in m.lora_A}

    def save(self, name: str, directory: Path, facts: dict[str, Any] | None = None) -> None:
        """Writes adapter `name` into an empty directory: PEFT's files and our manifest, with `facts` in it."""
        peft = self._peft()
        config = peft.peft_config[name]
        config.base_model_name_or_path = public_name(self.student)
        if isinstance(config, LoraConfig) and isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)  # a set is written in another order by each process
        if shapes_only():
            config.save_pretrained(str(directory))
        else:
            holder = directory / ".saving"
            peft.save_pretrained(str(holder), selected_adapters=[name], save_embedding_layers=False)
            for file in (holder / name).iterdir():
                file.replace(directory / file.name)
            shutil.rmtree(holder)
        self.write_manifest(directory, {"kind": "lora", **(facts or {})})

    def write_manifest(self, directory: Path, facts: dict[str, Any]) -> None:
        """Writes `dust2gold.json`: the adapter's base, checksums of its weights, and `facts`."""
        write_manifest(directory, {"student": public_name(self.student), "base": self.identity.to_json(), **facts})

    def _match_autocast(self, decoder: Any, _: Any) -> None:
        """Under autocast, which casts what it multiplies, PEFT's cast of each layer's input to float32 is left out."""
        casts = not torch.is_autocast_enabled(decoder.device.type)
        if casts != self._casts and not torch.compiler.is_compiling():  # which fuses them
            for module in self.base.modules():
                if isinstance(module, LoraLayer):
                    module.cast_input_dtype_enabled = casts
            self._casts = casts

    def _peft(self) -> PeftModel:
        if not isinstance(self.model, PeftModel):
            raise RuntimeError("no adapter yet: call add() or load() first")
        return self.model

    def _inject(self, name: str, config: LoraConfig) -> None:
        check_settings(config)
        ends = [self.base.get_input_embeddings(), self.base.get_output_embeddings()]
        if isinstance(self.model, PeftModel):
            self.model.add_adapter(name, config)
        else:
            self.model = get_peft_model(self.model, config, adapter_name=name)
        self._casts = None
        check_layers(self.base.named_modules(), ends)

    def _fill(self, name: str, weights: dict[str, Tensor]) -> None:
        """Copies adapter weights in; PEFT lets absent ones start at random with no more than a warning."""
        keys: Any = set_peft_model_state_dict(self._peft(), weights, adapter_name=name)
        absent = [key for key in keys.missing_keys if f".{name}." in key]
        if wrong := absent + keys.unexpected_keys:
            raise ValueError(f"{len(absent)} weights are missing, {len(keys.unexpected_keys)} foreign, e.g. {wrong[0]}")

    def _check(self, directory: Path) -> None:
        """Refuses what is no adapter, is damaged, or was trained on another base."""
        check_files(directory, weights=not shapes_only())
        manifest = read_manifest(directory)
        check_weights(directory, manifest)
        trained_on = base_of(directory, manifest)
        if trained_on is not None and not self.identity.is_same(trained_on):
            raise InputError(
                f"the adapter was trained on another base ('{manifest.get('student')}') "
                f"than this student ('{self.student}'): their weights differ",
                file=directory,
                remedy="give --model.student the base it was trained on, or train it again",
            )

"""What the decoder stages share: one frozen base with adapters, the training step, sampling.

A stage overrides `loss_parts`, what it minimises, and, if it has more than one LoRA, `build` and `write_adapter`. A new
loss needs nothing else: docs/method.md, "Add a loss of your own".
"""

from __future__ import annotations

import contextlib
import sys
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from tqdm import tqdm

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.attention import Attention
from lightning_modules.components.adapters.compiled import CompiledLayers
from lightning_modules.components.adapters.quantization import Quantization
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base, shapes_only
from lightning_modules.components.integration.unit import IntegrationUnit
from lightning_modules.components.losses.model_head import decoder_of
from lightning_modules.components.losses.targets import Targets, at_targets, find_targets, is_padding
from lightning_modules.components.sampling.cache import cache_argument
from lightning_modules.components.sampling.sampler import Sample, sample_each
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.components.sampling.vllm_engine import OWN, VllmEngine, find_vllm, largest_rank
from lightning_modules.trainable import TrainableModule

SampleListener = Callable[[list[Sample], dict[str, Any]], None]
"""Called in `test` and `predict` with all samples of a question, as soon as they are complete, and their batch."""

STUDENT = "student"
"""Name of the one trainable adapter of a plain stage."""


class StudentModule(TrainableModule):
    """Base of the stages that train or sample a decoder.

    Args:
        student: The base model: a Hugging Face directory, a hub name, or `embedded`.
        adapter: Trained adapter directory to start from (predict, test) or to go on training.
        lora: Shape of the adapter this stage trains.
        dtype: Of the frozen base weights: float32, bfloat16 or float16. Adapters stay in float32. None: float32, and
            from the command line bfloat16 under `trainer.precision` bf16-mixed.
        random_weights: Build the base from its config alone, with random weights (benchmarks, tests).
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        fused_head: Let torch.compile fuse what losses do with a chunk of logits; wants Triton, on a CPU a C++ compiler.
        compile: Train through compiled decoder layers (torch.compile); needs `data.packing`, for its fixed widths.
        quantization: Bits of the frozen decoder's linear layers: none, 8bit or 4bit (bitsandbytes).
        attention: Of packed rows (`data.packing`): `varlen` (torch's varlen_attn: an NVIDIA GPU, bfloat16 or float16),
            `flex` (FlexAttention: a GPU), `sdpa` (a block mask), or `auto`, varlen if it can be had and else sdpa.
        optimizer: Optimizer of the trainable parameters (reference: AdamW, lr 3e-4, no weight decay).
        schedule: Learning-rate schedule after the warm-up: constant, linear or cosine, the last two down to 0, or
            cosine_by_epoch (reference: linear).
        warmup_steps: Steps of linear warm-up from 0 (reference: 200, NCE 1,000).
        sampling: How `predict` samples; `test` decodes greedily with the same `max_new_tokens`.
    """

    def __init__(
        self,
        student: str = "embedded",
        adapter: str | None = None,
        lora: LoraSettings = LoraSettings(),
        dtype: str | None = None,
        random_weights: bool = False,
        gradient_checkpointing: bool = False,
        fused_head: bool = False,
        compile: bool = False,
        quantization: Quantization = "none",
        attention: Attention = "auto",
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=3e-4, weight_decay=0.0),
        schedule: str = "linear",
        warmup_steps: int = 0,
        sampling: SamplingSettings = SamplingSettings(),
    ) -> None:
        super().__init__(optimizer, schedule, warmup_steps)
        self.student = student
        self.adapter = adapter
        self.lora = lora
        self.dtype_name = dtype or "float32"
        self.random_weights = random_weights
        self.gradient_checkpointing = gradient_checkpointing
        self.fused_head = fused_head
        self.compiles = compile
        self.quantization = quantization
        self.attention: Attention = attention
        self.sampling = sampling
        self.stack: AdapterStack | None = None
        self.sample_listeners: list[SampleListener] = []
        self._has_trained = False
        self._open_engine: Callable[[torch.device], VllmEngine] | None = None  # where vLLM samples
        self._engine: VllmEngine | None = None
        self._answers: list[tuple[list[int], str]] = []  # of a test: tokens and gold answer

    @abstractmethod
    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """The stage's scalar `loss`, and other scalars to log, by name."""

    def build(self, stack: AdapterStack) -> None:
        """Puts this stage's adapters on the base, the one to train or to sample from active last.

        Here one LoRA: the trained `adapter` if there is one, or a fresh one.
        """
        if self.adapter is None:
            stack.add(STUDENT, self.lora)
        else:
            stack.load(STUDENT, self.adapter, trainable=True)

    def write_adapter(self, directory: Path) -> None:
        """Writes the trained adapter into an empty directory."""
        self.adapters.save(STUDENT, directory, {"stage": type(self).__name__})

    adapters_read: ClassVar[tuple[str, ...]] = ("adapter",)

    means_over_samples: ClassVar[frozenset[str]] = frozenset()
    """Parts of the loss that are means over samples; the others are means over target tokens. The logged mean of an
    epoch or an optimizer step weighs batches accordingly."""

    own_means: ClassVar[frozenset[str]] = frozenset()
    """Parts that are means over a batch's own targets or samples, and not divided by the counts in `step`."""

    def weight_of(self, part: str, targets: Targets) -> int:
        """What a batch counts for in the logged mean of a part of the loss; 0 leaves it out."""
        return max(1, targets.samples if part in self.means_over_samples else len(targets.tokens))

    @property
    def adapters(self) -> AdapterStack:
        """The stack, once `configure_model` has built it."""
        if self.stack is None:
            raise RuntimeError("configure_model() has not run yet")
        return self.stack

    def configure_model(self) -> None:
        """Loads the base once and puts the adapters on it (called by Lightning on every entry point).

        Where vLLM samples, it loads its own: here the adapter is compared with the base, on the CPU, and both let go.
        """
        if served := self._is_served():
            self._check_served()
        if self.stack is not None or (served and self._open_engine is not None):
            return
        with torch.device("cpu") if served and not shapes_only() else contextlib.nullcontext():
            base = load_base(self.student, self.dtype_name, self.random_weights, self.quantization)
            cache_argument(base)  # now, and not after hours of training
            stack = AdapterStack(base, self.student, self.gradient_checkpointing, self.attention, self.fused_head)
            self.build(stack)
        self.base_name, self.base_identity = self.student, stack.identity
        if served:
            rank = largest_rank(stack.lora_layers(STUDENT).values(), STUDENT)
            given = (self.student, self.adapter, self.dtype_name, rank, base.config)
            self._open_engine = partial(VllmEngine, *given)
            return
        self.stack = stack.train()  # transformers loads in eval mode, and Lightning keeps the mode it finds
        self.shard(decoder_of(stack.base), [m for m in self.modules() if isinstance(m, IntegrationUnit)])

    def _is_served(self) -> bool:
        """Whether vLLM samples; never while a stage trains or validates."""
        training = self._trainer is not None and self.trainer.state.fn in (TrainerFn.FITTING, TrainerFn.VALIDATING)
        return self.sampling.backend == "vllm" and not training

    def _check_served(self) -> None:
        """Refuses what vLLM would not sample, or not as our own decoder does."""
        name, adapter = type(self).__name__, "vLLM reads an adapter's directory, and"
        plain = type(self).write_adapter is StudentModule.write_adapter
        checkpoint = None if self._trainer is None else self.trainer.ckpt_path
        for refused, field, problem in (
            (not plain, "model", f"vLLM serves one plain LoRA, and {name} is more: NAT's gate depends on the token"),
            (checkpoint is not None, "ckpt_path", f"{adapter} no checkpoint: give --model.adapter"),
            (self.stack is not None, "model.adapter", f"{adapter} no model in memory: give it to another command"),
            (self.quantization != "none", "model.quantization", "vLLM would quantise the base in another way"),
            (self.random_weights, "model.random_weights", "vLLM would draw other random weights"),
            (
                self.adapter is not None and self.dtype_name == "float32",
                "model.dtype",
                "vLLM's LoRA kernels take float16 and bfloat16 alone",
            ),
        ):
            if refused:
                raise InputError(problem, field=field, remedy=f"change that, or {OWN}")
        find_vllm()

    def hidden(self, batch: dict[str, Any]) -> Tensor:
        """Last hidden states [B, T, d], after the final norm, of the active adapter; rows may be packed."""
        return self.adapters.hidden_of(batch)

    def target_logprobs(self, batch: dict[str, Any], targets: Targets) -> Tensor:
        """Log P(target | before) [N], natural log, float32 or wider, of the active adapter; never holds [B, T, V]."""
        head = self.adapters.head  # first: the check at its first use is a forward pass too, which hooks would see last
        hidden = at_targets(self.hidden(batch), targets)  # [N, d]
        return head.logprobs(hidden, targets.tokens)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step of the stage's loss."""
        targets = find_targets(batch)
        parts = self.loss_parts(batch, targets)
        self.log_step(parts, {name: self._weight_in_step(name, batch, targets) for name in parts})
        return parts["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same loss on held-out questions, without dropout."""
        targets = find_targets(batch)
        for name, value in self.loss_parts(batch, targets).items():
            self.log_validation(name, value, self._weight_in_step(name, batch, targets))

    def _weight_in_step(self, part: str, batch: dict[str, Any], targets: Targets) -> int:
        """What a batch counts for in the mean of a part of the loss over an optimizer step, or the validation."""
        if "step" in batch and part not in self.own_means:
            return 1  # its sums are divided by the counts of the whole step already
        return 0 if is_padding(batch) else self.weight_of(part, targets)

    def on_fit_start(self) -> None:
        """Compiles the layers where that was asked for; refuses it where shapes change, or FSDP2 hooks into them."""
        if not self.compiles:
            return
        data, strategy = self._datamodule, self.trainer.strategy
        if not getattr(data, "packing", False):
            problem = "batches differ in width, and each width would be compiled anew"
            raise InputError(problem, field="model.compile", remedy="give --data.packing true, or leave it out")
        if isinstance(strategy, ModelParallelStrategy):
            remedy = "take configs/trainer/ddp.yaml, or leave it out"
            raise InputError("FSDP2's shards are not compiled here", field="model.compile", remedy=remedy)
        if self.attention in ("varlen", "flex"):
            problem = (
                f"compiled layers take a block mask, which is fixed in shape, and not attention '{self.attention}'"
            )
            raise InputError(problem, field="model.compile", remedy="give --model.attention sdpa, or leave it out")
        self.adapters.compiled = CompiledLayers(self.adapters.base)

    def on_fit_end(self) -> None:
        """Remembers that something was trained."""
        self._has_trained = True
        self.adapters.compiled = None

    def on_test_start(self) -> None:
        """Prints a note if nothing was trained; no error, because the base model is a legitimate baseline."""
        trained = self._has_trained or self.adapter is not None or self.trainer.ckpt_path is not None
        if not trained and self.trainer.is_global_zero:
            print("no --model.adapter: the base model answers, as it was before any training", file=sys.stderr)

    on_predict_start = on_test_start

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> list[Sample]:  # type: ignore[override]
        """Greedy answers to a batch of questions; a callback, or the end of the test, grades them."""
        samples = self._sample(batch, replace(self.sampling, samples=1, temperature=0.0))
        if hasattr(self._datamodule, "grader"):
            self._answers += [(one.token_ids, batch["questions"][one.question_index]["gold"]) for one in samples]
        return samples

    @property
    def _datamodule(self) -> Any:
        """The DataModule, which decodes and grades answers; None where there are loaders alone, or no Trainer."""
        return None if self._trainer is None else self.trainer.datamodule  # type: ignore[attr-defined]

    def on_test_epoch_end(self) -> None:
        """Logs `test/accuracy` where no callback has: the DataModule grades the answers."""
        answers, self._answers = self._answers, []
        data = self._datamodule
        if "test/accuracy" in self.trainer.callback_metrics or not hasattr(data, "grader"):
            return
        texts = data.texts([ids for ids, _ in answers])
        grades = data.grader.grade_many([(text, gold) for text, (_, gold) in zip(texts, answers, strict=True)])
        right = sum(verdict == "positive" for verdict, _ in grades)
        totals = self.trainer.strategy.reduce(torch.tensor([right, len(answers)], device=self.device), reduce_op="sum")
        self.log("test/accuracy", totals[0] / totals[1])

    def on_test_end(self) -> None:
        """Fills in the metric of TensorBoard's page of hyperparameters."""
        accuracy = self.trainer.callback_metrics.get("test/accuracy")
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger) and accuracy is not None:
                logger.log_metrics({"hp_metric": float(accuracy)})

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[Sample]:
        """`sampling.samples` answers to each question of a batch; a callback grades and writes them."""
        samples = self._sample(batch, self.sampling)
        data = self._datamodule
        if hasattr(data, "texts") and self.trainer.predict_loop.return_predictions:
            for one, text in zip(samples, data.texts([one.token_ids for one in samples]), strict=True):
                one.text = text
        return samples

    def _sampled_model(self) -> Any:
        """The model in memory, or vLLM's engine, opened at the first question and let go in `teardown`."""
        if self._open_engine is None:
            return self.adapters.model
        self._engine = self._engine or self._open_engine(self.device)
        return self._engine

    def teardown(self, stage: str) -> None:
        """Lets go of vLLM's engine."""
        self._engine = None

    def _sample(self, batch: dict[str, Any], settings: SamplingSettings) -> list[Sample]:
        """All samples of a batch, question by question; listeners get each question's as soon as they are complete."""
        if not batch["questions"]:  # a rank may have none
            return []
        names = [question["id"] for question in batch["questions"]]
        ids, mask, eos, pad = (batch[k] for k in ("input_ids", "attention_mask", "eos_token_id", "pad_token_id"))
        each = sample_each(self._sampled_model(), ids, mask, names, eos, pad, settings)
        total = len(batch["questions"]) * settings.samples
        done: list[list[Sample]] = []
        quiet = self._trainer is None or self._trainer.progress_bar_callback is None or self.global_rank > 0
        with tqdm(total=total, desc="samples", leave=False, disable=quiet) as bar:
            for samples in each:
                for listener in self.sample_listeners:
                    listener(samples, batch)
                done.append(samples)
                bar.update(len(samples))
        done.sort(key=lambda samples: samples[0].question_index)
        return [one for samples in done for one in samples]

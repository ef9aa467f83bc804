"""Makes the tiny student: trains its tokenizer, pretrains it on `corpus.py`, saves a Hugging Face directory.

    python -m embedded.pretrain --output embedded/student

The directory that ships was made by exactly this command with its defaults (about an hour on two cores).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedded.corpus import documents

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

RATIONALE_PIECES = (
    "Problem:\nSolution:\n First, Then, So the answer is \\boxed{12}. The answer is \\boxed{7}. There are left. "
)


def train_tokenizer(vocabulary: int = 512, sample: int = 20_000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE whose digits stand alone, so that sums are written digit by digit."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stream = documents(seed)
    texts = [next(stream) for _ in range(sample)] + [RATIONALE_PIECES] * (sample // 20)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )


def build_student(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    """A LLaMA-architecture decoder of about a million parameters, grouped-query attention included."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=160,
            intermediate_size=448,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def rows(tokenizer: PreTrainedTokenizerFast, length: int, seed: int) -> Iterator[list[int]]:
    """Documents packed end to end into rows of `length` tokens; each document begins with BOS and ends with EOS."""
    stream = documents(seed)
    buffer: list[int] = []
    while True:
        while len(buffer) < length:
            batch = tokenizer([next(stream) for _ in range(256)])["input_ids"]
            for ids in batch:
                buffer += [*ids, tokenizer.eos_token_id]
        yield buffer[:length]
        buffer = buffer[length:]


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def pretrain(output: Path, tokens: int, batch: int, length: int, peak: float, seed: int) -> None:
    """Runs the whole pretraining and writes model, tokenizer and `pretraining.json` into `output`."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(seed=seed)
    model = build_student(len(tokenizer), seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
    stream = rows(tokenizer, length, seed + 1)
    steps, started = tokens // (batch * length), time.time()
    loss_average = float("nan")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        ids = torch.tensor([next(stream) for _ in range(batch)])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss_average = loss.item() if math.isnan(loss_average) else 0.98 * loss_average + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            done = (step + 1) * batch * length
            print(f"step {step}/{steps} tokens {done / 1e6:.2f}M loss {loss_average:.4f} "
                  f"{done / (time.time() - started):,.0f} tokens/s", flush=True)  # fmt: skip
        if step and step % 1000 == 0:
            save(output, model, tokenizer)
    save(output, model, tokenizer)
    facts = {"tokens": steps * batch * length, "batch": batch, "length": length, "learning_rate": peak,
             "seed": seed, "final_loss": round(loss_average, 4)}  # fmt: skip
    (output / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def save(output: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Writes a normal Hugging Face directory."""
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def main() -> None:
    """Command line of `python -m embedded.pretrain`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("embedded/student"))
    parser.add_argument("--tokens", type=int, default=30_000_000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pretrain(arguments.output, arguments.tokens, arguments.batch, arguments.length,
             arguments.learning_rate, arguments.seed)  # fmt: skip


if __name__ == "__main__":
    main()

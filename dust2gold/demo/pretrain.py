"""Makes the tiny student: trains its tokenizer, pretrains it on `corpus.py`, saves a Hugging Face directory.

    python -m dust2gold.demo.pretrain --output dust2gold/demo/student

The directory that ships was made by this command with its defaults (about an hour on two idle cores).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dust2gold.demo.corpus import documents, notation

RATIONALE_PIECES = (
    "Problem:\nSolution:\n First, Then, So the answer is \\boxed{12}. The answer is \\boxed{7}. There are left. "
)


def train_tokenizer(vocabulary: int = 512, sample: int = 20_000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE whose digits stand alone, so that sums are written digit by digit."""
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


def rows(tokenizer: PreTrainedTokenizerFast, texts: Iterator[str], length: int) -> Iterator[list[int]]:
    """Texts packed end to end into rows of `length` tokens; each begins with BOS and ends with EOS."""
    buffer: list[int] = []
    while True:
        while len(buffer) < length:
            for ids in tokenizer(list(islice(texts, 256)))["input_ids"]:
                buffer += [*ids, tokenizer.eos_token_id]
        yield buffer[:length]
        buffer = buffer[length:]


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


@dataclass(frozen=True)
class Phase:
    """One stretch of pretraining: a key of `TEXTS`, a number of tokens and the peak of the learning rate."""

    name: str
    tokens: int
    learning_rate: float


TEXTS = {"corpus": documents, "notation": notation}


def pretrain(output: Path, phases: Sequence[Phase], batch: int, length: int, seed: int) -> None:
    """Runs the phases in order, in steps of `batch` rows, and writes model, tokenizer and `pretraining.json`."""
    tokenizer = train_tokenizer(seed=seed)
    model = build_student(len(tokenizer), seed)
    done = []
    for number, phase in enumerate(phases, start=1):
        stream = rows(tokenizer, TEXTS[phase.name](seed + number), length)
        loss = train(model.train(), stream, phase, batch, length)
        facts = {"batch": batch, "length": length, "seed": seed + number, "final_loss": round(loss, 4)}
        done.append({**asdict(phase), **facts})
        output.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
        (output / "pretraining.json").write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")


def train(model: LlamaForCausalLM, stream: Iterator[list[int]], phase: Phase, batch: int, length: int) -> float:
    """Trains on one phase and returns the running mean of the loss at its end, in nats per token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    steps, average = phase.tokens // (batch * length), float("nan")
    with tqdm(total=steps, desc=phase.name, unit="step") as bar:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, phase.learning_rate)
            ids = torch.tensor([next(stream) for _ in range(batch)])
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
            bar.set_postfix(loss=f"{average:.4f}", refresh=False)
            bar.update()
    return average


def main() -> None:
    """Command line of `python -m dust2gold.demo.pretrain`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("dust2gold/demo/student"))
    parser.add_argument("--tokens", type=int, default=30_000_000, help="of the corpus")
    parser.add_argument("--notation-tokens", type=int, default=8_000_000, help="of the second phase")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak; half of it in the second phase")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    phases = [
        Phase("corpus", arguments.tokens, arguments.learning_rate),
        Phase("notation", arguments.notation_tokens, arguments.learning_rate / 2),
    ]
    pretrain(arguments.output, phases, arguments.batch, arguments.length, arguments.seed)


if __name__ == "__main__":
    main()

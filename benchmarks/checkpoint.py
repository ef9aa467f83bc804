"""What a checkpoint weighs: Lightning's default of the whole module against ours of what trains.

    python -m benchmarks.checkpoint [--quick] [--layers 30]

NAT, the largest stage (positive LoRA and units), and a plain LoRA, each trained one step with AdamW on a student of
SmolLM2-135M's shape. Lightning's default keeps the frozen base and the frozen adapters in every checkpoint.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from benchmarks.harness import MIB, Target, arguments, begin, finish, show
from benchmarks.nce_step import build_nce
from benchmarks.students import build_student, random_batch
from lightning_modules.base import STUDENT, StudentModule
from lightning_modules.components.adapters.nat import POSITIVE
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.nat import NATModel
from lightning_modules.negative import NegativeModel


def plain_lora(layers: int) -> StudentModule:
    """CoT KD, M_neg and the like."""
    module = NegativeModel()
    module.stack = AdapterStack(build_student("smollm2", layers=layers), "smollm2-shaped")
    module.stack.add(STUDENT, LoraSettings())
    return module


def nat(layers: int) -> StudentModule:
    """The positive LoRA and the units trainable, the negative LoRA frozen."""
    module, made = NATModel(), build_nce(build_student("smollm2", layers=layers))
    module.stack, module.units = made.adapters, made.units.requires_grad_(True)
    module.stack.activate(POSITIVE, trainable=True)
    return module


def bytes_of(module: StudentModule, batch: dict[str, Any], path: Path) -> tuple[int, int]:
    """Size of a checkpoint after one step, and of the trainable parameters with their optimizer state."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, default_root_dir=path.parent, **quiet)  # type: ignore[arg-type]
    trainer.fit(module, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    trainer.save_checkpoint(path)
    (optimizer,) = trainer.optimizers
    state = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, torch.Tensor)]
    trained = [p for p in module.parameters() if p.requires_grad]
    return path.stat().st_size, sum(t.numel() * t.element_size() for t in [*trained, *state])


def main() -> None:
    """Runs the benchmark."""
    parser = arguments(str(__doc__).partition("\n")[0])
    parser.add_argument("--layers", type=int, help="decoder layers (default: SmolLM2-135M's 30, with --quick 4)")
    options = parser.parse_args()
    layers = options.layers or (4 if options.quick else 30)
    begin(options)
    batch, rows, targets = random_batch(build_student("smollm2", layers=1), 1, 16, 4), [], []
    for name, make in (("plain LoRA", plain_lora), ("NAT", nat)):
        whole = make(layers)
        whole.on_save_checkpoint = lambda checkpoint: None  # type: ignore[method-assign]  # as Lightning has it
        with tempfile.TemporaryDirectory() as directory:
            default, _ = bytes_of(whole, batch, Path(directory) / "default.ckpt")
            ours, least = bytes_of(make(layers), batch, Path(directory) / "ours.ckpt")
        rows.append([name, *(f"{size / MIB:.1f}" for size in (default, ours, least)), f"{ours / least:.3f}"])
        targets.append(Target(f"{name}: checkpoint / (trainable + optimizer)", ours / least, 1.1))
    print(f"SmolLM2-135M's shape, {layers} of its 30 layers, fp32, AdamW")
    header = ["stage", "Lightning's default, MiB", "ours, MiB", "trainable + optimizer, MiB", "ours / that"]
    show(header, rows)
    finish(targets, layers=layers)


if __name__ == "__main__":
    main()

"""The checkpoints that the demo merges: a base, and an expert for each task fine-tuned from it."""

from __future__ import annotations

import copy
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from svc_dist.demo.data import TASKS, Samples, vary
from svc_dist.demo.model import Config, DigitTransformer, load_model, new_model, save_model


@dataclass(frozen=True)
class Training:
    """One training run: AdamW for ``steps`` batches, the rate warming up and falling to zero along a cosine."""

    steps: int
    learning_rate: float
    batch_size: int = 64
    warmup_steps: int = 20


@dataclass(frozen=True)
class Settings:
    """Everything that the checkpoints depend on. Steps are fixed: no accuracy decides when training stops."""

    seed: int = 0
    model: Config = field(default_factory=Config)
    base: Training = Training(steps=600, learning_rate=2e-3)
    expert: Training = Training(steps=200, learning_rate=5e-4)
    #: Far below a real shard, so that this small model has several.
    max_shard_size: str = "60KB"


def expert_folder(folder: Path, task_name: str) -> Path:
    """The folder of a task's expert."""
    return folder / "experts" / task_name.replace(" ", "_")


def train_base(folder: Path, settings: Settings, samples: Samples) -> bool:
    """Train the base on varied upright digits; False if ``folder`` has one already."""
    if (folder / "base").exists():
        return False
    with _single_threaded():
        model = new_model(settings.model, settings.seed)
        _train(model, samples, settings.base, settings.seed, vary_images=True)
        _save(model, folder / "base", settings)
    return True


def train_experts(folder: Path, settings: Settings, samples: Samples) -> int:
    """Fine-tune the experts that ``folder`` lacks from the base, and return their number.

    The classifier is shared and frozen: its delta is exactly zero, so no head is merged.
    """
    missing = [index for index, task in enumerate(TASKS) if not expert_folder(folder, task.name).exists()]

    def fine_tune(index: int) -> None:
        task = TASKS[index]
        model = copy.deepcopy(base)
        model.classifier.requires_grad_(False)
        _train(model, samples.seen_as(task.view), settings.expert, settings.seed + 1 + index)
        _save(model, expert_folder(folder, task.name), settings)

    if missing:
        base = load_model(folder / "base")
        workers = min(len(missing), os.cpu_count() or 1)
        with _single_threaded(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(fine_tune, missing))
    return len(missing)


def accuracy(model: DigitTransformer, samples: Samples) -> float:
    """The share of ``samples`` whose digit the model reads, from 0 to 1."""
    with torch.no_grad():
        return float((model(samples.images).argmax(1) == samples.labels).float().mean())


def _train(model: DigitTransformer, samples: Samples, training: Training, seed: int, vary_images: bool = False) -> None:
    generator = torch.Generator().manual_seed(seed)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=training.learning_rate, weight_decay=0.01, fused=True)
    batches = _batches(len(samples), training.batch_size, generator)
    model.train()
    for step in range(training.steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / training.steps))
        optimizer.param_groups[0]["lr"] = training.learning_rate * min(1, (step + 1) / training.warmup_steps) * decay
        chosen = next(batches)
        images = samples.images[chosen]
        logits = model(vary(images, generator) if vary_images else images)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(cross_entropy(logits, samples.labels[chosen]))
        optimizer.step()


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from torch.split(torch.randperm(count, generator=generator), size)


def _save(model: DigitTransformer, folder: Path, settings: Settings) -> None:
    # The folder gets its name when it is complete: a run may be interrupted at any time.
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_model(model, partial, settings.max_shard_size)
    partial.rename(folder)


@contextmanager
def _single_threaded() -> Iterator[None]:
    # One training of matrices this small is slower with several threads; several trainings in parallel are faster.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

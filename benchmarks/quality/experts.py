"""Experts: copies of the base, each fully fine-tuned on one task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.quality.encoder import SCALE, TaskData, head, load, pooled
from benchmarks.quality.sources import base_model

STEPS, BATCH, RATE, WARM_UP, CLIP = 300, 32, 5e-5, 0.1, 1.0


def rate(step: int) -> float:
    """The learning rate of a step: linear warm-up, then a cosine to zero."""
    warm = WARM_UP * STEPS
    if step < warm:
        return RATE * (step + 1) / warm
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - warm) / (STEPS - warm)))


def batches(size: int, seed: int, batch: int = BATCH) -> Iterator[list[int]]:
    """Indices of consecutive batches: every text once per epoch, in a random order given by the seed."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < batch:
            waiting += torch.randperm(size, generator=generator).tolist()
        yield waiting[:batch]
        del waiting[:batch]


def train(task: TaskData, seed: int, target: Path) -> None:
    """Fine-tune the base on the task's training texts and write a complete checkpoint to the folder ``target``.

    Uses AdamW without weight decay (which would move the embeddings of words that do not occur in a task), a cosine
    schedule with warm-up, clipped gradients and no dropout.
    """
    base = base_model()
    model = load(base)
    classes = head(model, task)
    part = task.parts["train"]
    words = model.embeddings.word_embeddings
    whole, used, tokens = _compact(words, part.tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    order = batches(len(part.labels), seed)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        chosen = next(order)
        logits = SCALE * pooled(model, [tokens[index] for index in chosen]) @ classes.T
        loss = nn.functional.cross_entropy(logits, torch.tensor([part.labels[index] for index in chosen]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], CLIP)
        optimizer.step()
    whole[used] = words.weight.detach()
    words.weight = nn.Parameter(whole)
    _save(model, base, target)


def _compact(words: nn.Embedding, tokens: list[list[int]]) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Reduce ``words`` to the rows of used words; the others would have a gradient of zero in every step.

    Returns all rows, the ids of the used rows, and the tokens as indices of the used rows. Row 0 (padding) stays first.
    """
    used = torch.tensor(sorted({0}.union(*tokens)))
    place = {word: index for index, word in enumerate(used.tolist())}
    whole = words.weight.detach().clone()
    words.weight = nn.Parameter(whole[used])
    return whole, used, [[place[word] for word in entry] for entry in tokens]


def _save(model: nn.Module, base: Path, target: Path) -> None:
    trained = model.state_dict()
    tensors: dict[str, Tensor] = {
        name: trained.get(name, tensor).contiguous() for name, tensor in load_file(base / "model.safetensors").items()
    }
    target.mkdir(parents=True, exist_ok=True)
    partial = target / "partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    (target / "config.json").write_bytes((base / "config.json").read_bytes())
    partial.rename(target / "model.safetensors")

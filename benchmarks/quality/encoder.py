"""The sentence encoder: mean-pooled embeddings of a checkpoint, and the head of a task from its class prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.quality.sources import base_model

SCALE = 20.0  # factor from cosines to logits
_BATCH = 64


@dataclass(frozen=True)
class Part:
    """The texts of one split as token ids, and their labels."""

    tokens: list[list[int]]
    labels: list[int]


@dataclass(frozen=True)
class TaskData:
    """A prepared task: token ids of its class prompts and of its splits (``train``, ``validation``, ``test``)."""

    name: str
    prompts: list[list[int]]
    parts: dict[str, Part]

    @classmethod
    def read(cls, file: Path) -> TaskData:
        content = json.loads(file.read_text(encoding="utf-8"))
        parts = {name: Part(part["tokens"], part["labels"]) for name, part in content["parts"].items()}
        return cls(file.stem, content["prompts"], parts)


def bf16() -> bool:
    """Whether the processor supports bfloat16 matrix products, which are four times as fast as float32."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(name in flags.read_text() for name in ("avx512_bf16", "amx_bf16"))


def load(checkpoint: Path) -> nn.Module:
    """The encoder in float32, without dropout; plain attention, whose backward pass is faster on few tokens."""
    from transformers import AutoModel, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model: nn.Module = AutoModel.from_pretrained(
        checkpoint,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        dtype=torch.float32,
        attn_implementation="eager",
    )
    return model.eval()


def pooled(model: nn.Module, tokens: Sequence[list[int]]) -> Tensor:
    """Unit-length mean hidden states ``(texts, width)``, with bfloat16 products if the processor supports them."""
    longest = max(map(len, tokens))
    ids = torch.tensor([entry + [0] * (longest - len(entry)) for entry in tokens])
    mask = torch.tensor([[1] * len(entry) + [0] * (longest - len(entry)) for entry in tokens])
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16()):
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    summed = (hidden.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return nn.functional.normalize(summed, dim=1)


@torch.no_grad()
def embed(model: nn.Module, tokens: Sequence[list[int]]) -> Tensor:
    """Embeddings of many texts, in batches of similar length to reduce padding."""
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
    result = torch.empty(len(tokens), 0)
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        part = pooled(model, [tokens[index] for index in chosen])
        if not result.numel():
            result = torch.empty(len(tokens), part.shape[1])
        result[chosen] = part
    return result


def head(base: nn.Module, task: TaskData) -> Tensor:
    """The task's frozen head ``(classes, width)``: the base's embeddings of its class prompts."""
    return embed(base, task.prompts)


class Evaluator:
    """Computes the answers of checkpoints on the tasks; holds the model, the tasks and their heads."""

    def __init__(self, tasks: Mapping[str, TaskData]) -> None:
        self.model: nn.Module = load(base_model())
        self.tasks = tasks
        self.heads = {name: head(self.model, task) for name, task in tasks.items()}

    def answers(self, checkpoint: Path, part: str, names: Sequence[str]) -> dict[str, list[int]]:
        """For each task, 1 for each text that is classified correctly, otherwise 0."""
        weights = {}
        for file in sorted(checkpoint.glob("*.safetensors")):
            weights.update(load_file(file))
        missing, _ = self.model.load_state_dict(weights, strict=False)
        if any("pooler" not in name and "position_ids" not in name for name in missing):
            raise ValueError(f"{checkpoint} lacks {missing[0]}")
        parts = [self.tasks[name].parts[part] for name in names]
        # Embed all tasks together, so that batches contain texts of similar length from all tasks.
        embedded = embed(self.model, [tokens for entry in parts for tokens in entry.tokens])
        split = embedded.split([len(entry.labels) for entry in parts])
        return {n: _right(s, self.heads[n], p) for n, s, p in zip(names, split, parts, strict=True)}


def _right(embedded: Tensor, classes: Tensor, part: Part) -> list[int]:
    return ((embedded @ classes.T).argmax(1) == torch.tensor(part.labels)).int().tolist()

"""Kinds of experts: what of the base is trained, and the checkpoint that results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

RANK = 16
ROWS = 3000  # of about 155,000 in the base's matrices


class Expert(Protocol):
    """A model in training."""

    model: Any  # the causal language model whose answers count

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimiser changes, by name."""

    def save(self, base: Path, target: Path) -> None:
        """Write the checkpoint's tensors and configuration."""


@dataclass(frozen=True)
class Kind:
    """A kind of expert. ``make``: from the model, a function that gives the gradients of all matrices, and the state
    of an interrupted training if there is one. ``apart``: the experts of a set begin with different random numbers."""

    name: str
    rate: float
    make: Callable[[Any, Callable[[], None], dict[str, Any] | None], Expert]
    apart: bool = False


class Full:
    """Every tensor except the embeddings, which are also the head."""

    def __init__(self, model: Any, gradients: Callable[[], None], state: dict[str, Any] | None) -> None:
        self.model = model
        model.get_input_embeddings().weight.requires_grad_(False)

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def save(self, base: Path, target: Path) -> None:
        _save(base, target, dict(self.model.named_parameters()))


class Lora:
    """A LoRA adapter on every matrix of attention and feed-forward parts, in PEFT's format."""

    def __init__(self, model: Any, gradients: Callable[[], None], state: dict[str, Any] | None) -> None:
        from peft import LoraConfig, get_peft_model

        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets, task_type="CAUSAL_LM")
        self.adapted: Any = get_peft_model(model, config)
        self.model = model

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.adapted.named_parameters() if value.requires_grad}

    def save(self, base: Path, target: Path) -> None:
        self.adapted.peft_config["default"].base_model_name_or_path = str(base)
        self.adapted.save_pretrained(target)


class SparseRows(nn.Module):
    """A frozen matrix of which some rows (outputs) are trained."""

    def __init__(self, matrix: nn.Linear, rows: Tensor) -> None:
        super().__init__()
        self.weight = matrix.weight
        self.register_buffer("rows", rows)
        self.delta = nn.Parameter(torch.zeros(len(rows), matrix.in_features))

    def forward(self, inputs: Tensor) -> Tensor:
        added = nn.functional.linear(inputs, self.delta)
        plain = nn.functional.linear(inputs, self.weight)
        return plain.index_add(-1, self.rows, added.to(plain.dtype))  # type: ignore[arg-type]


class Sparse:
    """A few thousand rows: those with the largest gradients at the base, as training by rewards changes little."""

    def __init__(self, model: Any, gradients: Callable[[], None], state: dict[str, Any] | None) -> None:
        self.model = model
        model.get_input_embeddings().weight.requires_grad_(False)
        chosen = _strongest(model, gradients) if state is None else state["rows"]
        model.requires_grad_(False)
        self.matrices: dict[str, SparseRows] = {}
        for name, rows in chosen.items():
            owner, _, last = name.rpartition(".")
            sparse = SparseRows(model.get_submodule(name), rows)
            setattr(model.get_submodule(owner), last, sparse)
            self.matrices[name] = sparse

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: matrix.delta for name, matrix in self.matrices.items()}

    @property
    def rows(self) -> dict[str, Tensor]:
        return {name: matrix.get_buffer("rows") for name, matrix in self.matrices.items()}

    def save(self, base: Path, target: Path) -> None:
        trained = {
            f"{name}.weight": matrix.weight.detach().index_add(0, matrix.get_buffer("rows"), matrix.delta.detach())
            for name, matrix in self.matrices.items()
        }
        _save(base, target, trained)


def _strongest(model: Any, gradients: Callable[[], None]) -> dict[str, Tensor]:
    """By matrix, the indices of the rows with the largest gradients of all."""
    gradients()
    norms = {
        name: module.weight.grad.norm(dim=1)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.grad is not None
    }
    model.zero_grad(set_to_none=True)
    least = torch.cat(list(norms.values())).topk(min(ROWS, sum(map(len, norms.values())))).values[-1]
    found = {name: (values >= least).nonzero().flatten() for name, values in norms.items()}
    return {name: rows for name, rows in found.items() if len(rows)}


def _save(base: Path, target: Path, trained: dict[str, Any]) -> None:
    """Write the base's tensors, in its types, with the values of those trained."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(base.glob("*.safetensors")):
        tensors.update(load_file(file))
    for name, tensor in tensors.items():
        if name in trained:
            tensors[name] = trained[name].detach().to(tensor.dtype).contiguous()
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json"):
        if (base / name).exists():
            shutil.copy(base / name, target / name)


#: Adapters of one script with one seed share the random start of their factor A; those of different origin do not.
KINDS = {
    kind.name: kind
    for kind in (
        Kind("full", 1e-4, Full),
        Kind("lora", 1e-3, Lora),
        Kind("lora-apart", 1e-3, Lora, apart=True),
        Kind("sparse", 5e-4, Sparse),
    )
}

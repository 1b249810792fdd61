"""Training of an expert, which resumes after an interruption."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.quality.experts import batches
from benchmarks.quality.lm.data import Item
from benchmarks.quality.lm.kinds import Expert, Kind
from benchmarks.quality.lm.model import answer_states, load, logits
from benchmarks.quality.results import write

BATCH, WARM_UP, CLIP = 8, 0.1, 1.0
SAVE_EVERY = 240.0  # seconds
_GRADIENT_BATCHES = 4


@dataclass(frozen=True)
class Budget:
    """How long an expert is trained."""

    steps: int

    def share(self, step: int) -> float:
        """The share of the highest learning rate at a step: linear warm-up, then a cosine to zero."""
        warm = WARM_UP * self.steps
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (self.steps - warm)))


def _loss(model: Any, items: Sequence[Item]) -> torch.Tensor:
    states, answers = answer_states(model, items)
    return nn.functional.cross_entropy(logits(model, states), answers)


class Training:
    """One expert in training, the ``number``-th of its set. ``folder``: holds the state of an interrupted training."""

    def __init__(
        self, base: Path, items: Sequence[Item], kind: Kind, seed: int, budget: Budget, folder: Path, number: int = 0
    ) -> None:
        self.items, self.kind, self.budget, self.folder, self.seed = items, kind, budget, folder, seed
        self.file = folder / "training.pt"
        state: dict[str, Any] | None = torch.load(self.file) if self.file.exists() else None
        torch.manual_seed(seed + 1000 * (number + 1) if kind.apart else seed)  # for the first factors of LoRA
        model = load(base)
        self.expert: Expert = kind.make(model, lambda: self._add_gradients(model), state)
        self.parameters = self.expert.parameters()
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=kind.rate, weight_decay=0.0, fused=True)
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self.order = batches(len(items), seed, BATCH)
        if state is not None:
            self._resume(state)

    def _add_gradients(self, model: Any) -> None:
        order = batches(len(self.items), self.seed, BATCH)
        for _ in range(_GRADIENT_BATCHES):
            _loss(model, [self.items[index] for index in next(order)]).backward()  # type: ignore[no-untyped-call]

    def _resume(self, state: dict[str, Any]) -> None:
        for name, parameter in self.parameters.items():
            parameter.data.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses, self.seconds = state["step"], state["losses"], state["seconds"]
        for _ in range(self.step):
            next(self.order)

    def run(self) -> None:
        """Train to the end, and save the state every few minutes."""
        saved = time.monotonic()
        while self.step < self.budget.steps:
            self.advance()
            if time.monotonic() - saved > SAVE_EVERY:
                self.save_state()
                saved = time.monotonic()

    def advance(self) -> None:
        """One step."""
        started = time.process_time()
        for group in self.optimizer.param_groups:
            group["lr"] = self.kind.rate * self.budget.share(self.step)
        loss = _loss(self.expert.model, [self.items[index] for index in next(self.order)])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters.values(), CLIP)
        self.optimizer.step()
        self.step += 1
        self.losses.append(round(float(loss.detach()), 4))
        self.seconds += time.process_time() - started

    def save_state(self) -> None:
        """Write the state so that the file always holds a complete one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "seconds": self.seconds,
            "rows": getattr(self.expert, "rows", None),
        }
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self.file)
        write(self.folder / "progress.json", {"step": self.step, "losses": self.losses, "seconds": self.seconds})


def train(
    base: Path, items: Sequence[Item], kind: Kind, seed: int, budget: Budget, target: Path, about: str = "",
    number: int = 0,
) -> None:  # fmt: skip
    """Train the expert if the folder ``target`` does not exist yet, or resume its training."""
    if target.exists():
        return
    training = Training(base, items, kind, seed, budget, target.with_name(f"{target.name}.training"), number)
    if training.step:
        print(f"{about}: resumes at step {training.step} of {budget.steps}", flush=True)
    training.run()
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    training.expert.save(base, partial)
    log = {"steps": budget.steps, "cpu_seconds": round(training.seconds), "losses": training.losses}
    (partial / "training_log.json").write_text(json.dumps(log), encoding="utf-8")
    partial.rename(target)
    shutil.rmtree(training.folder, ignore_errors=True)
    minutes = training.seconds / 60
    print(f"{about}: trained, loss {training.losses[-1]:.3f}, {minutes:.0f} minutes of CPU time", flush=True)

"""The tasks as tokens: prompts with their answers, in three splits that share no prompt; and what the base can do."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.quality.lm import abilities, rules, translations
from benchmarks.quality.lm.base import base_model, tokenizer_of
from benchmarks.quality.results import write

SIZES = {"test": 200, "validation": 60, "train": 1600}
LONGEST = 64  # tokens of a prompt with its answer


@dataclass(frozen=True)
class Item:
    """A prompt and its answer as token ids. The loss and the score cover the answer only."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Task:
    """A task. ``exact``: an answer counts if every token is right; otherwise, the share of its right tokens counts."""

    name: str
    about: str
    source: str
    pairs: Callable[[], Iterator[tuple[str, str]]]
    exact: bool = True


def _by_rule(make: Callable[[random.Random], Iterator[tuple[str, str]]]) -> Callable[[], Iterator[tuple[str, str]]]:
    return lambda: islice(make(random.Random(make.__name__)), 6000)


#: In the order in which merges of fewer experts use them.
TASKS = {
    task.name: task
    for task in (
        Task("sql", "a question about a table, as a query", "rules; every query runs in sqlite", _by_rule(rules.sql)),
        Task("dates", "dates and times in ISO 8601; the date some days later", "rules", _by_rule(rules.dates)),
        Task("german", "a short text in German; share of right tokens",
             "catalogues of django 5.2.8 (BSD-3-Clause) and pycountry 26.2.16 (LGPL-2.1)", translations.german, False),
        Task("numbers", "a number in words, or a sum or difference of two, in digits", "rules",
             _by_rule(rules.numbers)),
        Task("shell", "a request, as a command of a shell", "rules", _by_rule(rules.shell)),
    )
}  # fmt: skip


def splits(task: Task) -> dict[str, list[tuple[str, str]]]:
    """Test, validation and training pairs. No two have the same prompt, whatever its case and punctuation."""
    pairs: dict[str, tuple[str, str]] = {}
    for prompt, answer in task.pairs():
        pairs.setdefault(re.sub(r"[\W_]+", " ", prompt.lower()).strip(), (prompt, answer))
    ordered = list(pairs.values())
    random.Random(f"order of {task.name}").shuffle(ordered)
    rest = iter(ordered)
    return {part: list(islice(rest, size)) for part, size in SIZES.items()}


def prepare(name: str, work: Path) -> None:
    """Write the task's tokens to ``data/<name>.json``, or those of ``abilities``, once."""
    target = work / "data" / f"{name}.json"
    if target.exists():
        return
    tokenizer = tokenizer_of(base_model(work))
    if name == "abilities":
        write(target, abilities.prepare(tokenizer))
        return
    end = tokenizer.eos_token_id
    content = {
        part: [entry for pair in pairs if sum(map(len, entry := _tokens(tokenizer, *pair, end))) <= LONGEST]
        for part, pairs in splits(TASKS[name]).items()
    }
    write(target, content)


def _tokens(tokenizer: Any, prompt: str, answer: str, end: int) -> list[list[int]]:
    return [tokenizer(f"{prompt}\n")["input_ids"], [*tokenizer(answer)["input_ids"], end]]


def read(name: str, work: Path) -> dict[str, list[Item]]:
    """A prepared task by split, or the abilities by kind."""
    content = json.loads((work / "data" / f"{name}.json").read_text(encoding="utf-8"))
    return {part: [Item(*entry) for entry in entries] for part, entries in content.items()}

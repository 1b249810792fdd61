"""The language model: loading, hidden states of answers only, and scores of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.quality.encoder import bf16
from benchmarks.quality.lm.data import Item

_TOKENS = 512  # per batch of an evaluation

Score = Callable[[Tensor, Tensor], float]


def load(checkpoint: Path) -> Any:
    """A causal language model in float32; plain attention, whose backward pass is faster on few tokens."""
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()


def answer_states(model: Any, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
    """The hidden states that predict the answers' tokens, and these tokens, of all items in one batch.

    Padding follows each text, and attention is causal, so that no mask is needed. The head, a fifth of the parameters,
    is left to the caller, who applies it to these states only.
    """
    texts = [[*item.prompt, *item.answer] for item in items]
    longest = max(map(len, texts)) - 1
    ids = torch.tensor([[*text[:-1], *[0] * (longest + 1 - len(text))] for text in texts])
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16()):
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    rows = [
        hidden[row, len(item.prompt) - 1 : len(text) - 1]
        for row, (item, text) in enumerate(zip(items, texts, strict=True))
    ]
    return torch.cat(rows).float(), torch.tensor([token for item in items for token in item.answer])


def logits(model: Any, states: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16()):
        result: Tensor = nn.functional.linear(states, model.get_output_embeddings().weight).float()
    return result


def exact(logits: Tensor, answer: Tensor) -> float:
    """1 if greedy decoding gives the answer (each next token is the likeliest, given those before), otherwise 0."""
    return float((logits.argmax(1) == answer).all())


def share(logits: Tensor, answer: Tensor) -> float:
    """The share of the answer's tokens that are the likeliest, given the answer so far."""
    return float((logits.argmax(1) == answer).float().mean())


def loss(logits: Tensor, answer: Tensor) -> float:
    """The mean negative log-likelihood of the answer's tokens, in nats."""
    return float(nn.functional.cross_entropy(logits, answer))


def put(model: nn.Module, checkpoint: Path) -> None:
    """Put a complete checkpoint's weights into the model."""
    weights: dict[str, Tensor] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        weights.update(load_file(file))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or any(name != "lm_head.weight" for name in missing):  # the head is tied to the embeddings
        raise ValueError(f"{checkpoint} does not fit the model: {[*missing, *unexpected][0]}")


@torch.no_grad()
def scores(model: Any, items: Mapping[str, Sequence[Item]], by: Mapping[str, Score]) -> dict[str, list[float]]:
    """For each list of items, a score of every item, by the list's function."""
    everything = [(name, index, item) for name, entries in items.items() for index, item in enumerate(entries)]
    everything.sort(key=lambda entry: len(entry[2].prompt) + len(entry[2].answer))
    result = {name: [0.0] * len(entries) for name, entries in items.items()}
    for batch in _batches(everything):
        states, tokens = answer_states(model, [item for _, _, item in batch])
        lengths = [len(item.answer) for _, _, item in batch]
        guesses = torch.split(logits(model, states), lengths)
        for (name, index, _), guess, answer in zip(batch, guesses, torch.split(tokens, lengths), strict=True):
            result[name][index] = round(by[name](guess, answer), 6)
    return result


def _batches(entries: list[tuple[str, int, Item]]) -> Iterator[list[tuple[str, int, Item]]]:
    batch: list[tuple[str, int, Item]] = []
    for entry in entries:
        length = len(entry[2].prompt) + len(entry[2].answer)
        if batch and (len(batch) + 1) * length > _TOKENS:  # sorted: the last is the longest
            yield batch
            batch = []
        batch.append(entry)
    yield batch

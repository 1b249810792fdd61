"""Where a tensor stands in a model, told by its name."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate

_IN_LAYER = re.compile(r"(?:(?P<stack>.*?)\.)??(?:layers?|h|blocks?|resblocks|stages)\.(?P<layer>\d+)\.(?P<kind>.+)")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class Place:
    """The stack of layers, the number of the layer (None outside of all), and the kind of module."""

    stack: str
    layer: int | None
    kind: str


def place_of(name: str) -> Place:
    """``model.layers.3.mlp.up_proj.weight`` is of the stack ``model``, layer 3, kind ``mlp.up_proj``."""
    found = _IN_LAYER.fullmatch(name)
    kind = _NUMBER.sub(
        "*", (found["kind"] if found else name).removesuffix(".weight")
    )  # experts of a mixture are alike
    return Place("", None, kind) if found is None else Place(found["stack"] or "", int(found["layer"]), kind)


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key by which layer 2 comes before layer 10; no two names have the same."""
    parts = enumerate(re.split(r"([0-9]+)", name))
    numbers = [(len(part.lstrip("0")), part.lstrip("0")) if index % 2 else (0, part) for index, part in parts]
    return numbers, name


#: Names of tensors that are embeddings or output heads: spectral steps leave them to element-wise methods.
EMBEDDING_PATTERNS = (
    "*embed*", "*wte.weight", "*wpe.weight", "shared.weight", "*.shared.weight", "*relative_attention_bias*",
    "*lm_head*", "output.weight", "*text_projection*", "*visual_projection*", "cls.*", "*classifier*", "score.weight",
    "head.weight", "*.head.weight",
)  # fmt: skip


#: Names of tensors with a row for each token of a vocabulary.
VOCABULARY_PATTERNS = (
    "*embed_tokens.weight", "*wte.weight", "*word_embeddings.weight", "*tok_embeddings.weight", "*embed_in.weight",
    "*embed_out.weight", "shared.weight", "*.shared.weight", "*lm_head.weight", "*lm_head.bias", "output.weight",
)  # fmt: skip


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a whole name matches one of the patterns, in which ``*`` and ``?`` stand for any letters or one."""
    return _compiled(tuple(patterns)).match(name) is not None


@functools.lru_cache(maxsize=1024)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all patterns: large mixtures of experts have 50,000 names."""
    return re.compile("|".join(map(translate, patterns)) if patterns else r"(?!)")


def printable(name: str) -> str:
    """A name for people; what could command a terminal is escaped."""
    return name if name.isprintable() else repr(name)

"""What a tensor's name says: layer and depth, kind of module, embeddings, vocabularies and output heads."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate

#: A numbered list of modules: its name and a number.
_NUMBERED = re.compile(r"(?:^|\.)([^.]+)\.(\d+)(?=\.)")
_NUMBER = re.compile("[0-9]+")
#: The names of lists of layers.
_LAYER_LISTS = frozenset(("layer", "layers", "h", "block", "blocks", "resblocks", "stages"))


@dataclass(frozen=True)
class TensorName:
    """A name's stack of layers, number of the layer (None outside of layers) and kind of module."""

    stack: str
    layer: int | None
    kind: str


@dataclass(frozen=True)
class LayerRange:
    """Layers ``[first, last)`` of a model, which have the numbers from ``at`` on in a merge."""

    first: int
    last: int
    at: int


def layer_of(name: str) -> tuple[str, int, str] | None:
    """``model.layers.3.mlp.up.weight`` is ``("model.layers", 3, ".mlp.up.weight")``; None outside of layers."""
    layer = next((match for match in _NUMBERED.finditer(name) if match[1] in _LAYER_LISTS), None)
    return None if layer is None else (name[: layer.end(1)], int(layer[2]), name[layer.end(2) :])


def parse_name(name: str) -> TensorName:
    """``model.layers.3.mlp.up_proj.weight`` is of the stack ``model``, layer 3, kind ``mlp.up_proj``.

    Numbers in a kind are ``*``: the experts of a mixture are alike.
    """
    layer = next((match for match in _NUMBERED.finditer(name) if match[1] in _LAYER_LISTS), None)
    inside = name if layer is None else name[layer.end() + 1 :]
    words = inside.removesuffix(".weight").split(".")
    kind = ".".join("*" if number and word.isdecimal() else word for number, word in enumerate(words))
    return TensorName("", None, kind) if layer is None else TensorName(name[: layer.start()], int(layer[2]), kind)


def depths(names: Iterable[str]) -> dict[str, float]:
    """The depth of each name's layer, from 0 (first) to 1 (last); names without a layer's number are left out.

    The first numbered list in a name counts, as in mergekit. Each stack of layers has its own depths.
    """
    layers = {name: match for name in names if (match := _NUMBERED.search(name)) is not None}
    last: dict[str, int] = {}
    for name, match in layers.items():
        stack = name[: match.end(1)]
        last[stack] = max(last.get(stack, 0), int(match[2]))
    ends = {name: last[name[: match.end(1)]] for name, match in layers.items()}
    return {name: int(match[2]) / ends[name] if ends[name] else 1.0 for name, match in layers.items()}


def natural_key(name: str) -> tuple[str, str]:
    """Sort key by which layer 2 comes before layer 10; no two names have the same."""
    return _NUMBER.sub(_with_length, name), name


def _with_length(number: re.Match[str]) -> str:
    """A number as text that sorts by value, and before any other text: its length comes first."""
    digits = number[0].lstrip("0")
    return f"\0{chr(min(len(digits), sys.maxunicode))}{digits}"


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

#: Names of the matrix from hidden states to tokens, which some models tie to the token embedding.
_OUTPUT_HEADS = (
    "lm_head.weight", "*.lm_head.weight", "lm_head.linear.weight", "lm_head.decoder.weight", "*.lm_head.decoder.weight",
    "generator_lm_head.weight", "output.weight", "*language_model.output.weight", "embed_out.weight",
    "*.embed_out.weight", "head.weight", "*predictions.decoder.weight", "vocab_projector.weight", "lm_loss.weight",
    "proj_out.weight", "decoder.weight",
)  # fmt: skip

#: Words in the names of convolutions: ``conv1d``, ``depthwise_conv``, ``dwconv``, ``convtr``.
_CONVOLUTION = re.compile(r"(?:.*[._])?[a-z]*conv(?:s|tr|trans|transpose|olutions?|olutional|net|next)?(?:[._0-9].*)?")


def is_output_head(name: str) -> bool:
    """Whether a tensor is the matrix that ``tie_word_embeddings`` ties to the token embedding."""
    return matches(name, _OUTPUT_HEADS)


def is_convolution(name: str) -> bool:
    """Whether a tensor belongs to a convolution, by its name."""
    return _CONVOLUTION.fullmatch(name.lower()) is not None


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a whole name matches one of the patterns, in which ``*`` is any text and ``?`` any letter."""
    return _compiled(tuple(patterns))(name)


def pattern_of(name: str, *, any_number: bool = False) -> str:
    """A pattern for this name alone, or with ``*`` in place of each number between dots."""
    pattern = re.sub(r"([*?[])", r"[\1]", name)
    return re.sub(r"(?<=\.)[0-9]+(?=\.)", "*", pattern) if any_number else pattern


@functools.lru_cache(maxsize=1024)
def _compiled(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """A test for all patterns at once: large mixtures of experts have 200,000 names, so plain ends are compared."""
    whole, ends, parts, others = set(), [], [], []
    for pattern in patterns:
        plain = pattern.strip("*")
        if any(letter in plain for letter in "*?["):
            others.append(translate(pattern))
        elif pattern == plain:
            whole.add(pattern)
        elif pattern == f"*{plain}":
            ends.append(plain)
        elif pattern == f"*{plain}*":
            parts.append(plain)
        else:
            others.append(translate(pattern))
    last, rest = tuple(ends), re.compile("|".join(others)).match if others else None

    def test(name: str) -> bool:
        if name in whole or name.endswith(last):
            return True
        for part in parts:
            if part in name:
                return True
        return rest is not None and rest(name) is not None

    return test


def renamed(name: str, pairs: Sequence[tuple[str, str]]) -> tuple[str, list[int]]:
    """The new name by pairs ``(from, to)`` of prefixes or of patterns with ``*``, and the numbers of those that apply.

    Patterns apply one after another, each as long as it makes the name shorter; of prefixes the first that fits.
    """
    applied: list[int] = []
    prefixed = False
    for number, (old, new) in enumerate(pairs):
        if "*" in old:
            changed = _by_pattern(name, old, new)
            if changed is None:
                continue
            name = changed
        elif prefixed or not name.startswith(old):
            continue
        else:
            name, prefixed = new + name.removeprefix(old), True
        applied.append(number)
    return name, applied


def _by_pattern(name: str, old: str, new: str) -> str | None:
    """The name after a pattern; None where it does not match."""
    changed = None
    compiled, texts = _rename_pattern(old), new.split("*")
    while (match := compiled.fullmatch(name)) is not None:
        groups = [*match.groups(), ""]
        following = "".join(text + group for text, group in zip(texts, groups, strict=True))
        shorter = len(following) < len(name)
        name = changed = following
        if not shorter:
            break
    return changed


@functools.lru_cache(maxsize=256)
def _rename_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, pattern.split("*"))), re.DOTALL)

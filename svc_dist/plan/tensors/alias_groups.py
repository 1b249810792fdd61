"""Alias groups: names that are one tensor, because the architecture shares it or a config ties it.

The names say what can be one tensor, the config whether an output head is, and stored copies whether it is so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from svc_dist.tensor_names import is_output_head

#: A token embedding, by the last part of its module's name.
_EMBEDDING = re.compile(
    r"(?:(?:.*\.)?(?:embed_tokens|wte|word_embeddings?|tok_embeddings|tokens_embed|embed_in|shared|embeddings?)"
    r"|transformer\.w)\.weight"
)
#: The embedding of an encoder or a decoder, which is the ``shared`` one where the model has that.
_SIDE = re.compile(
    r"(?P<module>(?:.*\.)?)(?:text_)?(?:encoder|decoder)\.(?P<kind>embed_tokens|word_embeddings)\.weight"
)
#: The bias of a language-modelling head that BERT and RoBERTa also store under the matrix's module.
_BIAS = re.compile(r"(?P<head>(?:.*\.)?(?:predictions|lm_head|mlm_head))\.decoder\.bias")
#: The names of heads that no model stores, by the embedding that they are tied to.
_HEADS = (
    (
        re.compile(r"(?P<module>.+\.)?model\.(?:(?:language|text)_model\.)?(?:decoder\.)?embed_tokens\.weight"),
        "lm_head",
    ),
    (re.compile(r"(?P<module>.+\.)?(?:model\.)?shared\.weight"), "lm_head"),
    (re.compile(r"(?P<module>.+\.)?transformer\.(?:wte|word_embeddings)\.weight"), "lm_head"),
    (re.compile(r"(?P<module>.+\.)?backbone\.embeddings\.weight"), "lm_head"),
    (re.compile(r"(?P<module>.+\.)?gpt_neox\.embed_in\.weight"), "embed_out"),
)
#: Parts of the names of architectures with an output head.
_WITH_HEAD = ("CausalLM", "ConditionalGeneration", "LMHead", "ImageTextToText")
#: Sections of a config about parts that have no token embedding or one of their own.
_OTHER_SECTIONS = re.compile(r"vision|audio|talker|token2wav|code_predictor|depth_decoder|codec|vocoder|qformer|speech")
_TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")
#: Families in which ``tie_word_embeddings`` also scales the logits: no config says "untied, and as before".
_SCALED_WHEN_TIED = frozenset(("t5", "mt5", "umt5", "longt5", "switch_transformers", "pop2piano", "udop"))

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class AliasGroup:
    """Names that can be one tensor, the one to prefer first.

    ``head``: the last of them, where it is an output head, which is this tensor only where it is tied.
    """

    names: tuple[str, ...]
    head: str | None = None

    @property
    def shared(self) -> tuple[str, ...]:
        """The names that are one tensor whether or not the head is tied."""
        return self.names if self.head is None else self.names[:-1]


def alias_groups(shapes: Shapes) -> list[AliasGroup]:
    """The groups among these names; each name is in one group at most."""
    embeddings = dict.fromkeys(name for name in shapes if _EMBEDDING.fullmatch(name))
    shared: dict[str, list[str]] = {}
    for name in embeddings:
        lead = _shared(name, shapes)
        if lead is not None and shapes[lead][1:] == shapes[name][1:]:
            shared.setdefault(lead, []).append(name)
    sides = {name for names in shared.values() for name in names}
    leads = [name for name in embeddings if name not in sides]
    heads: dict[str, str] = {}
    for name in sorted(shapes):
        if name not in embeddings and len(shapes[name]) == 2 and is_output_head(name):
            embedding = _embedding_of(name, leads, shapes)
            if embedding is not None:
                heads.setdefault(embedding, name)
    groups = [
        AliasGroup((lead, *sorted(shared.get(lead, ())), *((heads[lead],) if lead in heads else ())), heads.get(lead))
        for lead in dict.fromkeys((*shared, *heads))
    ]
    return groups + [
        AliasGroup((bias, name))
        for name in shapes
        if (match := _BIAS.fullmatch(name)) is not None
        and (bias := f"{match['head']}.bias") in shapes
        and shapes[bias] == shapes[name]
    ]


def with_absent_heads(groups: list[AliasGroup], shapes: Shapes, config: Mapping[str, Any] | None) -> list[AliasGroup]:
    """The groups with the output heads that a base with this config has, although no model stores them."""
    names = (config or {}).get("architectures") or ()
    with_head = any(part in str(name) for name in names for part in _WITH_HEAD)
    tied = ties(config, "")
    if tied is False or (names and not with_head) or not (tied or with_head):
        return groups
    taken = {name for group in groups if group.head is not None for name in group.names}
    heads: dict[str, tuple[int, ...]] = {}
    for name in shapes:
        side = _shared(name, shapes) is not None
        for embedding, head in () if side or name in taken else _HEADS:
            if (match := embedding.fullmatch(name)) is not None:
                whisper = (config or {}).get("model_type") == "whisper"
                heads.setdefault(f"{match['module'] or ''}{'proj_out' if whisper else head}.weight", shapes[name])
    return alias_groups({**shapes, **{name: shape for name, shape in heads.items() if name not in shapes}})


def ties(config: Mapping[str, Any] | None, head: str) -> bool | None:
    """What a config says about an output head: tied, untied, or None where it says nothing or both."""
    found = set(_flags(config or {}, head.partition(".")[0]))
    return found.pop() if len(found) == 1 else None


def scales_tied_logits(config: Mapping[str, Any] | None) -> bool:
    """Whether the architecture computes otherwise once its config says that the head is untied."""
    return (config or {}).get("model_type") in _SCALED_WHEN_TIED


def with_tied(config: dict[str, Any], tied: bool) -> dict[str, Any]:
    """A config that says whether the output head is the embedding, in the section of its text model too."""
    changed = {
        key: with_tied(value, tied)
        for key, value in config.items()
        if isinstance(value, dict)
        and (key in _TEXT_SECTIONS or "tie_word_embeddings" in value)
        and not _OTHER_SECTIONS.search(key)
    }
    return {**config, **changed, "tie_word_embeddings": tied}


def _flags(section: Mapping[str, Any], module: str) -> Iterator[bool]:
    """The values of ``tie_word_embeddings`` in a config that are about the text model, or about ``module``'s."""
    own = section.get(f"{module}_config")
    if isinstance(own, Mapping):
        yield from _flags(own, "")
        return
    for key, value in section.items():
        if key == "tie_word_embeddings" and isinstance(value, bool):
            yield value
        elif isinstance(value, Mapping) and key.endswith("_config") and not _OTHER_SECTIONS.search(key):
            yield from _flags(value, "")


def _shared(name: str, shapes: Shapes) -> str | None:
    """The name under which a model that shares this embedding of its encoder or decoder has it."""
    side = _SIDE.fullmatch(name)
    if side is None:
        return None
    candidates = (f"{side['module']}shared.weight", f"{side['module']}word_embeddings.weight")
    return next((one for one in candidates if one in shapes and one != name), None)


def _embedding_of(head: str, embeddings: Iterable[str], shapes: Shapes) -> str | None:
    """The embedding that a head could be: with rows as long, near to it in the tree of modules."""
    module = head.split(".")

    def nearness(name: str) -> tuple[bool, int, bool, int]:
        path = name.split(".")
        common = next((n for n, (a, b) in enumerate(zip(module, path, strict=False)) if a != b), 0)
        return shapes[name] == shapes[head], common, "encoder" not in path or "decoder" in path, -len(path)

    fitting = [name for name in embeddings if len(shapes[name]) == 2 and shapes[name][1] == shapes[head][1]]
    return max(fitting, key=nearness, default=None)

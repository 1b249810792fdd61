"""The files of tokenizers: their names, and the chat template."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from svc_dist.checkpoint.header import json_object
from svc_dist.errors import DamagedInputError
from svc_dist.storage.base import Storage

TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
#: More chat templates, each in a file.
TEMPLATES_FOLDER = "additional_chat_templates"
#: JSON files that may contain a model's chat template.
TEMPLATE_CONFIGS = ("chat_template.json", CONFIG_FILE)
_NAMES = {
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "normalizer.json",
    TEMPLATE_FILE, "chat_template.json", "tekken.json", "encoder.json", "bpe.codes", "dict.txt", "emoji.json",
    "entity_vocab.json", "target_vocab.json", "vocab-src.json", "vocab-tgt.json",
}  # fmt: skip
_BEGINNINGS = ("tokenizer", "tokenization_", "sentencepiece", "spiece", f"{TEMPLATES_FOLDER}/")
_ENDINGS = (".tiktoken", ".spm", ".vocab", ".bpe", ".model")
#: Vocabularies of words that can be compared with each other, whichever of these files has them.
WORDS = ("tokenizer.json", "vocab.json", "vocab.txt")
#: Vocabularies that can be compared with those of their own kind only.
KINDS = (".model", ".tiktoken", ".spm", "tekken.json")


def is_tokenizer_file(name: str) -> bool:
    """Whether a file beside a model's weights belongs to its tokenizer."""
    return name in _NAMES or name.startswith(_BEGINNINGS) or name.endswith(_ENDINGS)


def has_tokenizer(names: Collection[str]) -> bool:
    """Whether a vocabulary is among the files of a model."""
    return any(name in WORDS or vocabulary_kind(name) is not None for name in names)


def vocabulary_kind(name: str) -> str | None:
    """The kind of a vocabulary of its own format, by its file's name."""
    return None if "/" in name else next((kind for kind in KINDS if name.endswith(kind)), None)


def chat_template(folder: Storage) -> str | None:
    """A model's (default) chat template, in Jinja; None where it has none."""
    names = folder.names()
    if TEMPLATE_FILE in names:
        return folder.read(TEMPLATE_FILE).decode("utf-8", "replace")
    for name in TEMPLATE_CONFIGS:
        if name in names and (template := default_template(_json(folder, name), f"{folder.location}/{name}")):
            return template
    return None


def default_template(config: Mapping[str, Any], where: str) -> str | None:
    """The (default) chat template in a file's JSON. Raises DamagedInputError for another form."""
    given = config.get("chat_template")
    if isinstance(given, list) and all(
        isinstance(entry, dict) and {"name", "template"} <= set(entry) for entry in given
    ):
        given = {entry["name"]: entry["template"] for entry in given}
    named = {"default": given} if given is None or isinstance(given, str) else given
    if not isinstance(named, dict) or not all(one is None or isinstance(one, str) for one in named.values()):
        raise DamagedInputError(
            f"{where}: chat_template is neither a template nor a list of templates with names",
            "write it as one string, or as a list of objects with `name` and `template`",
        )
    template = named.get("default")
    return template if template and template.strip() else None


def with_template(config: bytes, template: str) -> bytes:
    """A ``tokenizer_config.json`` with another chat template."""
    data: dict[str, Any] = json.loads(config)
    return (json.dumps({**data, "chat_template": template}, indent=2, ensure_ascii=False) + "\n").encode()


def _json(folder: Storage, name: str) -> Mapping[str, Any]:
    return json_object(folder.read(name), f"{folder.location}/{name}")

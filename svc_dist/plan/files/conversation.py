"""What a conversation needs and only experts may have: a tokenizer, a chat template, the token that ends an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from svc_dist.checkpoint.checkpoint import CONFIG
from svc_dist.checkpoint.tokenizer import CONFIG_FILE, TEMPLATE_FILE, chat_template, has_tokenizer
from svc_dist.errors import DamagedInputError, Warned, printable, warned
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.open import open_storage

_TOGETHER = 8
_GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Conversation:
    """What one model's files say: whether they hold a tokenizer and a chat template; the texts and numbers of the
    tokens that end an answer."""

    tokenizer: bool
    template: bool
    end: str | None
    ends: frozenset[int]


def conversation_warnings(
    recipe: ResolvedRecipe, models: Sequence[str], tokenizer: int, template: str | None
) -> Iterator[Warned]:
    """What experts have and the result lacks, with the key to set. ``models``: locations, the base's first.

    ``tokenizer``: the number of the model whose tokenizer is copied; ``template``: a chat template in its place.
    """
    with ThreadPoolExecutor(_TOGETHER) as pool:
        found = list(pool.map(lambda model: _read(recipe, model), models))
    config = recipe.config_source or 0
    experts = [number for number in range(1, len(models)) if number not in (config, tokenizer)]
    own, generating = found[tokenizer], found[config]

    def having(what: str) -> list[str]:
        return [models[number] for number in range(1, len(models)) if getattr(found[number], what)]

    if not own.tokenizer and (holders := having("tokenizer")):
        source = recipe.models[models.index(holders[0])].names[0]
        yield warned(
            "tokenizer-left-out",
            f"{models[tokenizer]} has no tokenizer, and the result gets none, but {_listed(holders)}: set "
            f"`tokenizer_source: {source}`",
        )
        if template is None and (holders := having("template")):
            yield warned(
                "chat-template-left-out",
                f"the result gets no chat template, but {_listed(holders)}: set `chat_template: auto`",
            )
        return
    if template is None and not own.template and (holders := having("template")):
        yield warned(
            "chat-template-left-out",
            f"{models[tokenizer]} has no chat template, and the result gets none, but {_listed(holders)}: set "
            "`chat_template: auto`",
        )
    groups: dict[str, list[str]] = {}
    for number in experts:
        one = found[number]
        differing = []
        if (beyond := sorted(one.ends - generating.ends)) and one.ends:
            known = ", ".join(map(str, sorted(generating.ends))) or "not set"
            differing.append(f"eos_token_id {', '.join(map(str, beyond))} (in the result: {known}; `config_source`)")
        if one.end is not None and one.end != own.end:
            known = "not set" if own.end is None else printable(own.end)
            differing.append(f"eos_token {printable(one.end)} (in the result: {known}; `tokenizer_source`)")
        if differing:
            groups.setdefault(" and ".join(differing), []).append(models[number])
    for differing_from, locations in groups.items():
        verb = "ends" if len(locations) == 1 else "end"
        yield warned(
            "answer-ends-differently",
            f"{', '.join(locations)} {verb} an answer with {differing_from}: the result may not stop where its experts "
            "do; if it should, name the expert by the key in brackets",
        )


def _listed(models: Sequence[str]) -> str:
    return f"{', '.join(models)} {'has' if len(models) == 1 else 'have'} one"


def _read(recipe: ResolvedRecipe, location: str) -> Conversation:
    folder = open_storage(location, recipe.access)
    names = set(folder.names())

    def json_of(name: str) -> Mapping[str, Any]:
        """A file's object; nothing where it is damaged: planning refuses that where the file is copied."""
        try:
            data = json.loads(folder.read(name)) if name in names else {}
        except (ValueError, RecursionError):
            data = {}
        return data if isinstance(data, Mapping) else {}

    try:
        template = TEMPLATE_FILE in names or chat_template(folder) is not None
    except DamagedInputError:
        template = False
    config = json_of(CONFIG)
    section = config.get("text_config")
    ends = _numbers(json_of(_GENERATION).get("eos_token_id"), config.get("eos_token_id"))
    if not ends and isinstance(section, Mapping):
        ends = _numbers(section.get("eos_token_id"))
    end = json_of(CONFIG_FILE).get("eos_token")
    end = end.get("content") if isinstance(end, Mapping) else end
    return Conversation(has_tokenizer(names), template, end if isinstance(end, str) else None, ends)


def _numbers(*given: Any) -> frozenset[int]:
    """The tokens of the first value that is set: a number or a list of numbers."""
    for value in given:
        numbers = [one for one in (value if isinstance(value, list) else [value]) if type(one) is int and one >= 0]
        if numbers:
            return frozenset(numbers)
    return frozenset()

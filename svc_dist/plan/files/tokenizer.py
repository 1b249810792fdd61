"""The tokenizer and the chat template of the results."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from svc_dist.checkpoint.checkpoint import CONFIG, Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.checkpoint.tokenizer import chat_template
from svc_dist.checkpoint.vocabulary import Clash, IncomparableError, missing_token
from svc_dist.errors import PlanError, RecipeError, Warned, printable, warned
from svc_dist.plan.tensors.dispositions import Decision
from svc_dist.plan.vocabulary.result import ResultVocabulary
from svc_dist.plan.vocabulary.rows import refuse_clashes
from svc_dist.plan.vocabulary.vocabularies import Vocabularies, is_vocabulary, vocabulary_sizes
from svc_dist.recipe.origin import nearest
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.open import open_storage
from svc_dist.tensor_names import VOCABULARY_PATTERNS, matches

_TURN = "{%- for message in messages %}"

#: Chat templates by name, in Jinja: the prompt formats that many models were trained with.
TEMPLATES = {
    "chatml": _TURN + "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
    "llama3": "{{- bos_token }}" + _TURN + "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
    "{{- message.content | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}",
    "alpaca": _TURN + "{%- if message.role == 'system' %}{{- message.content + '\n\n' }}"
    "{%- elif message.role == 'user' %}{{- '### Instruction:\n' + message.content + '\n\n' }}"
    "{%- else %}{{- '### Response:\n' + message.content + eos_token + '\n\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '### Response:\n' }}{%- endif %}",
    "mistral": "{%- set first, turns = '', messages %}{%- if messages[0].role == 'system' %}"
    "{%- set first, turns = messages[0].content + '\n\n', messages[1:] %}{%- endif %}{{- bos_token }}"
    "{%- for message in turns %}{%- if message.role != ('assistant' if loop.index0 % 2 else 'user') %}"
    "{{- raise_exception('after a system message, user and assistant must take turns') }}{%- endif %}"
    "{%- if message.role == 'user' %}"
    "{{- ' [INST] ' + (first if loop.first else '') + message.content + ' [/INST]' }}"
    "{%- else %}{{- ' ' + message.content + eos_token }}{%- endif %}{%- endfor %}",
    "exaone": "{%- if messages[0].role != 'system' %}{{- '[|system|][|endofturn|]\n' }}{%- endif %}" + _TURN
    + "{{- '[|' + message.role + '|]' + message.content + ('' if message.role == 'user' else '[|endofturn|]') + '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '[|assistant|]' }}{%- endif %}",
}  # fmt: skip


def common_vocabulary(recipe: ResolvedRecipe, decisions: Sequence[Decision]) -> ResultVocabulary | None:
    """The vocabulary by whose tokens rows are matched; None where no row is. Raises PlanError for two of them."""
    mapped = [one for one in decisions if one.rows is not None and one.rows.maps is not None]
    found = [(one.name, one.rows.vocabulary) for one in mapped if one.rows is not None and one.rows.vocabulary]
    if not found:
        return None
    name, first = found[0]
    for other, vocabulary in found[1:]:
        if (vocabulary.start, vocabulary.added) != (first.start, first.added):
            raise PlanError(
                f"{recipe.tokenizer.where}: {name} and {other} would get different vocabularies",
                "write one `vocab` for both, at the top of the recipe",
                code="vocab-differs",
            )
    return first


def with_config_source(
    recipe: ResolvedRecipe, vocabularies: Vocabularies, result: ResultVocabulary | None
) -> ResolvedRecipe:
    """The recipe with the config of the model whose tokenizer has the tokens of all, where it names no other."""
    named = recipe.config_source is not None or recipe.tokenizer.source is not None
    if result is None or named or not result.start:
        return recipe
    model = vocabularies.experts[result.start - 1].model
    return recipe if model is None or model.config is None else replace(recipe, config_source=result.start)


def _is_merged(decision: Decision) -> bool:
    """Whether rows of several models are added up."""
    return decision.disposition.kind == "merged" and not decision.disposition.alone


def _is_kept(decision: Decision) -> bool:
    """Whether rows are those of one model."""
    return decision.disposition.kind == "copied" or decision.disposition.alone


def with_tokens(base: Checkpoint, decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions about tensors with a row for each token: what the other functions here look at.

    The base's tensors tell, which may have another number of rows.
    """
    sizes = vocabulary_sizes(base)

    def has_tokens(one: Decision, spec: TensorSpec) -> bool:
        found = base.tensors.get(one.lead or one.name, spec)
        return is_vocabulary(found, sizes) or (one.lead is not None and matches(one.name, VOCABULARY_PATTERNS))

    return [one for one in decisions if one.spec is not None and one.spec.shape and has_tokens(one, one.spec)]


def tokenizer_source(
    recipe: ResolvedRecipe,
    vocabularies: Vocabularies,
    decisions: Sequence[Decision],
    result: ResultVocabulary | None,
) -> int:
    """The model (0: the base) whose tokenizer is copied. ``result``: by whose tokens rows are matched.

    Reads vocabularies where the merge takes rows of tokens. Raises RecipeError, and PlanError where a row is another
    token in another model.
    """
    source = (recipe.config_source or 0) if recipe.tokenizer.source is None else recipe.tokenizer.source
    merged = [d for d in decisions if _is_merged(d)]
    asked = recipe.tokenizer.source is not None
    if result is not None:
        if recipe.tokenizer.source not in (None, result.start):
            rows_of = vocabularies.models[result.start]
            raise PlanError(
                f"{recipe.tokenizer.where}: `vocab: {recipe.tokenizer.vocab}` gives the result the rows of {rows_of}, "
                "which do not go with this tokenizer",
                "take out `vocab`, so that rows are matched by the tokens of the tokenizer",
                code="vocab-differs",
            )
        source = result.start
    merged = [one for one in merged if one.rows is None or one.rows.maps is None]
    if not merged:
        return source
    where, location = recipe.tokenizer.where, vocabularies.models[source]
    if asked and vocabularies.read[source] is None:
        raise RecipeError(
            f"{where}: {location} has no tokenizer", "name a model that has one", code="tokenizer-missing"
        )
    if not asked:
        where = recipe.origin.at("config_source" if recipe.tokenizer.vocab == "error" else "vocab")
    others = vocabularies.incomparable([decision.name for decision in merged])
    if others and (asked or recipe.tokenizer.vocab != "error"):
        raise PlanError(
            f"{where}: the tokenizers of {others[0]} and {', '.join(others[1:])} cannot be compared",
            "save them by one version of transformers: AutoTokenizer.from_pretrained(path).save_pretrained(path)",
            code="vocab-incomparable",
        )
    clashes: dict[Clash, None] = {}
    for decision in merged:
        assert decision.spec is not None
        count = None if decision.rows is None else decision.rows.merged
        rows = decision.spec.shape[0] if count is None else count
        clashes |= dict.fromkeys(vocabularies.clashes(decision.name, rows, source))
        beyond = vocabularies.beyond(source, decision.name, decision.spec.shape[0], rows)
        if beyond is not None and decision.disposition.source != source:
            raise PlanError(
                f"{where}: {location} has tokens like {beyond[0]!r}, of number {beyond[1]}, but the merged embeddings "
                f"have {rows} rows",
                f"write `tokenizer_source:` without `vocab`, or keep its embedding and head unmerged: keep: {location}",
                code="vocab-beyond-rows",
            )
    refuse_clashes(list(clashes), where, asked)
    return source


def new_vocab_size(config: Checkpoint, decisions: Sequence[Decision]) -> int | None:
    """The ``vocab_size`` of the results where merged rows are not as many as ``config`` says, else None."""
    rows = {d.spec.shape[0] for d in decisions if d.spec is not None and _is_merged(d)}
    sizes = vocabulary_sizes(config)
    return rows.pop() if sizes and len(rows) == 1 and not rows & set(sizes) else None


def vocabulary_warnings(
    recipe: ResolvedRecipe,
    vocabularies: Vocabularies,
    decisions: Sequence[Decision],
    tokenizer: int,
    config: Checkpoint,
    vocab_size: int | None,
) -> Iterator[Warned]:
    """Warnings about rows that are not those of the result's tokenizer and config, and about unknown tokenizers.

    ``tokenizer``: the number of the model whose tokenizer is copied; ``config``: the model whose config is copied;
    ``vocab_size``: what is written there in place of its own.
    """
    names = [d.name for d in decisions if _is_merged(d)]
    if names and (others := vocabularies.incomparable(names)):
        yield warned(
            "tokenizers-incomparable",
            f"the tokenizers of {others[0]} and {', '.join(others[1:])} have no format in common, so svc_dist cannot "
            "check that a row is the same token in both: save them with one version of transformers to compare them",
        )
    written = [d for d in decisions if d.spec is not None and d.disposition.kind in ("merged", "copied")]
    rows = {d.name: d for d in written if d.spec and d.spec.shape and matches(d.name, VOCABULARY_PATTERNS)}
    kept = [d for d in rows.values() if _is_kept(d) and d.disposition.source != tokenizer]
    for source in sorted({decision.disposition.source for decision in kept}):
        names = [decision.name for decision in kept if decision.disposition.source == source]
        own, other = vocabularies.read[source], vocabularies.read[tokenizer]
        with contextlib.suppress(IncomparableError):
            if own and other and (clash := missing_token(own, other, sys.maxsize)) is not None:
                yield warned(
                    "tokenizer-of-other-rows",
                    f"{', '.join(names)} of {own.location} and the tokenizer of {other.location} do not go together: "
                    f"{clash}; set `tokenizer_source: {recipe.models[source].names[0]}`, or keep those of "
                    f"{other.location}",
                )
    sizes = vocabulary_sizes(config) if vocab_size is None else [vocab_size]
    for name, decision in rows.items():
        count = decision.spec.shape[0] if decision.spec else 0
        if sizes and count not in sizes and config.tensors.keys() >= {name} and config.tensors[name].shape[0] in sizes:
            yield warned(
                "vocab-size-differs",
                f"{name} has {count:,} rows in the result, but the {CONFIG} of {config.location} says vocab_size "
                f"{sizes[0]:,}: loaders will refuse it; name the model that it comes from as `config_source`",
            )


def planned_template(recipe: ResolvedRecipe, models: Sequence[str]) -> str | None:
    """The chat template that the recipe asks for, in Jinja; None for the tokenizer's own. Raises RecipeError."""
    asked, where = recipe.chat_template, recipe.origin.at("chat_template")
    if asked is None or "{" in asked:
        return asked
    if asked == "auto":
        templates = [chat_template(open_storage(model, recipe.access)) for model in models]
        counts = Counter(template.strip() for template in templates if template is not None)
        if not counts:
            raise RecipeError(
                f"{where}: no model has a chat template", "take the key out, or name one", code="chat-template-missing"
            )
        return counts.most_common(1)[0][0]  # of equals the first: the base's, then the experts' in order
    if asked not in TEMPLATES:
        raise RecipeError(
            f"{where}: there is no chat template '{printable(asked)}'",
            nearest(asked, ["auto", *TEMPLATES]) + "; or write the template itself, in Jinja",
            code="chat-template-unknown",
        )
    return TEMPLATES[asked]

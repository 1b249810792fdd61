"""The tokenizer and the chat template of the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from svc_dist.checkpoint.tokenizer import chat_template, token_numbers
from svc_dist.errors import PlanError, RecipeError, printable
from svc_dist.plan.tensors.dispositions import Decision
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
}


def tokenizer_source(recipe: ResolvedRecipe, models: Sequence[str], decisions: Sequence[Decision]) -> int:
    """The model (0: the base) whose tokenizer is copied. ``models``: locations, the base's first.

    Reads vocabularies only where the recipe names a tokenizer or cuts vocabularies. Raises RecipeError, and PlanError
    where a token has different numbers in different models.
    """
    tokenizer = (recipe.config_source or 0) if recipe.tokenizer_source is None else recipe.tokenizer_source
    merged = [d for d in decisions if d.disposition.kind == "merged" and matches(d.name, VOCABULARY_PATTERNS)]
    rows = min((d.spec.shape[0] for d in merged if d.spec is not None and d.spec.shape), default=0)
    asked = recipe.tokenizer_source is not None
    if merged and (asked or any(decision.cut for decision in merged)):
        where = recipe.tokenizer_where if asked else recipe.origin.at("vocab")
        vocabularies = [token_numbers(open_storage(model, recipe.access)) for model in models]
        if vocabularies[tokenizer] is None and asked:
            raise RecipeError(f"{where}: {models[tokenizer]} has no tokenizer", "name a model that has one")
        _require_one_vocabulary(models, vocabularies, tokenizer, rows, where)
    return tokenizer


def _require_one_vocabulary(
    models: Sequence[str], numbers: Sequence[tuple[str, dict[str, int]] | None], source: int, rows: int, where: str
) -> None:
    """Require that every token of one model's tokenizer has the same number in every other tokenizer."""
    mine = numbers[source]
    if mine is None:
        return
    if source and (beyond := [token for token, number in mine[1].items() if number >= rows]):
        raise PlanError(
            f"{where}: {models[source]} has tokens like {printable(beyond[0])!r}, of number {mine[1][beyond[0]]}, "
            f"but the merged embeddings have {rows} rows",
            f"keep its embedding and head by a rule, unmerged: keep: {models[source]}",
        )
    for model, theirs in zip(models, numbers, strict=True):
        if theirs is None or theirs is mine:
            continue
        if theirs[0] != mine[0]:
            raise PlanError(
                f"{where}: the tokenizers of {models[source]} ({mine[0]}) and {model} ({theirs[0]}) cannot be compared",
                "save both by one version of transformers: AutoTokenizer.from_pretrained(path).save_pretrained(path)",
            )
        other = next((token for token, number in mine[1].items() if theirs[1].get(token) != number), None)
        if other is not None:
            raise PlanError(
                f"{where}: the token {printable(other)!r} is number {mine[1][other]} in {models[source]}, but "
                f"{theirs[1].get(other, 'none')} in {model}: embeddings would have to be rearranged",
                "rearrange the embeddings of one model first, or keep embedding and head of one model, unmerged "
                "(docs/vocabulary.md)",
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
            raise RecipeError(f"{where}: no model has a chat template", "take the key out, or name one")
        return counts.most_common(1)[0][0]  # of equals the first: the base's, then the experts' in order
    if asked not in TEMPLATES:
        raise RecipeError(
            f"{where}: there is no chat template '{printable(asked)}'",
            nearest(asked, ["auto", *TEMPLATES]) + "; or write the template itself, in Jinja",
        )
    return TEMPLATES[asked]

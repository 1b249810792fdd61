"""The keys about vocabularies, in svc_dist's words and in mergekit's."""

from __future__ import annotations

import pytest

from svc_dist.errors import RecipeError
from svc_dist.recipe.load import parse_recipe

MINIMAL = "base_model: b\nmodels: [{model: one}, {model: two}]\nmerge_method: linear\n"


@pytest.mark.parametrize(
    "line", ["vocab: union", "tokenizer_source: union", "tokenizer: {source: union}", "tokenizer: {}"]
)
def test_a_union_is_one_thing_in_all_its_forms(line: str) -> None:
    chosen = parse_recipe(MINIMAL + line).tokenizer
    assert (chosen.vocab, chosen.source, chosen.tokens, chosen.multiple) == ("union", None, (), None)


def test_a_named_tokenizer_rules_the_rows_unless_vocab_does() -> None:
    base, one, both = (
        parse_recipe(MINIMAL + text).tokenizer
        for text in ("tokenizer_source: base", "tokenizer: {source: one}", "vocab: common\ntokenizer_source: one")
    )
    assert (base.vocab, base.source, base.rows_follow) == ("base", 0, True)
    assert (one.vocab, one.source, one.rows_follow) == ("base", 1, True)
    assert (both.vocab, both.source, both.rows_follow) == ("common", 1, False)


def test_a_union_and_other_rows_contradict_each_other() -> None:
    with pytest.raises(RecipeError, match=r"\(vocab\): `vocab: common` and the union .* contradict"):
        parse_recipe(MINIMAL + "vocab: common\ntokenizer_source: union")

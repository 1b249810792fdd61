"""Several documents in one file: names, references, order, and what is refused."""

from __future__ import annotations

import pytest

from svc_dist.errors import RecipeError
from svc_dist.recipe.documents import ResolvedDocument, earlier
from svc_dist.recipe.load import load_documents, load_recipe, parse_documents

ONE = "name: one\nmerge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a, parameters: {weight: 1}}]\n"
LAST = "merge_method: linear\nmodels:\n- {model: one, parameters: {weight: 1}}\n- {model: b, parameters: {weight: 1}}\n"


def documents(*texts: str) -> tuple[ResolvedDocument, ...]:
    return parse_documents("---\n".join(texts), "r.yaml", "/recipes")


def refused(*texts: str) -> str:
    with pytest.raises(RecipeError) as caught:
        documents(*texts)
    return str(caught.value)


def locations(document: ResolvedDocument) -> list[str]:
    return [model.location for model in document.recipe.models]


def test_a_later_document_uses_the_model_of_an_earlier_one() -> None:
    first, last = documents(ONE, LAST)
    assert (first.name, first.uses, first.result) == ("one", (), False)
    assert (last.name, last.uses, last.result) == (None, ("one",), True)
    assert locations(last) == ["document://one", "/recipes/b"]
    assert last.recipe.origin.at("models", 1) == "r.yaml:9 (models[1])"


def test_the_order_of_documents_in_the_file_does_not_matter() -> None:
    two = LAST + "name: two\n"
    third = LAST.replace("one", "two")
    assert [one.name for one in documents(third, two, ONE)] == ["one", "two", None]
    assert [one.name for one in earlier(documents(third, two, ONE), documents(third, two, ONE)[2])] == ["one", "two"]


def test_every_model_of_documents_with_names_stays_and_so_does_one_that_no_document_uses() -> None:
    assert [one.result for one in documents(ONE, LAST + "name: two\n")] == [True, True]
    aside = ONE.replace("one", "aside")
    assert {one.name: one.result for one in documents(ONE, aside, LAST)} == {"one": False, "aside": True, None: True}


def test_models_of_documents_are_named_wherever_a_model_is() -> None:
    text = LAST.replace("model: b,", "model: one+adapters/x,") + "base_model: one\ntokenizer_source: one\n"
    text += "rules: [{match: lm_head*, keep: one}]\n"
    _, last = documents(ONE, text)
    assert locations(last) == ["document://one", "/recipes/adapters/x"]
    assert last.recipe.tokenizer.source == 0
    _, other = documents(ONE, LAST.replace("model: b,", "model: one+adapters/x,").replace("{model: one,", "{model: c,"))
    assert locations(other) == ["/recipes/c", "document://one+/recipes/adapters/x"]
    assert other.uses == ("one",)


def test_words_of_the_recipe_are_not_names_of_documents() -> None:
    first = ONE.replace("model: base", "model: c").replace("one", "base")
    _, last = documents(first, LAST.replace("one", "base") + "tokenizer_source: base\n")
    assert last.recipe.tokenizer.source == 0
    assert locations(last) == ["document://base", "/recipes/b"]


def test_empty_documents_are_left_out() -> None:
    assert len(documents(ONE, LAST, "")) == 2
    assert len(documents("", LAST.replace("one", "a"))) == 1


def test_names_must_be_there_different_and_fit_for_folders() -> None:
    assert "r.yaml:6 (name): a second document is called 'one'" in refused(ONE, ONE)
    assert "r.yaml:1; give each document but the last a name" in refused(LAST, LAST)
    assert "'../one' cannot be the name of a folder" in refused(ONE.replace("one", "../one"), LAST)
    assert "'a+b' cannot be the name of a folder" in refused(ONE.replace("one", "a+b"), LAST)
    assert "(name): 7 must be text" in refused(ONE.replace("one", "7"), LAST)
    assert "would lie in that of the document 'one'" in refused(ONE, ONE.replace("one", "one/two"), LAST)
    assert "r.yaml:6: a document must be a mapping" in refused(ONE, "- 1\n")


def test_documents_that_use_each_other_in_a_circle_are_refused() -> None:
    circle = refused(LAST.replace("one", "two") + "name: one\n", LAST + "name: two\n")
    assert "documents use each other in a circle: 'one' uses 'two' uses 'one'" in circle
    assert "'one' uses 'one'" in refused(ONE.replace("model: a", "model: one"), LAST)


def test_a_model_of_a_document_that_is_not_there_is_refused() -> None:
    assert "no document of this recipe is called 'on'" in refused(ONE, LAST.replace("one", "document://on"))
    assert "did you mean 'one'?" in refused(ONE, LAST.replace("one", "document://on"))
    assert "no document of this recipe is called 'on'" in refused(LAST.replace("one", "document://on"))


def test_a_document_with_several_results_cannot_be_used_as_one_model() -> None:
    several = ONE + "outputs: [{path: x, lambda: 0.5}, {path: y, lambda: 1.0}]\n"
    assert "(outputs): the document 'one' makes several models" in refused(several, LAST)


def test_what_takes_one_merge_says_that_there_are_several() -> None:
    with pytest.raises(RecipeError, match="has 2 documents; here one merge is wanted"):
        load_recipe([{"name": "one", **_data()}, _data()])
    assert len(load_documents([{"name": "one", **_data()}, _data()])) == 2
    with pytest.raises(RecipeError, match="at least one document"):
        load_documents([])


def test_options_of_storages_hold_for_all_documents() -> None:
    with_options = LAST + "storage: {'s3://bucket/': {region: eu-north-1}}\n"
    first, _ = documents(ONE, with_options)
    assert first.recipe.access.options_of("s3://bucket/x").region == "eu-north-1"


def _data() -> dict[str, object]:
    experts = [{"model": "a", "parameters": {"weight": 1.0}}]
    return {"merge_method": "task_arithmetic", "base_model": "base", "models": experts}

"""Several documents in one recipe file: each is one merge, and a later one refers to earlier ones by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import KeyPath, Origin, nearest
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.access import DOCUMENT
from svc_dist.storage.base import is_inside

#: Keys whose values are models, wherever they stand in a document.
_MODEL_KEYS = ("base_model", "model", "tokenizer_source", "config_source", "source", "keep")
#: Words that these keys use with another meaning.
_WORDS = {"tokenizer_source": ("base", "union"), "source": ("base", "union"), "keep": ("base", "owner")}


@dataclass(frozen=True)
class Document:
    """One document as its file has it. ``uses``: the names of those whose models it reads, which come before it."""

    name: str | None
    data: Mapping[str, Any]
    origin: Origin
    uses: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResolvedDocument:
    """A document whose recipe is resolved: one merge, and the names of the documents whose models it reads.

    ``result``: whether its model stays: in OUTPUT, or in a folder there with the document's name. The models of other
    documents are removed as soon as no document needs them any more.
    """

    name: str | None
    recipe: ResolvedRecipe
    uses: tuple[str, ...] = ()
    result: bool = True

    @property
    def title(self) -> str:
        return title(self.name)


def title(name: str | None) -> str:
    """A document in messages."""
    return "the document without a name" if name is None else f"the document '{name}'"


def ordered(documents: Sequence[tuple[Any, Origin]]) -> list[Document]:
    """The documents of a file, their references resolved, each after those that it uses, the unnamed one last.

    Raises RecipeError for names that are missing, doubled or unfit, and for documents that use each other in a circle.
    """
    if len(documents) == 1:
        return [_linked(Document(None, *documents[0]), ())]
    named: dict[str | None, Document] = {}
    for data, origin in documents:
        if not isinstance(data, Mapping):
            raise RecipeError(
                f"{_start(origin)}: a document must be a mapping with models and merge_method", code="not-a-recipe"
            )
        name = _name(data, origin)
        if name in named:
            raise RecipeError(
                f"{_start(origin) if name is None else origin.at('name')}: "
                + ("a second document without a name" if name is None else f"a second document is called '{name}'"),
                f"the first one is {_start(named[name].origin)}; give each document but the last a name of its own",
                code="documents-names",
            )
        named[name] = Document(name, {key: value for key, value in data.items() if key != "name"}, origin)
    names = [name for name in named if name is not None]
    _refuse_nesting(named, names)
    linked = {name: _linked(document, names) for name, document in named.items()}
    result: list[Document] = []
    for name in [*names, *([None] if None in linked else [])]:
        _append(name, linked, result, [])
    return result


def is_result(document: Document, documents: Sequence[Document]) -> bool:
    """Whether a document's model stays: that of one without a name, and that which no other document uses.

    Where every document has a name, all of their models stay.
    """
    every = all(one.name is not None for one in documents)
    return every or document.name is None or not any(document.name in one.uses for one in documents)


def _start(origin: Origin) -> str:
    """The file and the line where a document begins."""
    line = origin.lines.get(())
    return f"{origin.name}:{line}" if line else origin.name


def _name(data: Mapping[str, Any], origin: Origin) -> str | None:
    name = data.get("name")
    if name is None:
        return None
    where = origin.at("name")
    if not isinstance(name, str):
        raise RecipeError(f"{where}: {name!r} must be text: put it in quotes", code="documents-names")
    if not is_inside(name) or any(part.startswith(".") for part in name.split("/")) or "+" in name or "://" in name:
        raise RecipeError(
            f"{where}: '{name}' cannot be the name of a folder", "use letters, digits, - and _", code="documents-names"
        )
    return name


def _refuse_nesting(named: Mapping[str | None, Document], names: Sequence[str]) -> None:
    for name in names:
        inner = next((other for other in names if other.startswith(f"{name}/")), None)
        if inner is not None:
            raise RecipeError(
                f"{named[inner].origin.at('name')}: the folder {inner} would lie in that of the document '{name}'",
                "choose another name",
                code="documents-names",
            )


def _linked(document: Document, names: Sequence[str]) -> Document:
    """A document with ``document://NAME`` in place of the names of documents."""
    uses: dict[str, None] = {}

    def link(value: Any, path: KeyPath) -> Any:
        if isinstance(value, Mapping):
            return {key: link(one, (*path, key)) for key, one in value.items()}
        if isinstance(value, list):
            return [link(one, (*path, number)) for number, one in enumerate(value)]
        key = path[-1] if path else None
        if not isinstance(value, str) or key not in _MODEL_KEYS or value in _WORDS.get(key, ()):
            return value
        model, plus, adapter = value.removeprefix(DOCUMENT).partition("+")
        if model not in names:
            if value.startswith(DOCUMENT):
                where = document.origin.at(*path)
                raise RecipeError(
                    f"{where}: no document of this recipe is called '{model}'",
                    nearest(model, names),
                    code="documents-names",
                )
            return value
        uses[model] = None
        return f"{DOCUMENT}{model}{plus}{adapter}"

    return Document(document.name, link(document.data, ()), document.origin, tuple(uses))


def _append(
    name: str | None, linked: Mapping[str | None, Document], result: list[Document], path: list[str | None]
) -> None:
    """Append a document to ``result`` after those that it uses. ``path``: the documents that use it, in turn."""
    document = linked[name]
    if any(one is document for one in result):
        return
    if name in path:
        circle = " uses ".join(f"'{one}'" for one in [*path[path.index(name) :], name])
        raise RecipeError(
            f"{document.origin.at('name')}: documents use each other in a circle: {circle}",
            "a document can only use models that are made before it",
            code="documents-circle",
        )
    for used in document.uses:
        _append(used, linked, result, [*path, name])
    result.append(document)


def earlier(documents: Sequence[ResolvedDocument], document: ResolvedDocument) -> Iterator[ResolvedDocument]:
    """The documents that one needs, directly or through others, in order."""
    needed = set(document.uses)
    found: list[ResolvedDocument] = []
    for one in reversed(documents):
        if one.name in needed:
            needed |= set(one.uses)
            found.append(one)
    return reversed(found)

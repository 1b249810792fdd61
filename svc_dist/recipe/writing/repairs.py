"""What ``recipe fix`` changes in a recipe, one change at a time: what svc_dist's own messages are about, and mergekit's
ways to write what svc_dist writes otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svc_dist.errors import RecipeError, SvcDistError, warning_code
from svc_dist.methods.registry import METHODS
from svc_dist.recipe.load import parse_recipe
from svc_dist.recipe.mergekit.parameters import WITHOUT_EFFECT
from svc_dist.recipe.mergekit.references import model_text
from svc_dist.recipe.origin import KeyPath, Origin
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.recipe.writing.document import Document
from svc_dist.recipe.writing.whole_slices import with_models
from svc_dist.recipe.yaml_lines import read_yaml

#: Warnings about a key that can be removed without another result.
_REMOVED = ("key-ignored", "parameter-ignored", "parameter-misplaced", "lambda-ignored", "typo", "no-effect")
_PLACE = re.compile(r"(?P<place>.*?)(?: and \d+ more)?: (?P<said>.*)", re.DOTALL)
_MEANT = re.compile(r"did you mean '([^']+)'")
_TYPO = re.compile(r"typo of '([^']+)'")


@dataclass(frozen=True)
class Repair:
    """A change: the new text, and what it is, in one line.

    ``final``: nothing can be changed after it; ``other_terms``: the same merge in other terms, which do not compare.
    """

    text: str
    what: str
    final: bool = False
    other_terms: bool = False


@dataclass(frozen=True)
class Draft:
    """A recipe on its way. ``of_several``: one of several documents, which others may refer to by its `name`."""

    text: str
    name: str
    folder: Path
    of_several: bool = False

    def repairs(self) -> Iterator[Repair]:
        """Changes that the recipe needs, each of which may be made to it as it is now."""
        data, lines = read_yaml(self.text, self.name)
        if not isinstance(data, Mapping):
            return
        yield from self._written_otherwise(data)
        places = _places(lines, self.name)
        try:
            resolved = parse_recipe(self.text, self.name, self.folder)
        except RecipeError as error:
            yield self._of_error(error, places)
            return
        yield from self._of_warnings(resolved, places)

    def _written_otherwise(self, data: Mapping[str, Any]) -> Iterator[Repair]:
        """Changes of what mergekit's recipes write in another way."""
        for path, value in _walked(data, ()):
            if path[-1] in WITHOUT_EFFECT and "parameters" in path:
                yield self._removed(path, "it has no effect: masks take no memory in svc_dist")
            if (
                path[-1] in ("model", "base_model")
                and isinstance(model_text(value), str)
                and value != model_text(value)
            ):
                yield self._replaced(path, str(model_text(value)), "a model is text here: MODEL@REVISION+ADAPTER")
            if _is_switch(data, path) and type(value) in (int, float) and value in (0, 1):
                yield self._replaced(path, "true" if value else "false", f"it was {value}: this is true or false")
        swapped = with_models(Document(self.text), data, self.folder)
        if swapped is not None:
            yield Repair(*swapped, other_terms=True)

    def _of_error(self, error: RecipeError, places: Mapping[str, KeyPath]) -> Repair:
        """A typo repaired, or a comment with what the message says: what it leaves open is the author's choice."""
        path, _ = _split(str(error), places)
        meant = _MEANT.search(str(error))
        document = Document(self.text)
        if (
            meant is not None
            and path is not None
            and document.has(path)
            and error.code in ("unknown-key", "unknown-parameter")
        ):
            what = f"'{path[-1]}' was written for '{meant[1]}'"
            document.rename(path, meant[1], f"fix: {what}, which is the name of the key")
            return Repair(document.changed(), what)
        return Repair(
            with_comment(self.text, self.name, error), f"left open: {error.message.splitlines()[0]}", final=True
        )

    def _of_warnings(self, resolved: ResolvedRecipe, places: Mapping[str, KeyPath]) -> Iterator[Repair]:
        """Keys without effect removed. What they may have been meant for is offered in a comment."""
        for warning in resolved.warnings:
            code = warning_code(warning)
            path, said = _split(warning, places)
            if code not in _REMOVED or path is None or not Document(self.text).has(path):
                continue
            if self.of_several and path == ("name",):
                continue
            said = said.removesuffix(f" [{code}]").removeprefix("has no effect: ")
            yield self._removed(path, said, _TYPO.search(said))

    def _removed(self, path: KeyPath, why: str, typo: re.Match[str] | None = None) -> Repair:
        """Without a key, and without the ``parameters`` that would be empty then."""
        document = Document(self.text)
        key = path[-1]
        offer = []
        if typo is not None:
            value = document.source(path).partition(":")[2]
            offer = ["to give it effect, write:", f"    {typo[1]}:{value}"]
        if len(path) > 1 and path[-2] == "parameters" and document.is_alone(path):
            path = path[:-1]
        document.remove(path, [f"fix: removed: {why}", *offer])
        return Repair(document.changed(), f"removed '{key}': {why}")

    def _replaced(self, path: KeyPath, value: str, why: str) -> Repair:
        document = Document(self.text)
        document.replace(path, value, f"fix: {why}")
        return Repair(document.changed(), f"'{path[-1]}': {why}")


def with_comment(text: str, name: str, error: SvcDistError) -> str:
    """A recipe's text with what an error says as a comment: above the key that it is about, else at the end."""
    path, said = _split(str(error), _places(read_yaml(text, name)[1], name))
    first, *others = said.splitlines()
    lines = [f"fix: svc_dist stops here: {first}", *(f"    {line}" for line in others)]
    if error.code is not None:
        lines.append(f"    explain: svc-dist recipe explain {error.code}")
    document = Document(text)
    if path is not None and document.has(path):
        document.comment(path, lines)
    else:
        document.append(lines)
    return document.changed()


def _places(lines: Mapping[KeyPath, int], name: str) -> dict[str, KeyPath]:
    """The path of each key by the place that messages name."""
    return {Origin(name, lines).at(*path): path for path in sorted(lines, key=len) if path}


def _split(message: str, places: Mapping[str, KeyPath]) -> tuple[KeyPath | None, str]:
    """The path of the key that a message begins with, and what it says about it."""
    match = _PLACE.fullmatch(message)
    if match is not None:
        # Names of files may hold colons: the longest place counts.
        known = [place for place in places if message.startswith(place)]
        place = max(known, key=len, default=None)
        if place is not None:
            rest = message.removeprefix(place)
            return places[place], re.sub(r"^(?: and \d+ more)?: ", "", rest)
    return None, message


def _walked(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Every key and item below a node, with its path."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for step, value in items:
        yield (*path, step), value
        yield from _walked(value, (*path, step))


def _is_switch(data: Mapping[str, Any], path: KeyPath) -> bool:
    """Whether a value belongs to a parameter that is true or false: itself, in a list, or in a condition."""
    method = METHODS.get(str(data.get("merge_method")))
    if method is None or "parameters" not in path:
        return False
    number = len(path) - 1 - path[::-1].index("parameters")
    if len(path) < number + 2:
        return False
    parameter = method.parameter(str(path[number + 1]))
    inner = [step for step in path[number + 2 :] if isinstance(step, str)]
    return parameter is not None and parameter.kind is bool and inner in ([], ["value"])

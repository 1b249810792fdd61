"""YAML read strictly, with the line of every key: no duplicate keys, no tags, numbers as in YAML 1.2.

Merge keys (``<<: *anchor``) are read as PyYAML does.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import KeyPath

_INT, _FLOAT, _TIME = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))
_MERGE = "tag:yaml.org,2002:merge"  # of the key <<
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_DEEPEST, _MOST = 50, 100_000  # levels and nodes of a document, far beyond any recipe


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's numbers: ``1e-5`` is one, ``1:30`` and ``2024-01-01`` are text, ``012`` is twelve."""

    nodes = 0  # how many have been read, an alias's as often as it stands for its anchor
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT, _TIME)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9]{1,1000}$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^(?:[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)
_Loader.add_constructor(_INT, lambda loader, node: int(str(loader.construct_scalar(node))))  # type: ignore[arg-type]


def read_yaml(text: str, origin: str) -> tuple[Any, dict[KeyPath, int]]:
    """The only document of a text; see ``read_documents``."""
    documents = read_documents(text, origin)
    if len(documents) > 1:
        raise RecipeError(
            f"{origin}:{documents[1][1][()]}: a second document; here one is wanted", code="documents-several"
        )
    return documents[0]


def read_documents(text: str, origin: str) -> list[tuple[Any, dict[KeyPath, int]]]:
    """Each document as plain Python values, and the line (from 1) of each key and list item by its path.

    Empty documents are left out where there are others. Raises RecipeError naming ``origin`` and the line for syntax
    errors and duplicate keys.
    """
    documents: list[tuple[Any, dict[KeyPath, int]]] = []
    try:
        loader = _Loader(text)
        while loader.check_node() and (node := loader.get_node()) is not None:
            lines: dict[KeyPath, int] = {}
            documents.append((_plain(loader, node, (), lines, origin), lines))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{origin}:{mark.line + 1}" if mark else origin
        raise RecipeError(
            f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}", code="not-yaml"
        ) from None
    except RecursionError:
        raise RecipeError(f"{origin}: not a recipe: the document is nested too deeply", code="not-a-recipe") from None
    return [one for one in documents if one[0] is not None] or documents[:1] or [(None, {})]


def _plain(loader: _Loader, node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], origin: str) -> Any:
    line = node.start_mark.line + 1
    loader.nodes += 1
    if len(path) > _DEEPEST or loader.nodes > _MOST:  # aliases can make a small document endless
        raise RecipeError(f"{origin}:{line}: not a recipe: nested too deeply, or too large", code="not-a-recipe")
    lines.setdefault(path, line)
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
        raise RecipeError(f"{origin}:{line}: the tag {node.tag!r} is not allowed here", code="not-yaml")
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        shared: yaml.Node | None = None
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                if shared is not None:
                    raise RecipeError(
                        f"{origin}:{line}: duplicate key '<<'; write a list of mappings", code="duplicate-key"
                    )
                shared = value_node
                continue
            key = _scalar(loader, key_node, origin)
            if not isinstance(key, str):
                raise RecipeError(f"{origin}:{line}: the key {key!r} is not text; put it in quotes", code="not-yaml")
            value = _plain(loader, value_node, (*path, key), lines, origin)
            if key in mapping and mapping[key] != value:
                raise RecipeError(f"{origin}:{line}: duplicate key '{key}'", code="duplicate-key")
            lines[(*path, key)] = line
            mapping[key] = value
        return mapping if shared is None else _shared(loader, shared, path, lines, origin) | mapping
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, index), lines, origin) for index, item in enumerate(node.value)]
    return _scalar(loader, node, origin)


def _shared(loader: _Loader, node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], origin: str) -> dict[Any, Any]:
    """The keys of a merge key ``<<``: of a mapping, or of several, of which the first with a key counts."""
    mappings = node.value if isinstance(node, yaml.SequenceNode) else [node]
    merged: dict[Any, Any] = {}
    for one in mappings:
        if not isinstance(one, yaml.MappingNode):
            line = one.start_mark.line + 1
            raise RecipeError(f"{origin}:{line}: << takes a mapping, or a list of mappings", code="not-yaml")
        its_lines: dict[KeyPath, int] = {}
        merged = _plain(loader, one, path, its_lines, origin) | merged
        for key, line in its_lines.items():
            lines.setdefault(key, line)
    return merged


def _scalar(loader: _Loader, node: yaml.Node, origin: str) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, TypeError, AttributeError, RecursionError):  # the text does not have the form of its tag
        raise RecipeError(
            f"{origin}:{node.start_mark.line + 1}: {node.value!r} is not a {node.tag}", code="not-yaml"
        ) from None

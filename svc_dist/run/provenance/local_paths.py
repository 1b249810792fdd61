"""Texts that leave this machine name its folders by their last part only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

#: An absolute path, also of a comment; not what follows a scheme, a host, a relative path or a variable.
_ABSOLUTE = re.compile(r"(?<![\w.:/~$}\])+-])(?:file://)?/(?:[\w.@+~-]+/)+([\w.@+~-]*)")


def without_local_paths(text: str) -> str:
    """YAML text, or its comments, with the shortest distinct ends of absolute local paths in their place."""
    paths = list(dict.fromkeys(_absolute_ones(text)))
    names = dict(zip(paths, short_names([path.removeprefix("file://") for path in paths]), strict=True))
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, names[path])
    return _ABSOLUTE.sub(lambda match: match[1] or match[0].rstrip("/").rpartition("/")[2], text)


def is_local(location: str) -> bool:
    """Whether a location is an absolute path on this machine."""
    return location.startswith(("/", "file://"))


def short_names(locations: list[str]) -> list[str]:
    """The shortest ends of locations, in whole path segments, that are distinct."""
    segments = [location.rstrip("/").split("/") for location in locations]
    for count in range(1, max(map(len, segments), default=1)):
        names = ["/".join(path[-count:]) for path in segments]
        if len(set(names)) == len(names):
            return names
    return locations


def _absolute_ones(text: str) -> Iterator[str]:
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError:
        return
    for string in _strings(documents):
        for part in string.split("+") if "://" not in string else [string]:  # a model with an adapter
            if is_local(part) and len(part.strip("/").split("/")) > 1:
                yield part


def _strings(data: Any) -> Iterable[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _strings(key)
            yield from _strings(value)
    elif isinstance(data, list):
        for value in data:
            yield from _strings(value)

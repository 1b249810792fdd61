"""A recipe's text with places in it changed: all else, comments and order too, stays as its author wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from svc_dist.recipe.origin import KeyPath

_WIDTH = 110  # of a comment


@dataclass(frozen=True)
class Place:
    """A key or an item: its node in the collection ``holder``, and its value's."""

    name: yaml.Node
    value: yaml.Node
    holder: yaml.CollectionNode


@dataclass
class Document:
    """One YAML document. Changes are collected, and ``changed`` makes them all."""

    text: str
    _edits: list[tuple[int, int, str]] = field(default_factory=list)
    _comments: dict[int, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._root = yaml.compose(self.text, Loader=yaml.SafeLoader)
        self._lines = self.text.splitlines(keepends=True)
        self._places = dict(_places(self._root, ())) if self._root is not None else {}

    def has(self, path: KeyPath) -> bool:
        return path in self._places

    def is_alone(self, path: KeyPath) -> bool:
        """Whether a key is the only one of its mapping."""
        return len(self._places[path].holder.value) == 1

    def source(self, path: KeyPath) -> str:
        """The text of a key with its value, without the indentation of its first line."""
        place = self._places[path]
        return self.text[place.name.start_mark.index : _end(place.value)]

    def comment(self, path: KeyPath, lines: list[str]) -> None:
        """Put a comment above a key or an item."""
        self._above(self._line(self._places[path]), lines)

    def append(self, lines: list[str]) -> None:
        """Put a comment at the end."""
        self._above(len(self._lines), lines)

    def remove(self, path: KeyPath, why: list[str]) -> None:
        """Remove a key. Its lines become a comment below the reason."""
        place = self._places[path]
        old = self.source(path).splitlines()
        self._above(self._line(place), [*why, *(f"    {line}" for line in _dedented(old))])
        pairs: list[tuple[yaml.Node, yaml.Node]] = place.holder.value
        number = next(n for n, (name, _) in enumerate(pairs) if name is place.name)
        if len(pairs) == 1:
            start, end = place.holder.start_mark.index, _end(place.holder)
            self._edits.append((start, end, "{}"))
        elif number + 1 < len(pairs) and (place.holder.flow_style or self._after_dash(place)):
            self._edits.append((place.name.start_mark.index, pairs[number + 1][0].start_mark.index, ""))
        elif place.holder.flow_style:
            self._edits.append((_end(pairs[number - 1][1]), _end(place.value), ""))
        else:
            start = self._start_of_line(place.name.start_mark.line)
            self._edits.append((start, self._end_of_line(_end(place.value)), ""))

    def replace(self, path: KeyPath, value: str, why: str) -> None:
        """Write another value."""
        place = self._places[path]
        self._above(self._line(place), [why])
        self._edits.append((place.value.start_mark.index, _end(place.value), value))

    def put(self, path: KeyPath, value: str) -> None:
        """Write a value, in one line, where the key is there; else add the key to the nearest mapping around it."""
        if path in self._places:
            node = self._places[path].value
            self._edits.append((node.start_mark.index, _end(node), value))
            return
        depth = next(depth for depth in range(len(path) - 1, -1, -1) if not depth or path[:depth] in self._places)
        for step in reversed(path[depth + 1 :]):
            value = f"{{{step}: {value}}}"
        holder = self._places[path[:depth]].value if depth else self._root
        line = f"{path[depth]}: {value}"
        if not isinstance(holder, yaml.MappingNode) or not holder.value:  # nothing, or {}
            end = len(self.text) if holder is None else _end(holder)
            at = end if holder is None else holder.start_mark.index
            self._edits.append((at, end, f"{{{line}}}" if depth else f"{line}\n"))
        elif holder.flow_style:
            self._edits.append((_end(holder.value[-1][1]), _end(holder.value[-1][1]), f", {line}"))
        else:
            end = self._end_of_line(_end(holder.value[-1][1]))
            new = "" if self.text[:end].endswith("\n") else "\n"
            self._edits.append((end, end, f"{new}{' ' * holder.start_mark.column}{line}\n"))

    def rename(self, path: KeyPath, name: str, why: str) -> None:
        """Write a key under another name."""
        place = self._places[path]
        self._above(self._line(place), [why])
        self._edits.append((place.name.start_mark.index, place.name.end_mark.index, name))

    def swap(self, path: KeyPath, lines: list[str], why: str) -> None:
        """Write these lines in place of a key of the top level and its value."""
        place = self._places[path]
        self._above(self._line(place), why.splitlines())
        start = self._start_of_line(place.name.start_mark.line)
        self._edits.append((start, self._end_of_line(_end(place.value)), "".join(f"{line}\n" for line in lines)))

    def lines_of(self, path: KeyPath) -> list[str] | None:
        """The lines of an item or value in block style with the comments between them, without their indentation.

        None for another style.
        """
        node = self._places[path].value
        if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
            return None
        indent = node.start_mark.column
        last = self.text.count("\n", 0, _end(node) - 1)
        lines = [line.rstrip("\n") for line in self._lines[node.start_mark.line : last + 1]]
        if any(line.strip() and line[:indent].strip() for line in lines[1:]):
            return None  # a comment further left
        return [line[indent:] for line in lines]

    def changed(self) -> str:
        """The text with all changes."""
        edits = [*self._edits]
        for line, comments in self._comments.items():
            indent = self._indent(line)
            made = "".join(f"{indent}# {one}\n" for text in comments for one in _wrapped(text))
            edits.append((self._start_of_line(line), self._start_of_line(line), made))
        text, end = self.text, len(self.text) + 1
        for start, stop, new in sorted(edits, key=lambda edit: (edit[0], edit[1]), reverse=True):
            if stop > end:
                continue  # inside of what is removed already
            text, end = text[:start] + new + text[stop:], start
        return text

    def _above(self, line: int, comments: list[str]) -> None:
        self._comments.setdefault(line, []).extend(comments)

    def _line(self, place: Place) -> int:
        """The line above which a comment about a place may be: that of the flow collection around it begins."""
        flow = [
            one.holder for one in self._places.values() if one.holder.flow_style and _inside(place.name, one.holder)
        ]
        nodes: list[yaml.Node] = [place.name, *flow]
        return int(min(node.start_mark.line for node in nodes))

    def _after_dash(self, place: Place) -> bool:
        """Whether a key is on the line of its item's dash."""
        mark = place.name.start_mark
        return bool(self.text[self._start_of_line(mark.line) : mark.index].strip())

    def _start_of_line(self, line: int) -> int:
        return sum(map(len, self._lines[:line]))

    def _end_of_line(self, index: int) -> int:
        """The beginning of the line after the one in which the text before ``index`` ends."""
        found = self.text.find("\n", index - 1)
        return len(self.text) if found < 0 else found + 1

    def _indent(self, line: int) -> str:
        text = self._lines[line] if line < len(self._lines) else ""
        return text[: len(text) - len(text.lstrip(" "))]


def _places(node: yaml.Node, path: KeyPath) -> Iterator[tuple[KeyPath, Place]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield (*path, name.value), Place(name, value, node)
            yield from _places(value, (*path, name.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*path, number), Place(item, item, node)
            yield from _places(item, (*path, number))


def _end(node: yaml.Node) -> int:
    """The end of a node's text: of a collection in block style that of its last entry."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return int(node.start_mark.index)
    return int(node.end_mark.index)


def _inside(node: yaml.Node, holder: yaml.Node) -> bool:
    return bool(holder.start_mark.index <= node.start_mark.index < holder.end_mark.index)


def _dedented(lines: list[str]) -> list[str]:
    """Lines of which the first has lost its indentation, and the others lose the least that one of them has."""
    least = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0)
    return [lines[0], *("  " + line[least:] for line in lines[1:])]


def _wrapped(text: str) -> Iterator[str]:
    """A comment in lines; one that begins with spaces is code, and stays."""
    if text.startswith(" "):
        yield text
        return
    line = ""
    for word in text.split():
        if line and len(line) + len(word) >= _WIDTH:
            yield line
            line = ""
        line = f"{line} {word}".strip()
    if line:
        yield line

"""Where a tensor stands in a model, told by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass

_IN_LAYER = re.compile(r"(?:(?P<stack>.*?)\.)??(?:layers?|h|blocks?|resblocks|stages)\.(?P<layer>\d+)\.(?P<kind>.+)")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class Place:
    """The stack of layers, the number of the layer (None outside of all), and the kind of module."""

    stack: str
    layer: int | None
    kind: str


def place_of(name: str) -> Place:
    """``model.layers.3.mlp.up_proj.weight`` is of the stack ``model``, layer 3, kind ``mlp.up_proj``."""
    found = _IN_LAYER.fullmatch(name)
    kind = _NUMBER.sub(
        "*", (found["kind"] if found else name).removesuffix(".weight")
    )  # experts of a mixture are alike
    return Place("", None, kind) if found is None else Place(found["stack"] or "", int(found["layer"]), kind)

"""Tables of figures by layer and kind of module, coloured on a fixed scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.sections.names import breakable
from svc_dist.report.sections.style import SHADES, shade
from svc_dist.report.summary import figure
from svc_dist.tensor_names import parse_name

Place = tuple[str, int | None]  # a kind of module, and its layer


@dataclass(frozen=True)
class Heatmap:
    """A value for each kind and layer. ``lower``: kinds that stand below the others."""

    values: Mapping[Place, float]
    lower: frozenset[str] = frozenset()

    @property
    def layers(self) -> list[int]:
        return sorted({layer for _, layer in self.values if layer is not None})

    @property
    def outside(self) -> dict[str, float]:
        """Values of what is in no layer, by kind."""
        return {kind: value for (kind, layer), value in self.values.items() if layer is None}

    def kinds(self, lower: bool) -> list[str]:
        """The kinds that layers have."""
        found = dict.fromkeys(kind for kind, layer in self.values if layer is not None)
        return [kind for kind in found if (kind in self.lower) is lower]

    def html(self, shade_of: Callable[[float], str] = shade, text: Callable[[float], str] = figure) -> str:
        """A table of the layers, and a list of what is outside of them."""
        names, outside = self.layers, ""
        if self.outside:
            cells = "".join(
                f'<li class="{shade_of(value)}">{breakable(kind)} <strong>{text(value)}</strong></li>'
                for kind, value in self.outside.items()
            )
            outside = f'<h3>Outside of layers</h3>\n<ul class="chips">{cells}</ul>\n'
        if not names:
            return outside
        head = "".join(f'<th scope="col">{layer}</th>' for layer in names)
        rows = self._rows(self.kinds(False), names, shade_of, text)
        if lower := self.kinds(True):
            rows += f'<tr><th colspan="{len(names) + 1}" class="corner">other tensors</th></tr>\n'
            rows += self._rows(lower, names, shade_of, text)
        return (
            '<div class="scroll"><table class="map">'
            f'<tr><th class="corner">layer</th>{head}</tr>\n{rows}</table></div>\n{outside}'
        )

    def _rows(
        self, kinds: Iterable[str], layers: list[int], shade_of: Callable[[float], str], text: Callable[[float], str]
    ) -> str:
        rows = []
        for kind in kinds:
            values = [self.values.get((kind, layer), math.nan) for layer in layers]
            cells = "".join(
                "<td></td>" if math.isnan(value) else f'<td class="{shade_of(value)}">{text(value)}</td>'
                for value in values
            )
            rows.append(f'<tr><th scope="row">{breakable(kind)}</th>{cells}</tr>\n')
        return "".join(rows)


def times_map(diagnosis: Diagnosis) -> Heatmap:
    """How many times the plain sum counts what experts learnt, of all tensors that some expert changes."""
    places = _places(diagnosis, diagnosis.grams)
    values = {place: diagnosis.times_counted(names) for place, names in places.items()}
    known = {place: value for place, value in values.items() if not math.isnan(value)}
    matrices = {kind for kind, _ in _places(diagnosis, diagnosis.compared)}
    return Heatmap(known, frozenset(kind for kind, _ in known if kind not in matrices))


def means(diagnosis: Diagnosis, key: str) -> Heatmap:
    """The mean of a figure of the matrices that have it."""
    cells: dict[Place, list[float]] = {}
    for matrix in diagnosis.matrices:
        if key in matrix.summary:
            cells.setdefault((diagnosis.kind(matrix.name), matrix.name.layer), []).append(float(matrix.summary[key]))
    return Heatmap({place: sum(values) / len(values) for place, values in cells.items()})


def legend() -> str:
    """The steps of the scale of times counted."""
    texts = []
    for (least, name), (above, _) in zip(reversed(SHADES), [*reversed(SHADES[:-1]), (math.inf, "")], strict=True):
        text = f"below {above:g}" if least == -math.inf else f"from {least:g}"
        texts.append(f'<span><em class="{name}"></em>{text}</span>')
    return f'<p class="keys">{"".join(texts)}</p>'


def inverse_shade(gamma: float) -> str:
    """The colour of a gamma: that of how many times it says a matrix was counted."""
    return shade(1 / gamma) if gamma > 0 else ""


def _places(diagnosis: Diagnosis, tensors: Iterable[str]) -> dict[Place, list[str]]:
    places: dict[Place, list[str]] = {}
    for tensor in tensors:
        name = diagnosis.names.get(tensor) or parse_name(tensor)
        places.setdefault((diagnosis.kind(name), name.layer), []).append(tensor)
    return places

"""Line charts as SVG in the page's own colours."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from svc_dist.errors import printable
from svc_dist.report.sections.names import breakable

COLOURS = 8
_WIDTH, _HEIGHT = 320, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 8, 30
_DOTS = 64  # points of a line up to which each has a dot


@dataclass(frozen=True)
class Line:
    """Points of one colour, in order; gaps where ``y`` is no number."""

    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0


def chart(title: str, lines: Sequence[Line], across: str) -> str:
    """A figure with these lines. ``across``: what the horizontal axis, of whole numbers, counts."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y if math.isfinite(y)]
    if not xs or not ys:
        return ""
    first, last = min(xs), max(xs)
    step = nice_step(max(max(ys), 0.0) - min(min(ys), 0.0))
    low, high = math.floor(min(min(ys), 0.0) / step) * step, max(math.ceil(max(ys) / step), 1) * step
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at_x(x: float) -> float:
        return _LEFT + wide * ((x - first) / (last - first) if last > first else 0.5)

    def at_y(y: float) -> float:
        return _TOP + tall * (high - y) / (high - low)

    parts = []
    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        y = at_y(value)
        parts.append(f'<path class="axis" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 3:.1f}" text-anchor="end">{value:.4g}</text>')
    every = max(1, math.ceil((last - first) / 8))
    for number in range(math.ceil(first), math.floor(last) + 1, every):
        parts.append(f'<text x="{at_x(number):.1f}" y="{_HEIGHT - 17}" text-anchor="middle">{number}</text>')
    parts.append(
        f'<text x="{_LEFT + wide / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{html.escape(across)}</text>'
    )
    for line in lines:
        points = [(at_x(x), at_y(y)) if math.isfinite(y) else None for x, y in zip(line.x, line.y, strict=True)]
        parts.append(_drawn(points, line.colour % COLOURS))
    return (
        f'<figure><figcaption>{breakable(title)}</figcaption>\n<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(printable(title))}">{"".join(parts)}</svg></figure>\n'
    )


def keys(names: Sequence[str]) -> str:
    """What the colours of lines stand for, in their order."""
    texts = (
        f'<span><em class="l{number % COLOURS}"></em>{breakable(name)}</span>' for number, name in enumerate(names)
    )
    return f'<p class="keys">{"".join(texts)}</p>'


def nice_step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten, of which three to six make up the span."""
    if not span > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / 3))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= span / 3 * (1 + 1e-9))


def _drawn(points: Sequence[tuple[float, float] | None], colour: int) -> str:
    path, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        path.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "L"
    dots = [point for point in points if point is not None]
    circles = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in dots)
    shown = circles if len(dots) <= _DOTS else ""
    return f'<g class="l{colour}"><path class="curve" d="{"".join(path)}"/>{shown}</g>'

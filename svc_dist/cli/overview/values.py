"""How values of parameters are written."""

from __future__ import annotations

from typing import Any


def shown(value: Any) -> str:
    """A parameter's value as YAML would have it, with four digits; a list of equal values as one of them."""
    if isinstance(value, list):
        return shown(value[0]) if len(set(value)) == 1 else "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)

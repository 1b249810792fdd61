"""Where a model's files say that it is quantised: keys of ``config.json``, in any of its sections, and other files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Keys of a config or of one of its sections: of transformers, of compressed-tensors, of MLX.
CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
#: Keys that have a meaning only beside one of those: of DeepSeek-V4.
_COMPANION_KEYS = ("expert_dtype",)
#: Files beside the weights: of ModelOpt, GPTQ, AWQ, AutoRound, quanto.
FILES = (
    "hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json", "quanto_qmap.json",
    "quantization_map.json",
)  # fmt: skip


def declarations(config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The dotted paths of the keys by which a config says that its model is quantised, outer ones first."""
    return tuple(".".join(path) for path in _paths(config or {}, CONFIG_KEYS))


def declared_sections(config: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The values of those keys, outer ones first."""
    for path in _paths(config or {}, CONFIG_KEYS):
        section: Any = config
        for key in path:
            section = section[key]
        yield section


def without_declarations(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the keys that say that its model is quantised."""
    dropped = (*CONFIG_KEYS, *_COMPANION_KEYS) if declarations(config) else ()
    return _without(config, dropped)


def _paths(section: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key in keys:
        if isinstance(section.get(key), Mapping):
            yield (key,)
    for key, value in section.items():
        if isinstance(value, Mapping) and key not in keys:
            yield from ((key, *path) for path in _paths(value, keys))


def _without(section: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {
        key: _without(value, keys) if isinstance(value, Mapping) else value
        for key, value in section.items()
        if key not in keys
    }

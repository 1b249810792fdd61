"""Inputs for one run of a model, made from its config and from what its ``forward`` takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

_IDS = 8  # token ids
_IMAGE = (224, 64, 512)  # pixels of a side where no config says it
_SECOND = 16_000  # samples of a waveform
_TIMES = 1024  # of a spectrogram where no config says it
_MOST = 48  # attempts

Inputs = dict[str, Any]


def attempts(model: Any) -> Iterator[Inputs]:
    """Inputs to try in this order: a model need not take the first ones."""
    taken = set(inspect.signature(model.forward).parameters)
    kinds = {
        "text": list(_texts(model.config)) if "input_ids" in taken else [],
        "decoder": list(_decoder_texts(model.config)) if "decoder_input_ids" in taken else [],
        **{name: list(_floats(name, model)) if name in taken else [] for name in _SHAPES},
    }
    main = "text" if model.main_input_name == "input_ids" else model.main_input_name
    others = [name for name, made in kinds.items() if made and name not in (main, "text", "decoder")]
    plans: list[tuple[str, ...]] = [(main,), (main, "decoder"), (main, "text"), (main, "text", "decoder")]
    for other in others:
        plans += [(main, other), (main, "text", other), (other,), (other, "text"), (other, "decoder")]
    plans += [("text",), ("text", "decoder")]
    seen: list[tuple[str, ...]] = []
    count = 0
    for plan in plans:
        plan = tuple(dict.fromkeys(plan))
        if plan in seen or not all(kinds.get(name) for name in plan):
            continue
        seen.append(plan)
        for choice in range(max(len(kinds[name]) for name in plan)):
            if count >= _MOST:
                return
            count += 1
            made: Inputs = {}
            for name in plan:
                made |= kinds[name][min(choice, len(kinds[name]) - 1)]
            yield made


def token_ids(config: Any) -> Any:
    """Ids of ordinary tokens, at the end that of the end of a text where the config has one."""
    import torch

    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = _number(text, "vocab_size") or _number(config, "vocab_size") or 2
    special = {
        value for each in _configs(config) for name, value in vars(each).items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }  # fmt: skip
    ordinary = [number for number in range(min(size, 4 * _IDS + len(special))) if number not in special] or [0]
    return torch.tensor([[ordinary[position % len(ordinary)] for position in range(_IDS)]])


def _texts(config: Any) -> Iterator[Inputs]:
    import torch

    ids = token_ids(config)
    yield {"input_ids": ids}
    yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ends = (getattr(each, "eos_token_id", None) for each in _configs(config))
    end = next((end for end in ends if isinstance(end, int)), None)
    if end is not None:
        ended = torch.cat([ids[:, :-1], torch.tensor([[end]])], dim=1)
        yield {"input_ids": ended, "attention_mask": torch.ones_like(ended)}


def _decoder_texts(config: Any) -> Iterator[Inputs]:
    decoder = getattr(config, "decoder", None)
    ids = token_ids(decoder if hasattr(decoder, "to_dict") else config)
    yield {"decoder_input_ids": ids}
    books = _number(decoder, "num_codebooks") if hasattr(decoder, "to_dict") else _number(config, "num_codebooks")
    if books:
        yield {"decoder_input_ids": ids.repeat(books, 1)}


def _pixels(config: Any) -> Iterator[tuple[int, ...]]:
    channels = _number(config, "num_channels", "in_channels", "in_chans", "n_channels") or 3
    named = [size for each in _configs(config) if (size := _size(each)) is not None]
    frames = _number(config, "num_frames", "frames_per_clip", "temporal_patch_size") or 2
    for height, width in [*dict.fromkeys(named), *((size, size) for size in _IMAGE)]:
        yield (1, channels, height, width)
        yield (1, frames, channels, height, width)
        yield (1, channels, frames, height, width)


def _spectrograms(config: Any) -> Iterator[tuple[int, ...]]:
    bins = _number(config, "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "n_mels") or 80
    positions = _number(config, "max_source_positions")
    times = [2 * positions] if positions else []
    for length in (*times, _number(config, "max_length") or _TIMES, _TIMES, 128):
        yield (1, bins, length)
        yield (1, length, bins)
        yield (1, 1, length, bins)


def _waves(config: Any) -> Iterator[tuple[int, ...]]:
    bins, length = _number(config, "num_mel_bins"), _number(config, "max_length")
    if bins and length:
        yield (1, length, bins)
    yield (1, _SECOND)
    yield (1, _number(config, "audio_channels") or 1, _SECOND)


def _patches(config: Any) -> Iterator[tuple[int, ...]]:
    width = (_number(config, "patch_embed_hidden_size") or 768) + 2
    yield (1, 4, width)


def _series(config: Any) -> Iterator[tuple[int, ...]]:
    length = _number(config, "context_length", "seq_len", "input_length") or 64
    channels = _number(config, "num_input_channels", "input_size") or 1
    yield (1, length, channels)
    yield (1, length)


#: The shapes that an input of floats may have, by its name in ``forward``.
_SHAPES = {
    "pixel_values": _pixels,
    "pixel_values_videos": _pixels,
    "input_features": _spectrograms,
    "input_values": _waves,
    "spectrogram": _spectrograms,
    "flattened_patches": _patches,
    "past_values": _series,
    "audio_values": _pixels,
}


def _floats(name: str, model: Any) -> Iterator[Inputs]:
    import torch

    seen: list[tuple[int, ...]] = []
    for shape in _SHAPES[name](model.config):
        if shape not in seen:
            seen.append(shape)
            values = torch.linspace(-1.0, 1.0, math.prod(shape), dtype=torch.float32)
            made = {name: values.sin().reshape(shape).to(model.dtype)}
            if name == "input_features" and "is_longer" in inspect.signature(model.forward).parameters:
                made["is_longer"] = torch.tensor([[False]])
            yield made


def _configs(config: Any) -> list[Any]:
    """A config and those inside it, outer ones first."""
    found, waiting = [], [config]
    while waiting:
        each = waiting.pop(0)
        found.append(each)
        waiting += [
            inner for inner in vars(each).values() if hasattr(inner, "to_dict") and hasattr(inner, "model_type")
        ]
    return found


def _number(config: Any, *names: str) -> int | None:
    """The first positive whole number of one of these names, in a config or one inside it."""
    for each in _configs(config) if config is not None else ():
        for name in names:
            value = getattr(each, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _size(config: Any) -> tuple[int, int] | None:
    """Height and width of an image, of one config."""
    for name in ("image_size", "input_size", "img_size", "crop_size", "resolution"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value, value
        sides = list(value[-2:]) if isinstance(value, list | tuple) else []
        if len(sides) == 2 and all(isinstance(side, int) for side in sides):
            return sides[0], sides[1]
    return None

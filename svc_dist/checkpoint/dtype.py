"""The dtypes of the safetensors format: their sizes and their other names."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Bytes per element of each safetensors dtype that has whole bytes.
ITEM_SIZE = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8,
    "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip

#: Bits per element of every dtype. The packed dtypes with less than a byte are never merged.
_BITS = {name: 8 * size for name, size in ITEM_SIZE.items()} | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}

#: Dtypes that hold weights and can be merged, with their names in recipes and in ``config.json``.
FLOAT_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
RECIPE_DTYPES = {name: code for code, name in FLOAT_DTYPES.items()}

#: Dtypes that usually are quantised weights, meaningless without their scales.
QUANTISED_DTYPES = frozenset(name for name in _BITS if name in ("I8", "U8") or name.startswith(("F8_", "F6_", "F4")))


#: The names of torch's dtypes.
_TORCH = FLOAT_DTYPES | {
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


@functools.lru_cache(maxsize=4096)
def byte_count(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor of this dtype and shape; None for an unknown dtype, or where they are not a whole number."""
    size, rest = divmod(math.prod(shape) * _BITS.get(dtype, 0), 8)
    return size if dtype in _BITS and not rest else None


def bytes_of(dtype: str, elements: int) -> int:
    """Bytes of the first ``elements`` elements of a tensor, rounded down for packed dtypes."""
    return elements * _BITS[dtype] // 8


def torch_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a safetensors dtype. Raises KeyError for dtypes that torch does not have."""
    import torch

    found: torch.dtype = {name: getattr(torch, kind) for name, kind in _TORCH.items() if hasattr(torch, kind)}[dtype]
    return found


def safetensors_dtype(dtype: torch.dtype) -> str | None:
    """The safetensors dtype of a torch dtype; None where the format has none."""
    kind = str(dtype).removeprefix("torch.")
    return next((name for name, other in _TORCH.items() if other == kind), None)


#: Other names of dtypes.
_DTYPES = {
    **dict.fromkeys(("bf16", "bfloat"), "bfloat16"), **dict.fromkeys(("fp16", "f16", "half"), "float16"),
    **dict.fromkeys(("fp32", "f32", "float", "full"), "float32"), **dict.fromkeys(("fp64", "f64", "double"), "float64"),
}  # fmt: skip


def recipe_dtype(value: str | None) -> str | None:
    """A dtype in a recipe by its name there, which may begin with ``torch.``. Raises ValueError."""
    value = value and value.removeprefix("torch.")
    if value is not None and value not in RECIPE_DTYPES:
        raise ValueError(f"'{value}' is not one of {', '.join(RECIPE_DTYPES)}" + _meant_dtype(value))
    return value


def _meant_dtype(value: str) -> str:
    plain = value.casefold()
    name = plain if plain in RECIPE_DTYPES else _DTYPES.get(plain)
    return f"; did you mean {name}?" if name else ""

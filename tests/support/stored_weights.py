"""Random weights as quantised models store them: bytes for tensors of any name, dtype and shape."""

from __future__ import annotations

import math
import zlib

import torch

_SUPPLY = 1 << 18


class StoredWeights:
    """The bytes depend on the seed and on the names. Models of other seeds differ in all but an eighth of the weights.

    They are pieces of one supply: of codes, of bfloat16, of scales in float32, and of exponents in bytes.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        random = torch.Generator().manual_seed(0)
        values = torch.randn(_SUPPLY, generator=random)
        self._supply = {
            "F8_E4M3": (values * 100).clamp(-448, 448).to(torch.float8_e4m3fn),
            "BF16": (values * 0.02).bfloat16(),
            "F32": 1e-4 * (1 + torch.rand(_SUPPLY, generator=random)),
            "U8": torch.randint(256, (_SUPPLY,), generator=random, dtype=torch.uint8),
            "exponents": torch.randint(116, 121, (_SUPPLY,), generator=random, dtype=torch.uint8),
        }

    def of(self, name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
        weight = name.removesuffix("_scale_inv").removesuffix("_blocks").removesuffix("_scales")
        number = zlib.crc32(weight.encode())
        if number % 8:
            number = zlib.crc32(f"{self._seed} {weight}".encode())
        count = math.prod(shape)
        supply = self._supply["exponents" if name.endswith("_scales") else dtype]
        start = number % _SUPPLY
        if start + count > _SUPPLY:
            supply = supply.repeat(count // _SUPPLY + 2)
        return supply[start : start + count].view(torch.uint8).numpy().tobytes()

"""What decoding and encoding a tensor costs: entries by the effort of their format, and peak memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.costs import Work
from svc_dist.plan.inputs import InputRange
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.tensors.dispositions import Disposition

#: Bytes of an entry while it is decoded: its value, the bits of its code, and the value in the dtype that is merged.
_DECODING = 10
#: The same while it is encoded, some chunks at a time: two to four arrays of values, its code and what is beside it.
_ENCODING = 32


def coding_work(tensor: PlannedTensor, dispositions: Sequence[Disposition], elements: int) -> Work:
    """The work of decoding ``elements`` of a tensor in each model that stores it in codes, and of encoding them."""
    codecs = _read(tensor)
    if (tensor.codec is None and not codecs) or _keeps_codes(tensor, dispositions):
        return Work()
    decoded = sum(_efforts(codec)[0] for codec in codecs)
    encoded = len(dispositions) * _efforts(tensor.codec)[1] if tensor.codec is not None else 0.0
    return Work(decoded=decoded * elements, encoded=encoded * elements)


def coding_memory(tensor: PlannedTensor, dispositions: Sequence[Disposition], together: int) -> int:
    """Anonymous bytes that decoding and encoding take; ``together``: values in memory until they are encoded."""
    codecs = list(map(codec_of, _read(tensor)))
    if (tensor.codec is None and not codecs) or _keeps_codes(tensor, dispositions):
        return 0
    reading = max((_DECODING * max(CHUNK, codec.shape[0 if codec.turned else 1]) for codec in codecs), default=0)
    if tensor.codec is None:
        return reading
    codec = codec_of(tensor.codec)
    writing = _ENCODING * max(CHUNK, codec.shape[1]) + bytes_of("F8_E4M3", codec.grain * codec.shape[1])
    beside = sum(part.nbytes for part in tensor.written[1:])  # written after all codes
    return max(reading, writing) + len(dispositions) * (bytes_of(tensor.dtype, together) + beside)


def _keeps_codes(tensor: PlannedTensor, dispositions: Sequence[Disposition]) -> bool:
    """Whether stored codes are copied as they are."""
    added = tensor.factors or tensor.base_factors
    same = tensor.codec is not None and [tensor.codec] == _read(tensor)
    return dispositions[0].kind == "copied" and same and not added


def _read(tensor: PlannedTensor) -> list[str]:
    """The codecs of the models that store a tensor in codes."""
    return [codec for source in tensor.sources if source is not None and (codec := _codec(source)) is not None]


def _codec(source: InputRange) -> str | None:
    """The codec of what is stored: of the first part in codes, where there are several."""
    return source.codec or next((part.codec for part in source.parts if part.codec), None)


@functools.lru_cache(maxsize=4096)
def _efforts(codec: str) -> tuple[float, float]:
    return codec_of(codec).efforts

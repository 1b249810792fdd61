"""A quantised checkpoint as one of weights: each is one tensor, whatever it is stored in."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.formats.logical import logical_tensors
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import DamagedInputError
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage

#: Scales of a quantised cache of keys and values, which no weight needs.
_CACHE_SCALES = (".k_scale", ".v_scale", ".q_scale")


def decoded_checkpoint(model: Checkpoint, access: Access, whole: bool = False) -> Checkpoint:
    """The same checkpoint with the weights that its codes stand for, in place of codes and scales.

    ``whole``: with the tensors that no weight needs then, too. Raises DamagedInputError for codes and scales that do
    not go together.
    """
    files = {file.name: file for file in model.files}

    def shape_of(spec: TensorSpec) -> tuple[int, ...]:
        data = open_storage(model.location, access).read_pinned(files[spec.file], spec.start, spec.end)
        return struct.unpack(f"<{spec.numel}{'q' if spec.dtype == 'I64' else 'i'}", data)

    try:
        tensors, unneeded = decoded(model.tensors, model.config, bool(model.quantisation_files), shape_of)
    except DamagedInputError as error:
        raise DamagedInputError(f"{model.location}/{error.message}", error.hint, code=error.code) from None
    carried = {name: model.tensors[name] for name in unneeded} if whole else {}
    return replace(model, tensors={**tensors, **carried}, unneeded=unneeded)


def decoded(
    tensors: Mapping[str, TensorSpec],
    config: Mapping[str, Any] | None,
    declared: bool = False,
    shape_of: Callable[[TensorSpec], tuple[int, ...]] | None = None,
) -> tuple[dict[str, TensorSpec], tuple[str, ...]]:
    """A checkpoint's tensors with each quantised weight as one, and the names of those that no weight needs then.

    The latter are scales of activations and of the cache. Raises DamagedInputError.
    """
    found = logical_tensors(tensors, config, declared, shape_of)
    if not found:
        return dict(tensors), ()
    stored = {spec.name for one in found.values() for spec in one.stored.values()}
    unneeded = {
        spec.name
        for one in found.values()
        if len(one.stored) > len(one.codec.parts)
        for spec in set(one.stored.values()).difference(spec for _, spec in one.parts)
    }
    unneeded |= {name for name in tensors if name not in stored and name.endswith(_CACHE_SCALES)}
    plain = {name: spec for name, spec in tensors.items() if name not in stored and name not in unneeded}
    for name, one in found.items():
        if name in plain:
            raise DamagedInputError(
                f"{plain[name].file}: the tensor {name!r} is stored twice: as it is, and in codes by "
                f"{one.stored[one.format.suffix].name!r}",
                "use a checkpoint that was saved once",
            )
        plain[name] = one.spec
    return plain, tuple(name for name in tensors if name in unneeded)

"""A quantised storage format: codes in one tensor, and the companions without which the codes have no meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from svc_dist.checkpoint.header import TensorSpec

SCALES = ("F32", "BF16", "F16", "F8_E8M0")


@dataclass(frozen=True)
class Format:
    """One way to store a quantised weight, recognised by its tensors: full suffixes, dtypes and siblings.

    ``suffix``: how the name of the tensor of codes ends; what precedes it is the stem. ``dtypes``: of the codes.
    ``companions``: by what they append to the stem, the dtypes that the tensors beside it must have; ``optional``: what
    others may append. ``instead``: what a user can merge in place of such a checkpoint.
    """

    name: str
    suffix: str
    dtypes: tuple[str, ...]
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    instead: str = "use the checkpoint from which it was quantised"

    def recognise(self, spec: TensorSpec, tensors: Mapping[str, TensorSpec]) -> tuple[str, ...] | None:
        """The names of the companions where ``spec`` holds codes of this format, else None."""
        if spec.dtype not in self.dtypes or not spec.name.endswith(self.suffix):
            return None
        stem = spec.name[: len(spec.name) - len(self.suffix)]
        for ending, dtypes in self.companions.items():
            companion = tensors.get(stem + ending)
            if companion is None or companion.dtype not in dtypes:
                return None
        endings = (*self.companions, *self.optional)
        return tuple(stem + ending for ending in endings if stem + ending in tensors)

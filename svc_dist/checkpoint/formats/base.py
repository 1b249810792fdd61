"""A quantised storage format: codes in one tensor, and the companions without which the codes have no meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.scheme import Scheme
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import DamagedInputError

_UNREADABLE = "download the model again, or use the checkpoint from which it was quantised"
SCALES = ("F32", "BF16", "F16", "F8_E8M0")


@dataclass(frozen=True)
class Stored:
    """The tensors of one quantised weight. ``beside``: its companions, by what they append to the ``stem``.

    A tensor of three dimensions is a stack of matrices, each stored alike.
    """

    stem: str
    codes: TensorSpec
    beside: Mapping[str, TensorSpec]
    scheme: Scheme

    @property
    def suffix(self) -> str:
        """What the tensor of codes appends to the stem."""
        return self.codes.name[len(self.stem) :]

    def of_one(self, companion: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of what one matrix has of the codes and of a companion."""
        shapes = self.codes.shape, self.beside[companion].shape
        return (shapes[0][1:], shapes[1][1:]) if len(shapes[0]) == 3 else shapes

    def unreadable(self, why: str) -> DamagedInputError:
        """The error for tensors that do not go together."""
        names = ", ".join(f"{spec.name} {spec.dtype} {[*spec.shape]}" for spec in (self.codes, *self.beside.values()))
        return DamagedInputError(f"{self.codes.file}: {why}: {names}", _UNREADABLE)


@dataclass(frozen=True)
class Format:
    """One way to store a quantised weight, recognised by its tensors: full suffixes, dtypes and siblings.

    ``suffix``: how the name of the tensor of codes ends; what precedes it is the stem. ``dtypes``: of the codes.
    ``companions``: by what they append to the stem, the dtypes that the tensors beside it must have; ``optional``: what
    others may append. ``instead``: what a user can merge in place of such a checkpoint. ``codec``: how one matrix of it
    is read and written, None for formats that are refused; it raises DamagedInputError.
    """

    name: str
    suffix: str
    dtypes: tuple[str, ...]
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    instead: str = "use the checkpoint from which it was quantised"
    codec: Callable[[Stored], Codec] | None = None

    def recognise(self, spec: TensorSpec, tensors: Mapping[str, TensorSpec]) -> tuple[str, ...] | None:
        """The names of the companions where ``spec`` holds codes of this format, else None."""
        if spec.dtype not in self.dtypes or not spec.name.endswith(self.suffix):
            return None
        stem = spec.name[: len(spec.name) - len(self.suffix)]
        found = []
        for ending, dtypes in self.companions.items():
            companion = tensors.get(stem + ending)
            if companion is None or companion.dtype not in dtypes:
                return None
            found.append(companion.name)
        for ending in self.optional:
            if (companion := tensors.get(stem + ending)) is not None:
                found.append(companion.name)
        return tuple(found)

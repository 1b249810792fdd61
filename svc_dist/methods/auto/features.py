"""What a sample of the task deltas shows of experts. ``auto`` chooses by some of these figures (``table``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """Figures of ``experts`` experts, from some rows of ``tensors`` matrices, for which ``bytes_read`` were read.

    ``adapters``: the share of the experts that are LoRA adapters to the base. ``times``: how many times the plain sum
    counts what they learned, ``||sum Di||^2 / sum ||Di||^2``. ``cosine``: the mean over pairs of experts.
    ``changed``: the mean share of entries that an expert changes. ``rank``: the mean effective rank of an expert's
    changed rows, ``(sum s^2)^2 / sum s^4`` of their singular values, divided by the largest that it could be.
    ``norms``: of each expert's delta, divided by the base's.
    """

    experts: int
    adapters: float
    times: float
    cosine: float
    changed: float
    rank: float
    norms: tuple[float, ...]
    tensors: int
    bytes_read: int

    @property
    def kind(self) -> str:
        """The experts in words: ``4 full fine-tunes``."""
        count = int(self.adapters * self.experts + 0.5)
        if not count:
            return f"{self.experts} full fine-tunes" if self.experts > 1 else "one full fine-tune"
        if count == self.experts:
            return f"{count} LoRA adapters" if count > 1 else "one LoRA adapter"
        return f"{self.experts} experts, of which {count} {'is a LoRA adapter' if count == 1 else 'are LoRA adapters'}"

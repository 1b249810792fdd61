"""The tasks: handwritten digits as four departments scan them, from the data set in scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from svc_dist.errors import require_extra

_TEST_SHARE = 1 / 3
_PAPER = -1.0


@dataclass(frozen=True)
class Samples:
    """Images ``(count, 8, 8)``, float32, ink 1 on paper -1, and their digits ``(count,)``, int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.numel()

    def seen_as(self, view: Callable[[Tensor], Tensor]) -> Samples:
        """The same samples with ``view`` applied to the images."""
        return Samples(view(self.images), self.labels)


@dataclass(frozen=True)
class Task:
    """A domain of digits: its name, and the distortion of its images."""

    name: str
    view: Callable[[Tensor], Tensor]


def load_digits(seed: int) -> tuple[Samples, Samples]:
    """The 1,797 undistorted digits, shuffled by ``seed`` and split by sample into train and test.

    Raises MissingExtraError when scikit-learn is not installed.
    """
    require_extra("demo", "the demo", "sklearn")
    from sklearn import datasets

    digits = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images = torch.from_numpy(digits.images[order] / 8 - 1).float()
    labels = torch.from_numpy(digits.target[order]).long()
    cut = round(len(order) * _TEST_SHARE)
    return Samples(images[cut:], labels[cut:]), Samples(images[:cut], labels[:cut])


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Images under affine maps ``(count or 1, 2, 3)`` in coordinates from -1 to 1, as torch's ``affine_grid``."""
    count, height, width = images.shape
    grid = affine_grid(matrices.expand(count, 2, 3), [count, 1, height, width], align_corners=False)
    # The surroundings of an image are paper, and grid_sample fills with zeros.
    return grid_sample((images - _PAPER)[:, None], grid, align_corners=False)[:, 0] + _PAPER


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images, each rotated by up to 20 degrees, scaled by up to a tenth, shifted by up to a pixel, and greyed."""

    def uniform() -> Tensor:
        return torch.rand(len(images), generator=generator) * 2 - 1

    angle, size = uniform() * math.radians(20), 1 + 0.1 * uniform()
    cos, sin = size * angle.cos(), size * angle.sin()
    matrices = torch.stack([cos, -sin, uniform() / 4, sin, cos, uniform() / 4], dim=1).view(-1, 2, 3)
    contrast, grey = (0.75 + 0.25 * uniform())[:, None, None], uniform()[:, None, None] / 2
    return contrast * warp(images, matrices) + (1 - contrast) * grey


def _on_grey(matrix: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Callable[[Tensor], Tensor]:
    def view(images: Tensor) -> Tensor:
        return 0.5 * warp(images, torch.tensor([matrix], dtype=images.dtype)) + 0.5

    return view


_COS, _SIN = math.cos(math.radians(40)), math.sin(math.radians(40))

#: Every department uses grey paper and distorts the digits in its own way. So the experts' deltas share some directions
#: and differ in others, like fine-tunes of one model with a common format and different specialities. Adding the deltas
#: counts the shared directions once per expert.
TASKS = (
    Task("tilted left", _on_grey(((_COS, -_SIN, 0), (_SIN, _COS, 0)))),
    Task("tilted right", _on_grey(((_COS, _SIN, 0), (-_SIN, _COS, 0)))),
    Task("slanted", _on_grey(((1, 1, 0), (0, 1, 0)))),
    Task("flat", _on_grey(((1, 0, 0), (0, 2, 0)))),
)

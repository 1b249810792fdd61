"""The figures of docs/over-counting.md: how a sum of task deltas inflates the directions that experts share.

``python -m benchmarks.over_counting`` writes the figures to docs/figures/ and prints the numbers that the page quotes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import svc_dist
from svc_dist.report.figures import svg

FOLDER = Path(__file__).parent.parent / "docs" / "figures"
ROWS, COLUMNS, SHARED, OWN = 256, 192, 4, 12


def experts(count: int, share: float, seed: int = 0) -> list[Tensor]:
    """Task deltas with the share ``share`` of their energy in ``SHARED`` common directions, the rest in their own."""
    random = torch.Generator().manual_seed(seed)

    def low_rank(rank: int) -> Tensor:
        factors = (
            torch.randn(ROWS, rank, generator=random).double(),
            torch.randn(rank, COLUMNS, generator=random).double(),
        )
        product = factors[0] @ factors[1]
        return product / product.norm()

    common = low_rank(SHARED)
    return [share**0.5 * common + (1 - share) ** 0.5 * low_rank(OWN) for _ in range(count)]


def spectra() -> Figure:
    """Singular values of one expert, of the sum of four, and of the calibrated sum."""
    deltas = experts(4, 0.5)
    total = svc_dist.merge_deltas(deltas, "task_arithmetic")
    found = svc_dist.calibrate(total, deltas)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    ranks = range(1, 21)
    for values, name, colour in (
        (torch.linalg.svdvals(deltas[0]), "one expert", "#7a8b99"),
        (found.sigma, "sum of four", "#e07a2f"),
        (torch.linalg.svdvals(found.delta), "sum, calibrated", "#2a6f97"),
    ):
        axes.plot(ranks, values[:20], "o-", ms=4, label=name, color=colour)
    axes.set_xticks(range(1, 21))
    axes.set_xlabel("direction")
    axes.set_ylabel("singular value")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    shared, own = found.gamma[:SHARED].mean(), found.gamma[SHARED:20].mean()
    print(f"gamma of the shared directions {shared:.2f}, of the next ones {own:.2f}")
    return figure


def growth() -> Figure:
    """Over-counting by the number of experts and the share of energy that they have in common."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    counts = (1, 2, 3, 4, 6, 8, 12, 16)
    for share, colour in ((0.9, "#b5446e"), (0.5, "#e07a2f"), (0.2, "#3a8f5c"), (0.0, "#2a6f97")):
        often = []
        for count in counts:
            deltas = experts(count, share)
            found = svc_dist.calibrate(svc_dist.merge_deltas(deltas, "task_arithmetic"), deltas)
            energy = found.sigma.square() / found.sigma.square().sum()
            often.append(1 / float(found.gamma @ energy))
        axes.plot(counts, often, "o-", ms=4, label=f"{share:.0%} of each delta shared", color=colour)
        print(f"{share:.0%} shared: " + ", ".join(f"K={k} {value:.2f}" for k, value in zip(counts, often, strict=True)))
    axes.plot(counts, counts, ":", color="#7a8b99", label="all of it (K times)")
    axes.set_xlabel("experts K")
    axes.set_ylabel("times counted, by energy")
    axes.set_ylim(0, 10)
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, figure in (("over-counting-spectra.svg", spectra()), ("over-counting-growth.svg", growth())):
        (FOLDER / name).write_text(svg(figure), encoding="utf-8")

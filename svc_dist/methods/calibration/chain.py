"""Several calibrations in order, each on what the one before made.

The complete settings of one calibration are a mapping with its name as ``method``. Those of several are one mapping
too, whose ``steps`` hold the settings of each. Importing this loads no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from svc_dist.methods.costs import Work
from svc_dist.methods.method import Calibration
from svc_dist.methods.registry import CALIBRATIONS

if TYPE_CHECKING:
    from torch import Tensor

    from svc_dist.methods.deltas import Deltas
    from svc_dist.methods.merged import Merged


def chained(each: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The complete settings of these calibrations in order; one stands for itself, and None for none."""
    if len(each) < 2:
        return each[0] if each else None
    return {"method": ", then ".join(one["method"] for one in each), "steps": list(each)}


def steps(settings: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], ...]:
    """The settings of each calibration in order; nothing for None."""
    if settings is None:
        return ()
    return tuple(settings["steps"]) if "steps" in settings else (settings,)


def names(settings: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The calibrations' names in order."""
    return tuple(one["method"] for one in steps(settings))


@functools.lru_cache(maxsize=256)
def declared(chain: tuple[str, ...]) -> Calibration | None:
    """What calibrations of these names declare together; None for none.

    While one runs, those before it may still hold what they need for further results: their memory adds up.
    """
    each = [CALIBRATIONS[name] for name in chain]
    if len(each) < 2:
        return each[0] if each else None
    return Calibration(
        name=", then ".join(chain),
        function="",
        doc="several calibrations in order",
        work=lambda m, n, k, precision: sum((one.work(m, n, k, precision) for one in each), Work()),
        memory=lambda m, n, k, precision: sum(one.memory(m, n, k, precision) for one in each),
        symmetric=all(one.symmetric for one in each),
        factored=all(one.factored for one in each),
    )


def calibrated(
    merged: Merged, deltas: Deltas, chains: Sequence[Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    """The number of each chain of calibrations of ``merged``, the delta that it ends with, and a summary.

    Chains without a calibration come first. Chains that begin alike share what their first calibration has in common.
    """
    for number, delta, summary in _calibrated(merged, deltas, chains):
        if len(chains[number]) > 1:
            summary |= _together(merged.delta, delta)
        yield number, delta, summary
        del delta  # before the next one is made


def _calibrated(
    merged: Merged, deltas: Deltas, chains: Sequence[Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    by_name: dict[str, list[int]] = {}
    for number, chain in enumerate(chains):
        if chain:
            by_name.setdefault(chain[0]["method"], []).append(number)
        else:
            yield number, merged.delta, merged.summary
    for name, members in by_name.items():
        sets = [{key: value for key, value in chains[number][0].items() if key != "method"} for number in members]
        for positions, result in CALIBRATIONS[name].results(sets, merged, deltas):
            reached = [members[position] for position in positions]
            further = _after(merged, result.delta, result.summary)
            del result  # before the next one is made
            for position, delta, summary in _calibrated(further, deltas, [chains[number][1:] for number in reached]):
                yield reached[position], delta, summary
                del delta
            del further


def _after(merged: Merged, delta: Tensor, summary: Mapping[str, Any]) -> Merged:
    """What a further calibration starts from: directions that the method built are not those of ``delta``."""
    from svc_dist.methods.merged import Merged

    return Merged(delta, merged.summary | dict(summary))


def _together(before: Tensor, after: Tensor) -> dict[str, Any]:
    """The norms of a receipt over all steps, and the spectrum after the last."""
    import torch

    from svc_dist.linalg.svd import leading_values
    from svc_dist.methods.merged import TOP

    norms = torch.stack([torch.linalg.vector_norm(one, dtype=torch.float64) for one in (before, after)])
    step = max(1, (1 << 22) // max(after.shape[1], 1))
    parts = [
        torch.linalg.vector_norm(after[start : start + step] - before[start : start + step], dtype=torch.float64)
        for start in range(0, len(after), step)
    ]
    merged, calibrated = norms.cpu().tolist()
    changed = float(torch.linalg.vector_norm(torch.stack(parts)))
    return {
        "norm_merged": merged,
        "norm_calibrated": calibrated,
        "norm_changed": changed,
        "sigma_calibrated": leading_values(after, TOP),
    }

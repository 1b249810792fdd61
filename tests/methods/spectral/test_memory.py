"""The spectral methods hold one expert at a time: memory does not grow with experts, and is what the registry says."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from torch import Tensor

from svc_dist.linalg.threads import fix_threads
from svc_dist.methods.costs import HEAP_SLACK
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import Merged
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.run.process import return_freed_memory
from tests.support.elementwise_references import merged, parameters
from tests.support.peak_memory import CountedMemory, PeakMemory
from tests.support.spectral_cases import (
    CANDIDATES,
    SPECTRAL,
    adapters,
    calibrated,
    fine_tunes,
    merge_matrix,
    run,
    taken,
)

MIB = 2**20
#: Few steps of the descents; and every direction that can be kept, whatever the spectrum.
GIVEN = {"wudi": {"steps": 3}, "optmerge": {"steps": 3}, "swudi_a": {"rank_rule": "cumvar_1.0"}}
NAMES = [*SPECTRAL, *CANDIDATES, "svc left", "svc right"]


def merge(name: str, deltas: TaskDeltas) -> None:
    """A spectral method, or ``svc`` on the deltas' sum."""
    if name.startswith("svc"):
        calibrated(Merged(merged("task_arithmetic", deltas)), deltas, side=name.removeprefix("svc "))
    else:
        run(name, deltas, **GIVEN.get(name, {}))


def counted(name: str, deltas: TaskDeltas) -> float:
    with CountedMemory() as memory:
        merge(name, deltas)
    return memory.mib


def promised(name: str, shape: tuple[int, int], experts: int, precision: str) -> float:
    """What the registry says, without what the C library may keep. MiB."""
    owner = CALIBRATIONS["svc"] if name.startswith("svc") else METHODS[name]
    return (owner.memory(*shape, experts, precision) - HEAP_SLACK) / MIB


@pytest.mark.parametrize("name", NAMES)
def test_memory_does_not_grow_with_the_experts(name: str) -> None:
    few, many = (counted(name, taken(fine_tunes(320, 256, experts), "mixed")) for experts in (2, 12))
    assert many <= 1.02 * few, f"MiB; a delta more would be {few + 0.31:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("shape", [(320, 256), (256, 320)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_memory_of_any_shape_does_not_grow_with_the_experts(name: str, shape: tuple[int, int], precision: str) -> None:
    few, *more = (counted(name, taken(fine_tunes(*shape, experts), precision)) for experts in (2, 3, 12, 16))
    assert max(more) <= 1.02 * few, f"MiB; a delta more would be {few + 0.31:.2f}"


def test_memory_that_grows_with_the_experts_would_be_noticed() -> None:
    deltas = taken(fine_tunes(320, 256, 12), "mixed")
    with CountedMemory() as memory:
        torch.stack(list(deltas)).sum(0)
    assert memory.mib > 2 * 12 * 320 * 256 * 4 / MIB


@pytest.mark.parametrize(
    ("shape", "precision"),
    [
        ((640, 512), "mixed"),
        ((512, 640), "float64"),
        ((256, 1600), "mixed"),
        pytest.param((640, 512), "float64", marks=pytest.mark.slow),
        pytest.param((512, 640), "mixed", marks=pytest.mark.slow),
        pytest.param((256, 1600), "float64", marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_the_registry_knows_the_peak(name: str, shape: tuple[int, int], precision: str) -> None:
    within_promise(name, shape, 3, precision, taken(fine_tunes(*shape, 3), precision))


@pytest.mark.parametrize(
    ("side", "shape", "precision"),
    [
        ("left", (640, 512), "mixed"),
        ("left", (512, 640), "float64"),
        ("right", (640, 512), "float64"),
        ("right", (512, 640), "mixed"),
        pytest.param("left", (640, 512), "float64", marks=pytest.mark.slow),
        pytest.param("left", (512, 640), "mixed", marks=pytest.mark.slow),
        pytest.param("right", (640, 512), "mixed", marks=pytest.mark.slow),
        pytest.param("right", (512, 640), "float64", marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", SPECTRAL)
def test_a_method_and_its_calibration_take_what_the_larger_one_does(
    name: str, side: str, shape: tuple[int, int], precision: str
) -> None:
    deltas = taken(fine_tunes(*shape, 3), precision)
    given = parameters(name, 3, **GIVEN.get(name, {})), {"method": "svc", "alpha": None, "side": side}
    with CountedMemory() as memory:
        merge_matrix(deltas, METHODS[name], *given, [])
    booked = max(promised(owner, shape, 3, precision) for owner in (name, f"svc {side}"))
    assert memory.mib <= 1.1 * booked


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed", "fast", "float64"])
@pytest.mark.parametrize("experts", [2, 3, 12])
@pytest.mark.parametrize("shape", [(1100, 1100), (1536, 640), (640, 1536), (300, 2100)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_registry_knows_the_peak_of_larger_matrices(
    name: str, shape: tuple[int, int], experts: int, precision: str
) -> None:
    within_promise(name, shape, experts, precision, taken(fine_tunes(*shape, experts), precision))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_registry_knows_the_peak_of_adapters(name: str) -> None:
    deltas = TaskDeltas([delta.float() for delta in adapters(1100, 1100, (16, 16, 16))])
    within_promise(name, (1100, 1100), 3, "mixed", deltas)


def within_promise(name: str, shape: tuple[int, int], experts: int, precision: str, deltas: TaskDeltas) -> None:
    assert counted(name, deltas) <= 1.1 * promised(name, shape, experts, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_a_process_takes_what_the_registry_says(name: str, precision: str) -> None:
    # End to end: the anonymous memory of a process, sampled; with what LAPACK and the C library take for themselves.
    shape = (1280, 1024)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        measured = pool.apply(_sampled, (name, shape, precision))
    booked = promised(name, shape, 4, precision)
    assert measured <= booked + HEAP_SLACK / MIB
    assert measured >= 0.25 * booked, "far more is booked than used"


def _sampled(name: str, shape: tuple[int, int], precision: str) -> float:
    fix_threads(1)
    return_freed_memory()  # as every worker does
    merge(name, taken(fine_tunes(32, 48, 2), precision))  # libraries loaded, their threads and buffers made
    models: list[Tensor] = fine_tunes(*shape, 4)
    with PeakMemory() as memory:
        merge(name, taken(models, precision))
    return memory.mib

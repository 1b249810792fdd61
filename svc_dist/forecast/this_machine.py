"""The time of a merge on the machine at hand, by typical rates: nothing is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from svc_dist.forecast.cluster import Cluster, host_cluster, parse_cluster
from svc_dist.forecast.data_sheets import CORE, DISK, GPUS, RECORD_HERE, START_HERE
from svc_dist.forecast.prediction import Prediction, predict
from svc_dist.forecast.rates import Host, Speed, StorageRates
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Device, Settings
from svc_dist.run.host import available_memory, cores, detect_device, device_count

_NET = "10Gbps"  # of one machine, where nothing is known


@dataclass(frozen=True)
class EstimateHere:
    """What a plan takes on this machine. ``machine``: the machine in words; ``basis``: what the rates are taken for."""

    prediction: Prediction
    machine: str
    basis: str


def estimate_here(plan: Plan, remote: bool) -> EstimateHere | None:
    """The estimate for this machine; None where its GPU has no known rates, or where the plan is for one that is not
    here. ``remote``: whether models are read from, or written to, an object storage.
    """
    settings = plan.settings
    if settings.device != Device.CPU:
        kind = next((name for name in GPUS if name in settings.gpu.lower()), None)
        if kind is None or detect_device() != settings.device:
            return None
        cluster, machine = _gpus(kind, remote), f"{device_count(settings.device)} x {settings.gpu}"
    else:
        cluster, machine = _cores(settings, remote), f"{cores()} cores"
    link = f"a link of {_NET} to the storage" if remote else f"a disk of {DISK / 1e9:.0f} GB/s"
    what = "the data sheet's rates" if settings.device != Device.CPU else "a typical core"
    return EstimateHere(predict(plan, cluster), machine, f"{what} and {link}")


def _gpus(kind: str, remote: bool) -> Cluster:
    cluster = parse_cluster(f"gpus={device_count(Device.CUDA)},gpu={kind},net={_NET}")
    if remote:
        return replace(cluster, start=START_HERE)
    disk = StorageRates(DISK, DISK, math.inf, math.inf)
    return replace(cluster, storage=disk, remote=False, start=START_HERE, end=0.0, record=RECORD_HERE)


def _cores(settings: Settings, remote: bool) -> Cluster:
    threads = settings.threads_per_unit
    speed = _several(threads)
    lanes, disk = max(1, cores() // threads), StorageRates(DISK, DISK, DISK, DISK)
    host = Host(
        "this machine", "", "", {}, cores(), threads, lanes, speed, speed, disk, START_HERE, RECORD_HERE,
        available_memory(),
    )  # fmt: skip
    return host_cluster({"net": _NET} if remote else {}, host)


def _several(threads: int) -> Speed:
    """The speed of a unit with so many cores, as if it rose with them."""
    return Speed(
        CORE.float64 * threads, CORE.float32 * threads, CORE.elementwise * threads,
        tuple((size, seconds / threads) for size, seconds in CORE.eigen), CORE.decode * threads, CORE.encode * threads,
    )  # fmt: skip

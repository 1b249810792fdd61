"""The machines of a simulation, as ``--cluster`` describes them."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from svc_dist.errors import RecipeError
from svc_dist.forecast.data_sheets import (
    CLIENT,
    CONNECTION,
    CONTEXT,
    CORE,
    CORE_SOURCE,
    CORES,
    END,
    GPUS,
    HANDOVER,
    LATENCY,
    NETWORK,
    START,
)  # fmt: skip
from svc_dist.forecast.rates import Host, Speed, StorageRates, read_host
from svc_dist.run.pipeline.shares import BESIDE_GPUS, shares
from svc_dist.run.placement import AHEAD, PER_DEVICE, Node
from svc_dist.sizes import parse_size
from svc_dist.storage.access import DEFAULT_ACCESS
from svc_dist.storage.writing.s3 import PARTS_AHEAD

_KEYS = {
    "nodes": "number of machines (default 1)",
    "gpus": "GPUs of each machine",
    "gpu": f"kind of GPU: {', '.join(GPUS)}",
    "cpus": "cores of each machine without GPUs",
    "net": "bandwidth between each machine and the storage, in each direction (default 25Gbps)",
    "memory": "memory of each machine for units, such as 512GB (default: no limit)",
    "host": "a file of measure-host: this machine, or nodes with cores like its own",
    "slots": "units in parallel on each machine (default: as merge)",
    "cache": "warm if all inputs are in the page cache, else cold (default); only with host",
    "price": "price of each machine for an hour, such as 12.50 or 12.50EUR, for what the merge costs",
}
_WINDOW = 3  # the share of a process's memory for the inputs of its units, as executors divide it
_PORTIONS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Money:
    """An amount of money. ``currency``: as it was given, maybe empty."""

    amount: float
    currency: str = ""

    def __str__(self) -> str:
        amount = f"{self.amount:,.2f}" if self.amount >= 0.01 else f"{self.amount:.2g}"
        return f"{amount} {self.currency}".rstrip()

    def times(self, factor: float) -> Money:
        """So many times the amount."""
        return Money(self.amount * factor, self.currency)


@dataclass(frozen=True)
class Cluster:
    """Identical machines.

    ``nodes``: their number; ``node``: the capacity of each; ``devices``: of each, with a process each, on each of which
    ``lanes`` units compute at full speed: a GPU is a device with one lane; so are the cores that share a process, with
    a lane for each unit that they compute at a time. ``alone``,
    ``crowded``: the speed of one unit by itself, and when all lanes of its device are busy. Seconds: ``start`` before
    the first unit, ``end`` after the last one, ``record`` for the receipt of each unit. ``client``: bytes a second that
    one process can read from storage; ``handover``: that it takes over from its device. ``cores``: of each machine, for
    units that need no device. ``price``: of each machine for an hour.
    """

    nodes: int
    node: Node
    devices: int
    lanes: int
    alone: Speed
    crowded: Speed
    storage: StorageRates
    start: float
    end: float
    record: float
    device: str
    threads_per_unit: int
    remote: bool
    notes: tuple[str, ...]
    client: float = math.inf
    handover: float = math.inf
    cores: int = 0
    price: Money | None = None

    @property
    def process(self) -> Node:
        """The capacity of one of a machine's processes, of which each device has one."""
        node, share = self.node, self.devices
        memory = node.memory // share // (BESIDE_GPUS if self.cores else 1)
        return replace(node, slots=max(1, node.slots // share), memory=memory, ahead=node.ahead // share)

    @property
    def beside(self) -> Node | None:
        """The capacity of a machine's cores beside its devices; None where units compute on no device."""
        return Node(self.cores, self.node.memory // BESIDE_GPUS, ahead=AHEAD * self.cores) if self.cores else None

    @property
    def window(self) -> int:
        """Bytes for the inputs of units of one process that have not computed."""
        return self.process.memory // _WINDOW if self.process.ahead else sys.maxsize

    @property
    def all_slots(self) -> int:
        return self.nodes * self.devices * self.process.slots

    @property
    def all_units(self) -> int:
        """Units in flight at a time, those that read ahead or write included."""
        return self.nodes * self.devices * self.process.capacity

    @property
    def all_devices(self) -> int:
        """GPUs, or machines without."""
        return self.nodes * (1 if self.device == "cpu" else self.devices)

    @property
    def all_lanes(self) -> int:
        return self.nodes * self.devices * self.lanes


def parse_cluster(text: str) -> Cluster:
    """A cluster from ``nodes=4,gpus=8,gpu=h100,net=25Gbps``, ``nodes=2,cpus=16`` or ``host=FILE,slots=2``.

    Raises RecipeError naming the key that is wrong.
    """
    keys: dict[str, str] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in _KEYS or not equals or not value or key in keys:
            why = f"'{key}' is a duplicate key" if key in keys else f"'{item}' is not KEY=VALUE with a known key"
            known = "\n  ".join(f"{name}: {meaning}" for name, meaning in _KEYS.items())
            raise RecipeError(f"--cluster: {why}", f"known keys:\n  {known}")
        keys[key] = value
    kinds = [key for key in ("gpus", "cpus") if key in keys]
    if len(kinds) == 2:
        raise RecipeError("--cluster: gpus and cpus exclude each other", "units run on the GPUs where there are any")
    if "gpu" in keys and kinds != ["gpus"]:
        raise RecipeError("--cluster: gpu needs gpus", f"e.g. gpus=8,gpu={keys['gpu']}")
    host = read_host(Path(keys["host"])) if "host" in keys else None
    if kinds == ["gpus"] and host is not None:
        raise RecipeError("--cluster: gpus and host exclude each other", "a host's rates are those of its cores")
    if kinds and "cache" in keys:
        raise RecipeError("--cluster: cache is valid only with host", "a cluster reads from storage")
    if kinds:
        cluster = _gpus(keys) if kinds == ["gpus"] else _cores(keys, host)
    elif host is not None:
        cluster = host_cluster(keys, host)
    else:
        raise RecipeError(
            "--cluster: neither gpus nor cpus nor host is given", "e.g. nodes=4,gpus=8,gpu=h100,net=25Gbps"
        )
    return replace(cluster, price=_price(keys["price"])) if "price" in keys else cluster


def _gpus(keys: dict[str, str]) -> Cluster:
    kind = keys.get("gpu")
    if kind not in GPUS:
        raise RecipeError(f"--cluster: gpu is {kind or 'not given'}, but must be one of {', '.join(GPUS)}")
    gpu, count = GPUS[kind], _count(keys, "gpus")
    slots = _count(keys, "slots", PER_DEVICE * count)
    node = Node(slots, _memory(keys), gpu.memory, ahead=AHEAD * slots)
    assumed = f"{CLIENT / 1e9:.2f} GB/s read by a process, {CORES} cores beside each GPU (assumed)"
    notes = (f"{kind}: estimated from {gpu.source}", _storage_note(keys), assumed)
    return Cluster(
        _count(keys, "nodes", 1), node, count, 1, gpu.speed(), gpu.speed(), _network(keys),
        START + CONTEXT, END, LATENCY, "cuda", 1, True, notes, CLIENT, HANDOVER, CORES * count,
    )  # fmt: skip


def _cores(keys: dict[str, str], host: Host | None) -> Cluster:
    cores = _count(keys, "cpus")
    threads = 1 if host is None else host.threads_per_unit
    lanes = max(1, cores // threads)
    processes = len(shares(lanes, 0, 0))
    source = f"estimated: {CORE_SOURCE}" if host is None else f"{host.processor} as measured on {host.measured}"
    speed = CORE if host is None else host.crowded  # cores of a large machine are seldom idle
    slots = _count(keys, "slots", lanes)
    node = Node(slots, _memory(keys), ahead=AHEAD * slots)
    assumed = f"{CLIENT / 1e9:.2f} GB/s read by a process (assumed)"
    return Cluster(
        _count(keys, "nodes", 1), node, processes, max(1, lanes // processes), speed, speed, _network(keys),
        START, END, LATENCY, "cpu", threads, True, (f"cores: {source}", _storage_note(keys), assumed), CLIENT, HANDOVER,
    )  # fmt: skip


def host_cluster(keys: dict[str, str], host: Host) -> Cluster:
    """A measured machine by itself."""
    if "nodes" in keys:
        raise RecipeError("--cluster: nodes needs cpus or gpus", f"e.g. nodes=2,cpus={host.cores},host={keys['host']}")
    cache = keys.get("cache", "cold")
    if cache not in ("warm", "cold"):
        raise RecipeError(f"--cluster: cache is '{cache}', but must be warm or cold")
    storage, note = host.disk, f"inputs from the disk ({cache})"
    if cache == "warm":
        storage = StorageRates(math.inf, math.inf, storage.write_each, storage.write)
    elif host.storage is not None:
        storage, note = host.storage, f"from and to {host.storage_url}"
    if "net" in keys:
        storage, note = _network(keys), _storage_note(keys)
    slots, handover = _count(keys, "slots", max(2, host.lanes)), HANDOVER
    if host.storage is None and "net" not in keys:  # a disk: the page cache takes everything from the units themselves
        handover = storage.write_each if slots == 1 else storage.write / host.lanes
        storage = replace(storage, write_each=math.inf, write=math.inf)
    node = Node(slots, _memory(keys, host.memory // 4 * 3), ahead=AHEAD * slots)
    return Cluster(
        1, node, 1, host.lanes, host.alone, host.crowded, storage, host.start, 0.0, host.record, "cpu",
        host.threads_per_unit, host.storage is not None, (f"{host.name}: measured on {host.measured}", note),
        handover=handover,
    )  # fmt: skip


def _network(keys: dict[str, str]) -> StorageRates:
    """The rates of a node to object storage: as many connections as a unit opens, up to the node's bandwidth."""
    net = _bandwidth(keys["net"]) if "net" in keys else NETWORK
    return StorageRates(min(net, DEFAULT_ACCESS.parallel * CONNECTION), net, min(net, PARTS_AHEAD * CONNECTION), net)


def _storage_note(keys: dict[str, str]) -> str:
    net = keys.get("net", "25Gbps a node (assumed: set net=)")
    return f"storage: {net}, {CONNECTION / 1e6:.0f} MB/s a connection (estimated)"


def _bandwidth(text: str) -> float:
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([KMGT]?)(bps|bit/s|B/s)", text)
    if match is None or float(match[1]) <= 0:
        raise RecipeError(f"--cluster: net is '{text}', but must be a rate such as 25Gbps or 3GB/s")
    return float(match[1]) * _PORTIONS[match[2]] / (1 if match[3] == "B/s" else 8)


def _price(text: str) -> Money:
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([A-Z]{3})?", text)
    if match is None:
        raise RecipeError(f"--cluster: price is '{text}', but must be a number such as 12.50 or 12.50EUR")
    return Money(float(match[1]), match[2] or "")


def _memory(keys: dict[str, str], default: int = sys.maxsize) -> int:
    return parse_size(keys["memory"]) if "memory" in keys else default


def _count(keys: dict[str, str], key: str, default: int | None = None) -> int:
    text = keys.get(key)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit() or int(text) < 1:
        raise RecipeError(f"--cluster: {key} is {text!r}, but must be a whole number, at least 1")
    return int(text)

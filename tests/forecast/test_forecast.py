"""What a run will take: the simulation follows the schedule, and its arithmetic is that of shared bandwidth."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

import svc_dist
from svc_dist.errors import RecipeError
from svc_dist.forecast.cluster import Cluster, parse_cluster
from svc_dist.forecast.data_sheets import CORE, GPUS
from svc_dist.forecast.machine import Load
from svc_dist.forecast.prediction import predict
from svc_dist.forecast.rates import Host, Speed, StorageRates, read_host
from svc_dist.forecast.simulate import simulate
from svc_dist.methods.costs import Work
from svc_dist.plan.make import ShardFile
from svc_dist.plan.model import Plan, Result, Unit
from svc_dist.plan.settings import Settings
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.run.placement import Node
from svc_dist.storage.reading import ByteRange, request_count
from tests.support.checkpoints import MODELS, sparse_checkpoint, write_llamas, write_recipe

SPEED = Speed(1e9, 2e9, 1e8, ((512, 0.1), (1024, 0.9), (2048, 7.0)), 1e8, 5e7)
GB = 10**9


def cluster_of(
    nodes: int = 1, slots: int = 1, devices: int = 1, lanes: int = 1, memory: int = 10**12, start: float = 0.0
) -> Cluster:
    """Nodes that read 2 GB/s and write 1 GB/s, one unit at most half of it."""
    storage = StorageRates(1 * GB, 2 * GB, GB / 2, 1 * GB)
    return Cluster(
        nodes, Node(slots, memory), devices, lanes, SPEED, SPEED, storage, start, 0.0, 0.0, "cpu", 1, False, ()
    )  # fmt: skip


def plan_of(loads: list[Load], memory: int = 1) -> Plan:
    """A plan of units in one shard, the work of each what it computes."""
    units = [Unit(f"u{n}", 0, 0, 1, (), 0, 0, load.crowded, memory) for n, load in enumerate(loads)]
    return Plan("f", {}, Settings(), (), (Result("", ()),), (ShardFile("s", 1),), (), (), tuple(units), (), {})


def run(loads: list[Load], cluster: Cluster, memory: int = 1) -> dict[str, float]:
    """When each unit ended."""
    return simulate(plan_of(loads, memory), cluster, {f"u{n}": load for n, load in enumerate(loads)}).ended


def test_a_unit_reads_computes_and_writes() -> None:
    assert run([Load(2 * GB, 3, 3, 1 * GB)], cluster_of(start=10)) == {"u0": pytest.approx(10 + 2 + 3 + 2)}


def test_units_share_their_nodes_bandwidth() -> None:
    loads = [Load(4 * GB, 0, 0, 0)] * 4
    assert list(run(loads, cluster_of(slots=4)).values()) == pytest.approx([8] * 4)
    assert list(run(loads, cluster_of(nodes=4, slots=1)).values()) == pytest.approx([4] * 4)


def test_one_unit_computes_while_another_reads() -> None:
    ended = run([Load(0, 4, 4, 0), Load(2 * GB, 2, 2, 0)], cluster_of(slots=2))
    assert ended == {"u0": pytest.approx(6), "u1": pytest.approx(6)}  # from second 2 on they share the device
    assert run([Load(0, 2, 2, 0), Load(2 * GB, 2, 2, 0)], cluster_of(slots=2))["u1"] == pytest.approx(4)


def test_units_side_by_side_are_as_slow_as_a_crowd() -> None:
    crowded = run([Load(0, 2, 3, 0)] * 2, cluster_of(slots=2, lanes=2))
    assert list(crowded.values()) == pytest.approx([3] * 2)
    assert run([Load(0, 2, 3, 0)], cluster_of(slots=2, lanes=2)) == {"u0": pytest.approx(2)}


def test_units_spread_over_the_devices_of_a_node() -> None:
    assert list(run([Load(0, 2, 2, 0)] * 4, cluster_of(slots=4, devices=4)).values()) == pytest.approx([2] * 4)


def test_most_work_goes_first_as_in_a_run() -> None:
    ended = run([Load(0, n, n, 0) for n in (1, 5, 3)], cluster_of())
    assert ended == {"u1": pytest.approx(5), "u2": pytest.approx(8), "u0": pytest.approx(9)}


def test_memory_holds_units_back_as_in_a_run() -> None:
    loads = [Load(2 * GB, 0, 0, 0)] * 2
    together, apart = (run(loads, cluster_of(slots=2, memory=10), memory) for memory in (5, 6))
    assert max(together.values()) == pytest.approx(2)
    assert max(apart.values()) == pytest.approx(4)


@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 1.0, 7.0])] * 3), min_size=1, max_size=12),
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 3),
)  # fmt: skip
def test_no_run_is_faster_than_its_resources_or_slower_than_one_after_another(
    work: list[tuple[float, float, float]], nodes: int, slots: int, lanes: int
) -> None:
    loads = [Load(read * GB, computed, computed, write * GB) for read, computed, write in work]
    cluster = cluster_of(nodes=nodes, slots=slots, lanes=lanes)
    trace = simulate(plan_of(loads), cluster, {f"u{n}": load for n, load in enumerate(loads)})
    computed = sum(load.crowded for load in loads)
    each = [load.read / GB + load.crowded + load.write / (GB / 2) for load in loads]
    least = max(computed / cluster.all_lanes, sum(load.read for load in loads) / (2 * GB) / nodes, max(each))
    assert least <= trace.seconds * (1 + 1e-6)
    assert trace.seconds <= sum(each) * (1 + 1e-6)
    assert len(trace.ended) == len(loads)
    assert trace.computing == pytest.approx(computed, rel=1e-5, abs=1e-6)


def test_kinds_of_work_have_rates_of_their_own() -> None:
    work = Work(1e9, 2e9, 1e8, ((1024, 2.0),), decoded=1e8, encoded=1e8)
    assert SPEED.seconds(work) == pytest.approx(1 + 1 + 1 + 1.8 + 1 + 2)


@pytest.mark.parametrize(("size", "seconds"), [(512, 0.1), (1024, 0.9), (2048, 7.0), (256, 0.0125), (4096, 56.0)])
def test_decompositions_are_as_measured_and_beyond_that_grow_with_the_cube(size: int, seconds: float) -> None:
    assert SPEED.eigen_seconds(size) == pytest.approx(seconds)


@pytest.mark.parametrize("name", GPUS)
def test_estimated_decompositions_take_longer_the_larger_they_are_and_longer_than_products(name: str) -> None:
    speed = GPUS[name].speed()
    sizes = [300, 512, 700, 1024, 3000, 8192, 20000]
    seconds = [speed.eigen_seconds(size) for size in sizes]
    assert seconds == sorted(seconds)
    assert speed.eigen_seconds(8192) > 4 * 8192**3 / speed.float64
    assert GPUS[name].source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "neither gpus nor cpus nor host"),
        ("nodes=4", "neither gpus nor cpus nor host"),
        ("gpus=8", "gpu is not given"),
        ("gpus=8,gpu=v100", "gpu is v100, but must be one of"),
        ("gpus=0,gpu=h100", "gpus is '0'"),
        ("cpus=8,gpu=h100", "gpu needs gpus"),
        ("cpus=8,gpus=8", "exclude each other"),
        ("cpus=8,cpus=9", "'cpus' is a duplicate key"),
        ("cpus", "'cpus' is not KEY=VALUE"),
        ("cpus=8,disk=3", "'disk=3' is not KEY=VALUE"),
        ("cpus=8,net=25", "net is '25'"),
        ("cpus=8,net=0Gbps", "net is '0Gbps'"),
        ("cpus=8,memory=lots", "not a size"),
        ("cpus=8,cache=warm", "cache is valid only with host"),
        ("host=nowhere.json", "cannot read nowhere.json"),
    ],
)
def test_what_is_no_cluster_is_refused_by_its_key(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse_cluster(text)


def test_bandwidth_is_in_bits_or_bytes() -> None:
    assert parse_cluster("cpus=1,net=8Gbps").storage.read == parse_cluster("cpus=1,net=1GB/s").storage.read == 1e9


def host() -> Host:
    disk = StorageRates(1e9, 2e9, 5e8, 8e8)
    return Host("h", "cpu", "2026-11-27", {"torch": "2"}, 4, 2, 2, CORE, SPEED, disk, 2.5, 0.01, 8 * 10**9)


def test_a_hosts_rates_come_back_from_their_file(tmp_path: Path) -> None:
    file = tmp_path / "host.json"
    for kept in (host(), dataclasses.replace(host(), storage_url="s3://b/p", storage=StorageRates(1, 2, 3, 4))):
        file.write_text(kept.to_json())
        assert read_host(file) == kept
    file.write_text(host().to_json())
    found = parse_cluster(f"host={file},slots=3")
    assert (found.node, found.lanes, found.threads_per_unit) == (Node(3, 6 * 10**9, ahead=6), 2, 2)
    cores = parse_cluster(f"host={file},cpus=16,nodes=2")
    assert (cores.devices, cores.lanes) == (2, 4)
    assert (cores.process.slots, cores.process.ahead, cores.all_devices) == (4, 8, 2)
    assert math.isinf(parse_cluster(f"host={file},cache=warm").storage.read)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "name": "x"}'])
def test_a_file_without_rates_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text(text)
    with pytest.raises(RecipeError, match=r"host\.json does not hold the rates of a host"):
        read_host(tmp_path / "host.json")


def test_requests_are_counted_as_ranges_are_fetched() -> None:
    mib = 1 << 20
    joined = [ByteRange("a", 0, 10), ByteRange("a", 50_000, 60_000)]
    assert request_count([joined]) == 1
    more = [*joined, ByteRange("a", 10 * mib, 43 * mib), ByteRange("b", 0, 16 * mib)]
    assert request_count([more]) == 1 + 3 + 1
    large = [ByteRange("a", 0, 512 * mib)]  # 1,024 MiB by 16 requests in parallel
    assert request_count([large, large]) == 16
    assert request_count([large, large], parallel=4) == 16  # no request is larger than 64 MiB


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """70 B parameters and three experts under SVC."""
    folder = tmp_path_factory.mktemp("headers")
    models = [sparse_checkpoint(folder / str(n), MODELS["llama-3-70b"]()) for n in range(4)]
    return svc_dist.make_plan(write_recipe(folder / "r.yaml", models, calibrate="svc"), device="cuda")


def test_more_devices_are_faster_until_something_else_bounds_them(plan: Plan) -> None:
    net = "gpu=h100,net=400Gbps"
    found = [
        predict(plan, parse_cluster(f"nodes={nodes},gpus={gpus},{net}")) for nodes, gpus in ((1, 1), (1, 8), (8, 8))
    ]
    assert found[0].seconds > 4 * found[1].seconds > 8 * found[2].seconds
    for prediction in found:
        assert prediction.seconds >= max(prediction.bounds.values())
        assert all(0 < share <= 1 for share in prediction.utilisation.values())
        assert prediction.bottleneck in prediction.bounds
    slow = predict(plan, parse_cluster("nodes=1,gpus=8,gpu=h100,net=5Gbps"))
    assert slow.bottleneck == "read"
    assert slow.utilisation["read"] > 0.8
    assert "bound by reading" in slow.text()


def test_a_price_makes_money_of_time(tmp_path: Path) -> None:
    plan, machines = svc_dist.make_plan(write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path))), "nodes=4,cpus=2"
    free, paid = (predict(plan, parse_cluster(f"{machines}{price}")) for price in ("", ",price=98.32USD"))
    assert free.cost is None
    assert paid.seconds == free.seconds
    assert paid.cost is not None
    assert paid.cost.amount == pytest.approx(4 * 98.32 * paid.seconds / 3600)
    assert f"costs about {paid.cost.amount:,.2f} USD: 4 machines at 98.32 USD an hour" in paid.text().splitlines()
    assert "costs" not in free.text()
    with pytest.raises(RecipeError, match=r"price is .cheap., but must be a number"):
        parse_cluster(f"{machines},price=cheap")


def test_requests_of_a_plan_cover_its_bytes(plan: Plan) -> None:
    asked = predict(plan, parse_cluster("nodes=1,gpus=1,gpu=h100")).requests
    assert plan.bytes_in / (64 << 20) <= asked.get <= 1.2 * plan.bytes_in / (16 << 20)  # requests of 16 to 64 MiB
    assert asked.put_part == sum(len(sizes) for _, sizes in plan.parts.values())
    assert (asked.create, asked.complete, asked.receipt) == (30, 30, len(plan.units))


def test_each_result_of_one_pass_is_written_but_inputs_are_read_once(tmp_path: Path) -> None:
    models = write_llamas(tmp_path)
    one = write_recipe(tmp_path / "one.yaml", models, calibrate="svc")
    outputs = [{"path": "a", "lambda": 0.3}, {"path": "b", "calibrate": {"alpha": 0.5}}]
    two = write_recipe(tmp_path / "two.yaml", models, calibrate="svc", outputs=outputs)
    single, double = (svc_dist.predict(recipe, "cpus=2") for recipe in (one, two))
    assert double.bytes_out == 2 * single.bytes_out
    assert double.bytes_in == single.bytes_in
    assert double.bounds["compute"] > single.bounds["compute"]
    assert double.requests.get == single.requests.get
    assert double.requests.put_part == 2 * single.requests.put_part


def test_the_command_predicts_without_torch(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path), calibrate="svc")
    script = (
        "import sys; from svc_dist.cli.app import app; "
        f"app(['plan', {str(recipe)!r}, '--cluster', 'nodes=2,cpus=16', '--json'], standalone_mode=False); "
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    prediction, modules = done.stdout.splitlines()
    assert json.loads(prediction)["slots"] == 32
    assert modules == "set()"


def ahead_of(slots: int = 1, window: int = 10**9, client: float = math.inf) -> Cluster:
    """A machine whose process runs two units more than compute; its window is a third of its memory."""
    cluster = cluster_of(memory=3 * window)
    return dataclasses.replace(cluster, node=Node(slots, 3 * window, ahead=2 * slots), client=client)


def test_units_read_ahead_and_write_behind() -> None:
    loads = [Load(GB / 10, 1, 1, GB / 10)] * 9
    apart = max(run(loads, cluster_of()).values())
    assert apart == pytest.approx(9 * (0.1 + 1 + 0.2))
    assert max(run(loads, ahead_of()).values()) == pytest.approx(0.1 + 9 * 1 + 0.2)


def test_units_read_ahead_as_far_as_the_window_goes() -> None:
    loads = [Load(GB, 1, 1, 0)] * 4
    assert max(run(loads, ahead_of(window=4 * GB)).values()) == pytest.approx(2 + 4 - 1)
    assert max(run(loads, ahead_of(window=GB)).values()) == pytest.approx(4 * (1 + 1))


def test_a_lane_is_held_while_the_host_takes_results_over() -> None:
    loads = [Load(0, 1, 1, 0, handover=0.5)] * 4
    assert max(run(loads, ahead_of()).values()) == pytest.approx(4 * 1.5)
    assert max(run(loads, ahead_of(slots=2)).values()) == pytest.approx(2 * (2 * 1 + 0.5))


def test_one_process_reads_no_faster_than_its_client() -> None:
    loads = [Load(GB, 0, 0, 0)] * 4
    assert max(run(loads, ahead_of(window=9 * GB)).values()) == pytest.approx(2)
    assert max(run(loads, ahead_of(window=9 * GB, client=GB / 2)).values()) == pytest.approx(8)


def test_units_that_need_no_device_compute_on_the_cores_beside_it() -> None:
    cluster = dataclasses.replace(ahead_of(), node=Node(1, 10**12, device_memory=100, ahead=2), cores=2)
    loads = [Load(0, 6, 6, 0), Load(0, 5, 5, 0), Load(0, 4, 4, 0)]
    plan = dataclasses.replace(plan_of(loads, memory=80), settings=Settings(device="cuda"))
    assert simulate(plan, cluster, {f"u{n}": load for n, load in enumerate(loads)}).ended["u2"] == pytest.approx(15)
    disposition = Disposition("copied", "the recipe keeps it")
    tensor = PlannedTensor("norm", "BF16", (1,), 0, 0, 2, 0, None, (None,))
    copied = structs.replace(plan.units[2], pieces=((0, 0, 1),))
    plan = dataclasses.replace(
        plan, tensors=(tensor,), results=(Result("", (disposition,)),), units=(*plan.units[:2], copied)
    )
    trace = simulate(plan, cluster, {f"u{n}": load for n, load in enumerate(loads)})
    assert trace.ended == {"u2": pytest.approx(4), "u0": pytest.approx(6), "u1": pytest.approx(11)}
    assert trace.computing == pytest.approx(11), "of the devices"


def test_large_inputs_are_read_behind_small_ones_and_processes_end_together() -> None:
    """Efficiency of eight processes at a link that they share: a merge of large units and small ones."""
    loads = [Load(4 * GB, 8, 8, 0)] * 40 + [Load(GB / 4, 1, 1, 0)] * 120
    units = [
        Unit(f"u{n}", 0, 0, 1, (), int(load.read), 0, 1e12 * load.crowded, 1 + int(load.read))
        for n, load in enumerate(loads)
    ]
    shards = (ShardFile("s", 1),)
    plan = Plan("f", {}, Settings(), (), (Result("", ()),), shards, (), (), tuple(units), (), {})
    storage = StorageRates(1 * GB, 8 * GB, GB, 8 * GB)
    cluster = dataclasses.replace(cluster_of(devices=8), node=Node(16, 10**15, ahead=32), storage=storage, remote=True)
    seconds = simulate(plan, cluster, {f"u{n}": load for n, load in enumerate(loads)}).seconds
    computing = sum(load.crowded for load in loads) / 8
    assert computing < seconds < 1.05 * computing

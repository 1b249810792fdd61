"""Models in codes, merged from S3 to S3 in the base's codes: killed anywhere and resumed, the same bytes and scales."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import svc_dist
from svc_dist.checks.status import read_status
from svc_dist.checks.verify import verify
from svc_dist.errors import ChangedInputError, DamagedInputError
from svc_dist.run.results.codes import UnitCodes
from tests.support import gpt_oss
from tests.support.checkpoints import poke, recipe_data, specs_of, write_checkpoint
from tests.support.command import shard_hashes, short_home
from tests.support.dying import DIED, Death, start
from tests.support.fault_proxy import Fault, FaultProxy, Kind
from tests.support.quantised import FAMILIES, tensors_of, write_quantised
from tests.support.s3_files import listing, model_hashes, put_folder, stopping_after, uploads
from tests.support.s3_kills import Killer
from tests.support.s3_merge import Models, S3Merge, Starts, models_in
from tests.support.s3_servers import Bucket, SeaweedFS

#: An upper scale, float32 and one number.
UPPER = "model.layers.4.self_attn.k_proj.weight_scale_2"
EXPERTS = gpt_oss.Size(layers=3, experts=3, hidden=64, heads=4, key_value=2, head=32, vocabulary=200)


def shapes(layers: int, large: bool = False) -> dict[str, Any]:
    """Of a small model; ``large``: with three weights that are units of their own, two of them in one shard."""
    found: dict[str, Any] = {"model.embed_tokens.weight": (100, 64), "model.norm.weight": (64,)}
    for layer in range(layers):
        attention = f"model.layers.{layer}.self_attn."
        found |= {f"{attention}{one}_proj.weight": (rows, 64) for one, rows in (("q", 70), ("k", 32), ("v", 32))}
        found |= {f"{attention}o_proj.weight": (64, 96), f"model.layers.{layer}.input_layernorm.weight": (64,)}
    if large:
        found |= {f"model.layers.0.mlp.{one}_proj.weight": (2440, 2208) for one in ("down", "gate", "up")}
    return found


def fine_tunes(layers: int, large: bool = False) -> list[dict[str, Tensor]]:
    """A base and two experts, which have some of its weights."""
    base = tensors_of(0, shapes(layers, large))
    models = [base]
    for seed in (1, 2):
        own = tensors_of(seed, shapes(layers, large), 0.01)
        models.append(
            {n: one if "layers.1." in n else (one.float() + own[n].float()).bfloat16() for n, one in base.items()}
        )
    return models


def write_blocks(folder: Path) -> list[Path]:
    """FP8 in blocks with scales of any value, an expert with powers of two, and one in bfloat16."""
    base, powers, plain = fine_tunes(8, large=True)
    write_quantised(folder / "base", base, FAMILIES["fp8 blocks"])
    write_quantised(folder / "expert0", powers, FAMILIES["fp8 blocks, powers of two"])
    write_checkpoint(folder / "expert1", plain, shards=3)
    return [folder / "base", folder / "expert0", folder / "expert1"]


def write_upper_scales(folder: Path) -> list[Path]:
    """NVFP4, whose projections q, k and v get one upper scale; an expert in it, and one in bfloat16."""
    base, coded, plain = fine_tunes(8)
    write_quantised(folder / "base", base, FAMILIES["nvfp4"])
    write_quantised(folder / "expert0", coded, FAMILIES["nvfp4"])
    write_checkpoint(folder / "expert1", plain, shards=3)
    return [folder / "base", folder / "expert0", folder / "expert1"]


def write_fused(folder: Path) -> list[Path]:
    """gpt-oss: the experts of a layer in one tensor."""
    names = ("base", "expert0", "expert1")
    return [gpt_oss.write_weights(folder / name, seed, EXPERTS) for seed, name in enumerate(names)]


@dataclass(frozen=True)
class Case:
    """``shape``: how many shards and units the merge has."""

    write: Callable[[Path], list[Path]]
    keys: Mapping[str, Any]
    shape: tuple[int, int]


CASES = {
    "FP8 in blocks": Case(write_blocks, {"parameters": {"weight": 0.4}, "max_shard_size": "11MB"}, (2, 5)),
    "NVFP4": Case(write_upper_scales, {"parameters": {"weight": 3.0}, "max_shard_size": "9KB"}, (9, 9)),
    "MXFP4 of gpt-oss": Case(write_fused, {"method": "ties", "max_shard_size": "24KB"}, (15, 15)),
}


@pytest.fixture(params=CASES)
def models(request: pytest.FixtureRequest, seaweed: SeaweedFS, tmp_path: Path) -> Iterator[Models]:
    case = CASES[request.param]
    with models_in(seaweed, tmp_path / "models", case.write, case.keys, case.shape) as found:
        yield found


@pytest.fixture
def starts(disk_s3: Bucket, models: Models) -> Iterator[Starts]:
    with FaultProxy(disk_s3.server.endpoint, [Fault(Kind.LATENCY, seconds=0.005)]) as proxy:
        yield Starts(S3Merge(disk_s3, models), proxy)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "kills"), [("FP8 in blocks", 14), ("NVFP4", 8), ("MXFP4 of gpt-oss", 8)], indirect=["models"]
)
def test_thirty_kills(starts: Starts, kills: int) -> None:
    calm = S3Merge(starts.merge.bucket, starts.merge.models, "calm")
    calm.run(starts.proxy.endpoint)
    calm.require_complete()
    requests = len(starts.proxy.requests)
    starts.proxy.forget()
    with short_home() as home:
        killer = Killer(starts, kills, home)
        killer.run(kills, requests, first=requests // 4)  # not while it is planned
    print(f"{killer.kills} kills, {killer.midway} of them midway, {killer.rounds} merges completed meanwhile")
    require_sound(killer.merge)


@pytest.mark.slow
@pytest.mark.parametrize("models", ["NVFP4"], indirect=True)
def test_death_and_resume(starts: Starts) -> None:
    """What `status` says in between is what there is."""
    merge = starts.merge
    process = start(merge.recipe, merge.url, Death("put", "after", ".svc_dist/receipts/", 2))
    process.join(120)
    assert process.exitcode == DIED
    starts.check()
    status = read_status(merge.url)
    assert status.state.startswith("stopped")
    assert status.units == 9
    assert status.done == len(starts.receipts) >= 2
    assert merge.run(starts.proxy.endpoint).units_resumed == status.done
    starts.check()
    merge.require_complete()
    require_sound(merge)


def require_sound(merge: S3Merge) -> None:
    assert read_status(merge.url).state == "complete"
    checked = verify(merge.url, deep=True)
    assert not checked.problems
    assert any("recorded checksum" in one for one in checked.checked)


@pytest.mark.slow
def test_two_results_in_codes_are_resumed(disk_s3: Bucket, tmp_path: Path) -> None:
    """Each is the one that a merge by itself makes."""
    names = write_upper_scales(tmp_path)
    parts = [put_folder(disk_s3, folder, folder.name) for folder in names]
    outputs = [{"path": "half", "parameters": {"weight": 0.5}}, {"path": "much", "parameters": {"weight": 3.0}}]
    recipe = recipe_data(parts, max_shard_size="16KB", outputs=outputs)
    with stopping_after(3):
        svc_dist.merge(recipe, f"{disk_s3.url}/out", executor="inline", slots=1)
    assert svc_dist.merge(recipe, f"{disk_s3.url}/out", executor="inline").units_resumed == 3
    for one in outputs:
        alone = recipe_data(names, max_shard_size="16KB", parameters=one["parameters"])
        svc_dist.merge(alone, tmp_path / one["path"], executor="inline")
        assert model_hashes(disk_s3, f"out/{one['path']}") == shard_hashes(tmp_path / one["path"])
        assert not verify(f"{disk_s3.url}/out/{one['path']}", deep=True).problems
    assert uploads(disk_s3) == set()
    assert listing(disk_s3, "out/.svc_dist") == {}


@pytest.mark.parametrize(
    "failure", [MemoryError, pytest.param(OSError, marks=pytest.mark.slow)], ids=["memory", "for good"]
)
def test_a_unit_that_fails_among_its_rows(
    failure: type[Exception], disk_s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory ran out it runs again in this start, else in the next one: nothing of the first attempt stays."""
    names = write_upper_scales(tmp_path)
    recipe = recipe_data([put_folder(disk_s3, folder, folder.name) for folder in names], max_shard_size="16KB")
    results, failed = UnitCodes.results, threading.Event()

    def failing(self: UnitCodes, *arguments: Any) -> Iterator[tuple[int, memoryview]]:
        for count, result in enumerate(results(self, *arguments)):
            yield result
            if count and not failed.is_set():
                failed.set()
                raise failure("at some row")

    monkeypatch.setattr(UnitCodes, "results", failing)
    url = f"{disk_s3.url}/out"
    if failure is OSError:
        with pytest.raises(OSError, match="at some row"):
            svc_dist.merge(recipe, url, executor="inline")
        assert read_status(url).state == "failed"
    svc_dist.merge(recipe, url, executor="inline")
    assert failed.is_set()
    svc_dist.merge(recipe_data(names, max_shard_size="16KB"), tmp_path / "calm", executor="inline")
    assert model_hashes(disk_s3, "out") == shard_hashes(tmp_path / "calm")
    assert not verify(url, deep=True).problems


def test_damaged_codes_in_the_middle_end_the_merge_by_name(disk_s3: Bucket, tmp_path: Path) -> None:
    """The expert is replaced: what was merged of the damaged one does not stay."""
    names = write_upper_scales(tmp_path)
    file = next(one for one in sorted(names[1].glob("*.safetensors")) if UPPER in specs_of(one))
    whole = file.read_bytes()
    poke(file, UPPER, 0, float("nan"))
    parts = [put_folder(disk_s3, folder, folder.name) for folder in names]
    recipe = recipe_data(parts, max_shard_size="16KB")
    with pytest.raises(DamagedInputError, match=r"expert0/.*layers\.4\.self_attn\.k_proj"):
        svc_dist.merge(recipe, f"{disk_s3.url}/out", executor="inline")
    disk_s3.client().put_object(Bucket=disk_s3.name, Key=f"expert0/{file.name}", Body=whole)
    with pytest.raises(ChangedInputError, match="expert0"):
        svc_dist.merge(recipe, f"{disk_s3.url}/out", executor="inline")
    svc_dist.merge(recipe, f"{disk_s3.url}/new", executor="inline")
    assert not verify(f"{disk_s3.url}/new", deep=True).problems

"""Merging on S3: the bytes of the local merge, whatever lies where, and nothing else touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import svc_dist
from svc_dist.checks.clean import clean
from svc_dist.errors import ChangedInputError, ExitCode, OutputError
from svc_dist.run.executors import inline
from svc_dist.run_folder.output import Output
from svc_dist.sizes import format_size
from svc_dist.storage.s3.storage import S3Storage
from svc_dist.storage.writing.base import PART
from tests.support.checkpoints import llama_config, write_checkpoint, write_recipe
from tests.support.command import Run, shard_hashes
from tests.support.command import run as run_command
from tests.support.s3_files import (
    begin_upload,
    download,
    listing,
    model_hashes,
    moto_is_slow,
    put,
    put_folder,
    put_models,
    read,
    stopping_after,
    uploads,
)
from tests.support.s3_servers import Bucket, Moto, SeaweedFS
from tests.system.conftest import own_bucket

KEYS: dict[str, Any] = {"calibrate": "svc", "max_shard_size": "700B"}
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def expected(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a merge on local disks gives."""
    folder = tmp_path_factory.mktemp("expected")
    report = svc_dist.merge(write_recipe(folder / "recipe.yaml", models, **KEYS), folder / "out")
    assert report.shards >= 12
    return shard_hashes(folder / "out")


@pytest.fixture
def recipe(s3: Bucket, models: list[Path], tmp_path: Path) -> Path:
    """Of the models in the bucket."""
    return write_recipe(tmp_path / "recipe.yaml", put_models(s3, models), **KEYS)


@pytest.mark.usefixtures("at_ray_home")
@pytest.mark.parametrize(
    ("s3", "executor"),
    [
        ("moto", "inline"),
        ("seaweed", "inline"),
        ("seaweed", "ray"),
        pytest.param("moto", "ray", marks=pytest.mark.slow),
    ],
    indirect=["s3"],
)
def test_from_s3_to_s3(s3: Bucket, recipe: Path, expected: dict[str, str], executor: str) -> None:
    before = listing(s3)
    report = svc_dist.merge(recipe, f"{s3.url}/out", executor=executor, slots=2)
    assert report.executor == executor
    assert model_hashes(s3, "out") == expected
    assert uploads(s3) == set()
    after = listing(s3)
    assert {key: after[key] for key in before} == before
    assert {key.removeprefix("out/") for key in after if key not in before} == {
        *expected, "config.json", "README.md", "merge_recipe.yaml", "merge_report.json"
    }  # fmt: skip
    assert json.loads(read(s3, "out/merge_report.json"))["models"][0]["location"] == f"{s3.url}/models/base"


@moto_is_slow
def test_from_s3_to_a_folder_and_back(
    s3: Bucket,
    recipe: Path,
    models: list[Path],
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = tmp_path / "scratch"
    monkeypatch.setattr(inline, "window_memory", lambda: 0)  # no memory for ranges: all of them land in scratch space
    svc_dist.merge(recipe, tmp_path / "out", scratch=str(scratch))
    assert shard_hashes(tmp_path / "out") == expected
    assert list(scratch.iterdir()) == []
    svc_dist.merge(write_recipe(tmp_path / "local.yaml", models, **KEYS), f"{s3.url}/out/")
    assert model_hashes(s3, "out") == expected
    assert uploads(s3) == set()


@moto_is_slow
def test_the_root_of_a_bucket_is_an_output(
    s3: Bucket, models: list[Path], expected: dict[str, str], tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "local.yaml", models, **KEYS)
    begun = begin_upload(s3, "model-00001-of-00002.safetensors")
    svc_dist.merge(recipe, s3.url)
    assert {key for key in listing(s3) if key.startswith("model")} == set(expected)
    assert not any(key.startswith(".svc_dist") for key in listing(s3))
    assert uploads(s3) == {begun}


def test_inputs_on_two_stores(
    moto: Moto,
    seaweed: SeaweedFS,
    models: list[Path],
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for near, far in zip(own_bucket(seaweed, monkeypatch), own_bucket(moto, monkeypatch), strict=True):
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        recipe = write_recipe(
            tmp_path / "recipe.yaml",
            [put_folder(far, models[0], "base"), *put_models(near, models[1:])],
            storage={
                far.url: {"endpoint_url": moto.endpoint, "region": "us-east-1"},
                f"{near.url}/": {"endpoint_url": seaweed.endpoint},
            },
            **KEYS,
        )
        svc_dist.merge(recipe, f"{near.url}/out")
        assert model_hashes(near, "out") == expected
        assert not [key for key in listing(far) if not key.startswith("base/")]
        assert moto.endpoint not in read(near, "out/merge_report.json").decode(), "how it is reached is no part of it"


def test_every_command_takes_urls(
    disk_s3: Bucket, models: list[Path], expected: dict[str, str], tmp_path: Path, run: Run
) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", put_models(disk_s3, models), **KEYS)
    output = f"{disk_s3.url}/deeper/out"
    assert f"2 experts into the base {disk_s3.url}/models/base" in run("plan", recipe, output).out
    none = run("status", output)
    assert (none.code, "holds no merge" in none.err) == (ExitCode.USAGE, True)
    assert listing(disk_s3, "deeper") == {}
    merged = run_command("merge", recipe, output, home=tmp_path)
    assert "verified" in merged.out
    assert "Unclosed" not in merged.err
    assert model_hashes(disk_s3, "deeper/out") == expected
    done = listing(disk_s3)
    assert "complete already" in run_command("merge", recipe, output, home=tmp_path).err
    report = json.loads(read(disk_s3, "deeper/out/merge_report.json"))
    units, size = len(expected.keys() - {INDEX}), format_size(report["bytes_out"])  # a unit for each shard
    complete = f"{output}: complete, {units} units, {size}, finished {report['finished']}\n"
    assert run("status", output).out == complete
    assert "ranges with the recorded checksum" in run("verify", output, "--deep").out
    cleaned = run("clean", output, "--yes")
    assert (cleaned.code, "complete merge" in cleaned.err) == (ExitCode.USAGE, True)
    assert listing(disk_s3) == done


@pytest.mark.slow
def test_transformers_loads_what_comes_out_of_a_bucket(disk_s3: Bucket, models: list[Path], tmp_path: Path) -> None:
    svc_dist.merge(write_recipe(tmp_path / "recipe.yaml", put_models(disk_s3, models), **KEYS), f"{disk_s3.url}/out")
    folder = download(disk_s3, "out", tmp_path / "out")

    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.isfinite(loaded(torch.tensor([[1, 2, 3]])).logits).all()


@moto_is_slow
def test_done_is_done_another_recipe_is_refused_and_restart_replaces(
    s3: Bucket, recipe: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"{s3.url}/out"
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text() + "parameters: {lambda: 0.5}\n")
    svc_dist.merge(other, output)
    foreign = [begin_upload(s3, "out/model-00001-of-00013.safetensors"), begin_upload(s3, "out/deeper/key")]
    put(s3, "out/notes.txt", b"mine")
    put(s3, "out/deeper/model-00001-of-00013.safetensors", b"mine too")
    done = listing(s3)
    report = svc_dist.merge(other, output)
    assert (report.units_resumed, report.executor) == (report.units, "none")
    with pytest.raises(ChangedInputError, match="complete merge of something else"):
        svc_dist.merge(recipe, output)
    assert listing(s3) == done
    svc_dist.merge(recipe, output, restart=True)
    assert model_hashes(s3, "out") == expected
    after = listing(s3)
    mine = [key for key in done if key.endswith("notes.txt") or "/deeper/" in key or key.startswith("models/")]
    assert {key: after[key] for key in mine} == {key: done[key] for key in mine}
    assert uploads(s3) == set(foreign)


@moto_is_slow
def test_damage_is_found(s3: Bucket, recipe: Path, expected: dict[str, str]) -> None:
    from svc_dist.checks.verify import verify

    svc_dist.merge(recipe, f"{s3.url}/out")
    shard = sorted(expected)[3]
    data = bytearray(read(s3, f"out/{shard}"))
    data[-1] ^= 1
    put(s3, f"out/{shard}", bytes(data))
    assert verify(f"{s3.url}/out").ok
    problems = verify(f"{s3.url}/out", deep=True).problems
    assert len(problems) == 1
    assert shard in problems[0]
    s3.client().delete_object(Bucket=s3.name, Key=f"out/{shard}")
    assert shard in verify(f"{s3.url}/out").problems[0]


@pytest.mark.parametrize(
    ("s3", "way"),
    [
        *(("seaweed", way) for way in ("again", "restart", "clean")),
        *(pytest.param("moto", way, marks=pytest.mark.slow) for way in ("again", "restart", "clean")),
    ],
    indirect=["s3"],
)
def test_a_stopped_merge_goes_on_or_goes_and_leaves_what_is_not_its_own(
    s3: Bucket, recipe: Path, expected: dict[str, str], tmp_path: Path, way: str
) -> None:
    output = f"{s3.url}/out"
    first, second = sorted(expected)[:2]
    foreign = {begin_upload(s3, f"out/{first}"), begin_upload(s3, "out/other"), begin_upload(s3, "out/deeper/key")}
    put(s3, "out/notes.txt", b"mine")
    put(s3, "out-of-reach/.svc_dist/plan.json", b"{}")
    before = listing(s3)
    with stopping_after(4):
        svc_dist.merge(recipe, output, slots=1)
    assert len(listing(s3, "out/.svc_dist/receipts/")) == 4
    assert len(listing(s3, "out/model-")) in (3, 4), "some shards are finished"
    assert len(uploads(s3)) > len(foreign)
    foreign.add(begin_upload(s3, f"out/{second}"))
    if way == "clean":
        clean(Output(output))
        assert (listing(s3), uploads(s3)) == (before, foreign)
    report = svc_dist.merge(recipe, output, restart=way == "restart")
    assert report.units_resumed == (4 if way == "again" else 0)
    assert model_hashes(s3, "out") == expected
    assert uploads(s3) == foreign
    assert before.items() <= listing(s3).items()


@moto_is_slow
def test_a_finished_shard_without_a_receipt_is_made_anew(s3: Bucket, recipe: Path, expected: dict[str, str]) -> None:
    with stopping_after(4):
        svc_dist.merge(recipe, f"{s3.url}/out", slots=1)
    finished = min(listing(s3, "out/model-")).removeprefix("out/")
    plan = svc_dist.make_plan(recipe)
    (unit,) = [unit.id for unit in plan.units if plan.shards[unit.shard].file == finished]
    s3.client().delete_object(Bucket=s3.name, Key=f"out/.svc_dist/receipts/{unit}.json")
    assert svc_dist.merge(recipe, f"{s3.url}/out").units_resumed == 3
    assert model_hashes(s3, "out") == expected
    assert uploads(s3) == set()


@moto_is_slow
def test_a_stopped_merge_of_another_recipe_is_refused_with_what_changed(s3: Bucket, recipe: Path) -> None:
    with stopping_after(2):
        svc_dist.merge(recipe, f"{s3.url}/out", slots=1)
    before = listing(s3), uploads(s3)
    recipe.write_text(recipe.read_text() + "parameters: {lambda: 0.5}\n")
    with pytest.raises(ChangedInputError, match=r"recipe: parameters: lambda: was None, is 0\.5"):
        svc_dist.merge(recipe, f"{s3.url}/out")
    assert (listing(s3), uploads(s3)) == before


@moto_is_slow
@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "README.md", INDEX])
def test_a_foreign_model_is_never_written_over(s3: Bucket, recipe: Path, name: str) -> None:
    put(s3, f"out/{name}", b"mine")
    before = listing(s3)
    for restart in (False, True):
        with pytest.raises(OutputError, match=f"{s3.url}/out.*{name}"):
            svc_dist.merge(recipe, f"{s3.url}/out", restart=restart)
        assert (listing(s3), uploads(s3)) == (before, set())


@moto_is_slow
def test_the_output_is_no_input(s3: Bucket, recipe: Path) -> None:
    for output in ("models/base", "models/base/deeper/", "models"):
        with pytest.raises(OutputError, match="lie inside one another"):
            svc_dist.merge(recipe, f"{s3.url}/{output}")


# Ranges of several parts, shards of several ranges, units of several requests.

SHAPES = {"a.weight": (3200, 8192), "b.weight": (700, 8192), "c.bias": (50,), "d.weight": (700, 8192)}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one tensor of 50 MiB and two of 11 MiB."""
    models = []
    for seed, name in enumerate(("base", "expert")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            key: torch.randint(-1 << 15, 1 << 13, shape, generator=generator, dtype=torch.int16).view(torch.bfloat16)
            for key, shape in SHAPES.items()
        }
        finite = {key: torch.nan_to_num(tensor.clamp(-1, 1)) for key, tensor in tensors.items()}
        models.append(write_checkpoint(tmp_path_factory.mktemp("large") / name, finite, 1, llama_config()))
    return models


@moto_is_slow
def test_ranges_of_several_parts(
    s3: Bucket, large: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    svc_dist.merge(write_recipe(tmp_path / "local.yaml", large), tmp_path / "local")
    recipe = write_recipe(tmp_path / "recipe.yaml", put_models(s3, large))
    plan = svc_dist.make_plan(recipe)
    assert [len(plan.parts[unit.id][1]) for unit in plan.units] == [3, 1, 1]
    assert plan.parts[plan.units[0].id][1][0] == PART
    fetched: list[tuple[int, int]] = []
    fetch = S3Storage.fetch

    def counted(self: S3Storage, planned: Any, start: int, end: int, *rest: Any) -> None:
        fetched.append((start, end))
        fetch(self, planned, start, end, *rest)

    monkeypatch.setattr(S3Storage, "fetch", counted)
    svc_dist.merge(recipe, f"{s3.url}/out")
    assert len(fetched) == 2 * (4 + 1 + 1)
    assert max(end - start for start, end in fetched) == 16 << 20
    assert model_hashes(s3, "out") == shard_hashes(tmp_path / "local")
    assert listing(s3)["out/model.safetensors"][0].endswith('-5"')

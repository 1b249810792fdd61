"""Run folders in a bucket that something damaged: a clear error or the unit done again, never other bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import ExitCode
from svc_dist.run_folder.receipt import sealed
from tests.support.checkpoints import write_recipe
from tests.support.command import Run, shard_hashes
from tests.support.s3_files import begin_upload, listing, model_hashes, put, read, stopping_after, uploads
from tests.support.s3_servers import Bucket

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)
Damage = Callable[[Bucket], None]


def keys(bucket: Bucket, folder: str) -> list[str]:
    return sorted(listing(bucket, f"out/.svc_dist/{folder}"))


def put_all(folder: str, data: bytes) -> Damage:
    def damage(bucket: Bucket) -> None:
        for key in keys(bucket, folder):
            put(bucket, key, data)

    return damage


def other_receipt(bucket: Bucket) -> None:
    first, second = keys(bucket, "receipts/")[:2]
    put(bucket, second, read(bucket, first))


def receipts_without_tokens(bucket: Bucket) -> None:
    for key in keys(bucket, "receipts/"):
        content = {name: value for name, value in json.loads(read(bucket, key)).items() if name != "seal"}
        for written in content["ranges"]:
            written["tokens"] = []
        put(bucket, key, sealed(json.dumps(content).encode()))


def edited_plan(bucket: Bucket) -> None:
    content = json.loads(read(bucket, "out/.svc_dist/plan.json"))
    content["shards"][0]["file"] = "theirs.safetensors"
    put(bucket, "out/.svc_dist/plan.json", json.dumps(content).encode())


DEEP = b"[" * 100_000
DAMAGES: dict[str, tuple[Damage, bool]] = {  # and whether the run resumes
    "another unit's receipt": (other_receipt, True),
    "receipts without tokens": (receipts_without_tokens, True),
    "binary receipts": (put_all("receipts/", bytes(range(256))), True),
    "deep receipts": (put_all("receipts/", DEEP), True),
    "a deep lock": (lambda bucket: put(bucket, "out/.svc_dist/lock", DEEP), True),
    "a lock of other types": (lambda bucket: put(bucket, "out/.svc_dist/lock", b'{"id": 1, "pid": "x"}'), True),
    "an edited plan": (edited_plan, False),
    "an empty plan": (put_all("plan.json", b""), False),
    "upload records of another type": (put_all("uploads/", b'{"id": [1], "others": 3}'), False),
    "upload records that are none": (put_all("uploads/", DEEP), False),
}


@pytest.mark.parametrize(("damage", "resumes"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_costs_units_or_is_named(
    run: Run, s3: Bucket, models: list[Path], tmp_path: Path, damage: Damage, resumes: bool
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", models, max_shard_size="4kB")
    svc_dist.merge(recipe, tmp_path / "whole", executor="inline", device="cpu")
    with stopping_after(2):
        svc_dist.merge(recipe, f"{s3.url}/out", executor="inline", device="cpu", slots=1)
    put(s3, "out/notes.txt", b"theirs")
    theirs = begin_upload(s3, "out/theirs.safetensors")
    damage(s3)
    status = run("status", f"{s3.url}/out")
    assert status.code in (ExitCode.DONE, ExitCode.INPUT), status.err
    ended = run("merge", recipe, f"{s3.url}/out")
    assert ended.code == (ExitCode.DONE if resumes else ExitCode.INPUT), ended.err
    if not resumes:
        assert "--restart" in ended.err
        ended = run("merge", recipe, f"{s3.url}/out", "--restart")
        assert ended.code == ExitCode.DONE, ended.err
    assert model_hashes(s3, "out") == shard_hashes(tmp_path / "whole")
    assert read(s3, "out/notes.txt") == b"theirs"
    assert theirs in uploads(s3)

"""A merge from S3 to S3: its models and recipe, what it left in the bucket, and what it asked of the server."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
import yaml

import svc_dist
from svc_dist.checkpoint import layout
from svc_dist.plan.model import Plan
from svc_dist.run.session import MergeSummary
from svc_dist.storage.access import Access, ClientOptions
from tests.support.checkpoints import recipe_data, write_checkpoint
from tests.support.command import shard_hashes
from tests.support.fault_proxy import FaultProxy, Request
from tests.support.s3_servers import Bucket, Server

OUTPUT = "merged"
#: With ranges of this size instead of 64 MiB, one tensor of 16 MB is three units of one shard.
MAX_RANGE = 6 << 20
#: Of the recipe of ``write_models``.
KEYS: Mapping[str, Any] = {"parameters": {"weight": 0.4}, "max_shard_size": "150KB"}


def write_models(folder: Path) -> list[Path]:
    """Base and two experts: one tensor that is four units of a shard of its own, and many shards of one unit."""
    models = []
    shapes = {"large": (3900, 2048)} | {f"small.{number}": (200, 160) for number in range(16)}
    for seed, model in enumerate(("base", "expert0", "expert1")):
        random = torch.Generator().manual_seed(seed)
        tensors = {name: torch.randn(shape, generator=random).bfloat16() for name, shape in shapes.items()}
        models.append(write_checkpoint(folder / model, tensors, shards=3, config={"torch_dtype": "bfloat16"}))
    return models


@dataclass(frozen=True)
class Models:
    """Base and experts in a bucket, and the shards that a local merge of them makes, by their hashes.

    ``keys``: of its recipe.
    """

    locations: list[str]
    expected: dict[str, str]
    keys: Mapping[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        return recipe_data(list(self.locations), **self.keys)


@contextmanager
def models_in(
    server: Server,
    folder: Path,
    write: Callable[[Path], list[Path]] = write_models,
    keys: Mapping[str, Any] = KEYS,
    shape: tuple[int, int] = (9, 11),
) -> Iterator[Models]:
    """Write the models into ``folder``, merge them there, and upload them to a bucket of their own.

    ``shape``: how many shards and units there must be.
    """
    folders = write(folder)
    expected = _merged(folders, folder / "out", keys, shape)
    bucket = Bucket(server, f"models-{uuid.uuid4().hex[:12]}")
    server.make_bucket(bucket.name)
    client = bucket.client()
    for file in (file for model in folders for file in sorted(model.iterdir())):
        client.put_object(Bucket=bucket.name, Key=f"{file.parent.name}/{file.name}", Body=file.read_bytes())
    shutil.rmtree(folder)
    yield Models([f"{bucket.url}/{model.name}" for model in folders], expected, keys)
    server.remove_bucket(bucket.name)


def _merged(folders: list[Path], output: Path, keys: Mapping[str, Any], shape: tuple[int, int]) -> dict[str, str]:
    before, layout.MAX_RANGE = layout.MAX_RANGE, MAX_RANGE
    try:
        report = svc_dist.merge(recipe_data(folders, **keys), output, executor="inline")
    finally:
        layout.MAX_RANGE = before
    assert (report.shards, report.units) == shape
    return shard_hashes(output)


@dataclass
class S3Merge:
    """A merge of the models into the prefix ``output`` of a bucket."""

    bucket: Bucket
    models: Models
    output: str = OUTPUT

    @property
    def recipe(self) -> dict[str, Any]:
        return self.models.recipe

    @property
    def url(self) -> str:
        return f"{self.bucket.url}/{self.output}"

    def write_recipe(self, file: Path) -> Path:
        file.write_text(yaml.safe_dump(self.recipe))
        return file

    def run(
        self, endpoint: str | None = None, timeout: float = 20, deadline: float = 60, **options: Any
    ) -> MergeSummary:
        """One start in this process."""
        access = Access({"": ClientOptions(endpoint_url=endpoint)}, timeout=timeout, deadline=deadline)
        return svc_dist.merge(self.recipe, self.url, access=access, executor="inline", **options)

    # What is in the bucket

    def keys(self, prefix: str = "") -> dict[str, tuple[str, Any]]:
        """ETag and time of every object under a prefix of the output, by what follows that prefix."""
        pages = self.bucket.client().get_paginator("list_objects_v2")
        found = {}
        start = f"{self.output}/{prefix}"
        for page in pages.paginate(Bucket=self.bucket.name, Prefix=start):
            for entry in page.get("Contents", []):
                found[entry["Key"][len(start) :]] = (entry["ETag"], entry["LastModified"])
        return found

    def read(self, name: str) -> bytes:
        answer = self.bucket.client().get_object(Bucket=self.bucket.name, Key=f"{self.output}/{name}")
        return bytes(answer["Body"].read())

    def receipts(self) -> dict[str, tuple[str, Any]]:
        """Each unit's receipt: who it is and when it was written."""
        return {name.removesuffix(".json"): version for name, version in self.keys(".svc_dist/receipts/").items()}

    def plan(self) -> Plan:
        return Plan.from_json(self.read(".svc_dist/plan.json").decode())

    def uploads(self) -> dict[str, list[str]]:
        """Uploads in flight in the bucket, by key."""
        found: dict[str, list[str]] = {}
        for page in self.bucket.client().get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket.name):
            for entry in page.get("Uploads", []):
                found.setdefault(entry["Key"], []).append(entry["UploadId"])
        return found

    def report(self) -> dict[str, Any]:
        return dict(json.loads(self.read("merge_report.json")))

    def hashes(self) -> dict[str, str]:
        names = [name for name in self.keys() if name.startswith("model")]
        return {name: hashlib.sha256(self.read(name)).hexdigest() for name in names}

    def require_complete(self, others: Mapping[str, list[str]] | None = None) -> None:
        """The bytes of the local merge, and nothing besides: no run folder, no upload but ``others``."""
        assert self.hashes() == self.models.expected
        assert not [name for name in self.keys() if name.startswith(".svc_dist")]
        assert self.uploads() == (others or {})

    # What was asked of the server

    def parts_sent(self, requests: Iterable[Request]) -> set[tuple[str, int]]:
        """Shard and number of every part that these requests sent."""
        start = f"/{self.bucket.name}/{self.output}/"
        sent = set()
        for request in requests:
            number = re.search(r"(?:^|&)partNumber=(\d+)", request.query)
            if request.method == "PUT" and number is not None:
                sent.add((unquote(request.path).removeprefix(start), int(number[1])))
        return sent

    def parts_of(self, plan: Plan, units: Iterable[str]) -> set[tuple[str, int]]:
        """Shard and number of the parts of some units."""
        return {
            (plan.shards[plan.unit[unit].shard].file, plan.parts[unit][0] + place)
            for unit in units
            for place in range(len(plan.parts[unit][1]))
        }


class Starts:
    """Holds, over several starts of one merge through a proxy, that no unit with a receipt is done again."""

    def __init__(self, merge: S3Merge, proxy: FaultProxy) -> None:
        self.merge, self.proxy = merge, proxy
        self.receipts: dict[str, tuple[str, Any]] = {}
        self._done: set[tuple[str, int]] = set()

    def check(self) -> None:
        """After a start, however it ended, and before the next."""
        again = self.merge.parts_sent(self.proxy.requests) & self._done
        assert not again, f"sent again: {again}"
        self.proxy.forget()
        now = self.merge.receipts()
        there = self.merge.keys()
        if ".svc_dist/plan.json" in there:
            if "model.safetensors.index.json" not in there:
                assert {unit: now.get(unit) for unit in self.receipts} == self.receipts, "a receipt changed"
            self._done |= self.merge.parts_of(self.merge.plan(), now)
        self.receipts = now

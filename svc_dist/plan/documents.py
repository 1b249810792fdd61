"""The plans of several merges, of which later ones use the models of earlier ones: all are planned before any runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from svc_dist.errors import StorageError
from svc_dist.plan.beside import index_text, sidecar_contents
from svc_dist.plan.hub_models import located
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.documents import ResolvedDocument, earlier
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.access import DOCUMENT, Access
from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.retry import Retries


def plan_documents(
    documents: Sequence[ResolvedDocument], settings: Settings, recorded: Sequence[PlannedModel] = ()
) -> list[Plan]:
    """Plan each merge, from the plans of those before it. Raises as ``make_plan``.

    ``recorded``: the models of a run that these merges resume; see ``located``.
    """
    planned: dict[str, PlannedFiles] = {}
    recipes: dict[str | None, ResolvedRecipe] = {}
    plans: list[Plan] = []
    for document in documents:
        recipe = located(document.recipe, recorded).named(
            document.name, [recipes[one.name] for one in earlier(documents, document)]
        )
        access = replace(recipe.access, models={**recipe.access.models, **planned})
        recipe = recipes[document.name] = replace(recipe, access=access)
        plans.append(make_plan(recipe, settings))
        recipes[document.name] = replace(recipe, plain=plans[-1].recipe)
        if document.name is not None:
            planned[document.name] = PlannedFiles(document.name, plans[-1], recipe.access)
    return plans


def document_version(plan: Plan) -> str:
    """What identifies the files of a document's model, before and after they are made: its plan."""
    return f"document:{plan.fingerprint}"


class PlannedFiles(Storage):
    """The files of a model that a plan will make.

    Shards have their headers, and in place of data stand-ins, which are equal for tensors that the plan makes equal: to
    tell tied tensors apart, planning compares samples of them.
    """

    read_only = "it is another document's model"

    def __init__(self, name: str, plan: Plan, access: Access) -> None:
        super().__init__(f"{DOCUMENT}{name}", access)
        self._plan = plan

    def open(self, access: Access) -> Storage:
        return self

    def known(self, file: FileIdentity) -> FileIdentity:
        return file

    def names(self, folder: str = "", recursive: bool = False) -> list[str]:
        prefix = f"{folder.strip('/')}/" if folder else ""
        names = [name.removeprefix(prefix) for name in self._names if name.startswith(prefix)]
        return [name for name in names if recursive or "/" not in name]

    def folders(self) -> list[str]:
        return sorted({name.partition("/")[0] for name in self._names if "/" in name})

    def stat(self, name: str) -> FileIdentity | None:
        shard = self._shards.get(name)
        size = self._plan.shards[shard].size if shard is not None else None
        if size is None and (data := self.get(name)) is not None:
            size = len(data)
        return None if size is None else FileIdentity(name, size, document_version(self._plan))

    def read(self, name: str, start: int = 0, end: int | None = None, retries: Retries | None = None) -> bytes:
        if name in self._shards:
            shard = self._shards[name]
            return self._shard(shard, start, self._plan.shards[shard].size if end is None else end)
        data = self.get(name)
        if data is None:
            raise StorageError(f"{self.url(name)}: the model will have no such file")
        return data[start:end]

    def _shard(self, number: int, start: int, end: int) -> bytes:
        pieces = [self._plan.header(number)[start:end]]
        for tensor in self._plan.shard_tensors[number]:
            first, last = max(start, tensor.start), min(end, tensor.end)
            if first < last:
                stand_in = hashlib.sha256((tensor.tied_to or tensor.name).encode()).digest()
                offset = (first - tensor.start) % len(stand_in)
                repeated = stand_in * ((last - first + offset) // len(stand_in) + 1)
                pieces.append(repeated[offset : offset + last - first])
        return b"".join(pieces)

    def get(self, name: str) -> bytes | None:
        if name not in self._contents:
            if name == self._plan.index_file:
                self._contents[name] = index_text(self._plan).encode()
            for sidecar in self._plan.sidecars:
                if sidecar.name == name:
                    self._contents[name] = sidecar_contents(self._plan, self.access, [sidecar])[0][1]
        return self._contents.get(name)

    def require_unchanged(self, file: FileIdentity) -> None:
        """A plan does not change."""

    def put(self, name: str, data: bytes) -> None:
        raise StorageError(f"{self.location}: {self.read_only}")

    def delete(self, name: str) -> None:
        raise StorageError(f"{self.location}: {self.read_only}")

    @cached_property
    def _shards(self) -> dict[str, int]:
        return {self._plan.shard_file(number): number for number in range(self._plan.count)}

    @cached_property
    def _names(self) -> list[str]:
        beside = (sidecar.name for sidecar in self._plan.sidecars)
        return sorted({*self._shards, *beside, self._plan.index_file})

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        return {}

"""The documents of a run: several merges in one output, of which later ones read the models of earlier ones.

The run folder holds ``documents.json``, the plans in short, and ``documents/``: the models that do not stay, each in a
folder with a run folder of its own, and the identities of the files of each model that later documents read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from svc_dist.errors import ChangedInputError, DamagedInputError, StorageError
from svc_dist.methods.auto.choice import AutoChoice
from svc_dist.plan.documents import document_version
from svc_dist.plan.files.sidecars import Sidecar
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.documents import ResolvedDocument
from svc_dist.run_folder.journal import DOCUMENTS_FILE, RUN_FOLDER
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed, recorded_settings
from svc_dist.storage.access import DOCUMENT, Access
from svc_dist.storage.base import IN_PARALLEL, FileIdentity, Storage
from svc_dist.storage.landing import Target
from svc_dist.storage.open import open_storage
from svc_dist.storage.retry import Retries

_FOLDER = "documents"
_LARGEST = 1 << 30  # bytes of a record that are read


@dataclass(frozen=True)
class DocumentRecord:
    """One document as it was planned when the run was created. ``result``: whether its model stays."""

    name: str | None
    result: bool
    uses: tuple[str, ...]
    fingerprint: str
    units: int
    work: float
    bytes_out: int
    recipe: dict[str, Any]
    settings: Settings
    methods: dict[str, int]
    models: tuple[PlannedModel, ...]
    sidecars: tuple[Sidecar, ...]
    chat_template: str | None
    auto: AutoChoice | None = None

    @classmethod
    def of(cls, document: ResolvedDocument, plan: Plan) -> DocumentRecord:
        return cls(
            name=document.name,
            result=document.result,
            uses=document.uses,
            fingerprint=plan.fingerprint,
            units=len(plan.units),
            work=sum(unit.work for unit in plan.units),
            bytes_out=plan.bytes_out,
            recipe=plan.recipe,
            settings=plan.settings,
            methods=plan.methods,
            models=plan.models,
            sidecars=plan.sidecars,
            chat_template=plan.chat_template,
            auto=plan.auto,
        )

    def output(self, whole: Output, access: Access | None = None) -> Output:
        """Where its model is made."""
        return document_output(whole, self.name, self.result, access)


# Made once, by the thread that imports this: msgspec crashes where several threads decode a type for the first time.
_DOCUMENTS = msgspec.json.Decoder(tuple[DocumentRecord, ...])
_FILES = msgspec.json.Decoder(list[FileIdentity])


def document_output(whole: Output, name: str | None, result: bool, access: Access | None = None) -> Output:
    """Where the model of a document is made: in OUTPUT, in a folder there, or in the run folder if it does not stay."""
    folder = "" if name is None else f"/{name}" if result else f"/{RUN_FOLDER}/{_FOLDER}/{_file(name)}"
    return Output(f"{whole.location}{folder}", access or whole.access, whole.reading)


def recorded_documents(whole: Output) -> tuple[DocumentRecord, ...] | None:
    """The documents of the run in an output; None where there is none, or it is one merge. Raises DamagedInputError."""
    data = whole.journal.storage.get_within(DOCUMENTS_FILE, _LARGEST)
    try:
        return None if data is None else _DOCUMENTS.decode(data)
    except (ValueError, RecursionError) as error:
        raise DamagedInputError(
            f"the run folder's {DOCUMENTS_FILE} cannot be read ({error})",
            "it was made by another release or damaged; start over with --restart",
        ) from None


def settings_of_run(output: Output) -> Settings | None:
    """The settings of the run in an output, of one or several merges; None where there is none."""
    records = recorded_documents(output)
    return records[0].settings if records else recorded_settings(output)


def record_documents(whole: Output, records: Sequence[DocumentRecord]) -> None:
    whole.journal.storage.put(DOCUMENTS_FILE, msgspec.json.encode(records))


def pending(whole: Output, records: Sequence[DocumentRecord]) -> list[DocumentRecord]:
    """The documents that are left to do, in order: results that are not complete, and what these need."""
    needed: set[str] = set()
    left: list[DocumentRecord] = []
    for record in reversed(records):
        if (record.result or record.name in needed) and not _is_made(whole, record):
            needed |= set(record.uses)
            left.append(record)
    return left[::-1]


def _is_made(whole: Output, record: DocumentRecord) -> bool:
    made = completed(record.output(whole))
    return made is not None and made.fingerprint == record.fingerprint


def remove_unneeded(whole: Output, records: Sequence[DocumentRecord], left: Sequence[DocumentRecord]) -> None:
    """Remove the models that do not stay and that no document which is ``left`` to do makes or reads."""
    needed = {name for record in left for name in (record.name, *record.uses)}
    for record in records:
        if not record.result and record.name not in needed:
            record.output(whole).storage.clear()
            whole.journal.storage.delete(_made_file(record))


def inner_outputs(whole: Output) -> list[Output]:
    """The outputs in the run folder, whether ``documents.json`` can be read or not."""
    folder = whole.journal.storage.sub(_FOLDER)
    names = {name.partition("/")[0] for name in folder.names(recursive=True) if "/" in name}
    if folder.path is not None and folder.path.is_dir():  # of a model that has just begun, there may be no file
        names |= {entry.name for entry in folder.path.iterdir() if entry.is_dir()}
    return [Output(f"{folder.location}/{name}", whole.access) for name in sorted(names)]


def made_model(whole: Output, record: DocumentRecord, plan: Plan) -> MadeModel:
    """The model of a document that is complete, with the identities of its files, which are recorded the first time.

    Raises ChangedInputError where they are no longer the recorded ones.
    """
    output = record.output(whole)
    names = [*(shard.file for shard in plan.shards), *(one.name for one in plan.sidecars), plan.index_file]
    with ThreadPoolExecutor(IN_PARALLEL) as pool:
        files = [one for one in pool.map(output.storage.stat, names) if one is not None]
    known: list[FileIdentity] | None = None
    with contextlib.suppress(ValueError, DamagedInputError):
        data = whole.journal.storage.get_within(_made_file(record), _LARGEST)
        known = None if data is None else _FILES.decode(data)
    if len(files) < len(names) or (known is not None and known != files):
        gone = [name for name in names if name not in {file.name for file in files}]
        changed = [one.name for one, other in zip(files, known or files, strict=False) if one != other]
        raise ChangedInputError(
            f"{output.location}/{(gone or changed)[0]} {'is gone' if gone else 'changed'} since the document "
            f"'{record.name}' was merged, and a later document reads it",
            "put the file back, or start over with --restart",
        )
    if known is None:
        whole.journal.storage.put(_made_file(record), msgspec.json.encode(files))
    return MadeModel(record.name or "", output.location, document_version(plan), tuple(files))


@dataclass(frozen=True)
class MadeModel:
    """The model of a merged document. ``version``: that of its files in plans; ``files``: their identities."""

    name: str
    location: str
    version: str
    files: tuple[FileIdentity, ...]

    def open(self, access: Access) -> Storage:
        return MadeFiles(self, access)

    def known(self, file: FileIdentity) -> FileIdentity:
        ours = (one for one in self.files if one.name == file.name and file.version == self.version)
        return next(ours, file)


class MadeFiles(Storage):
    """The files of the model of a merged document. Plans identify them by the plan that makes them."""

    read_only = "it is another document's model"

    def __init__(self, model: MadeModel, access: Access) -> None:
        super().__init__(f"{DOCUMENT}{model.name}", access)
        self._model, self._storage = model, open_storage(model.location, access)
        self.path, self.pinned_reads = self._storage.path, self._storage.pinned_reads

    def names(self, folder: str = "", recursive: bool = False) -> list[str]:
        return self._storage.names(folder, recursive)

    def folders(self) -> list[str]:
        return self._storage.folders()

    def stat(self, name: str) -> FileIdentity | None:
        found = self._storage.stat(name)
        ours = found is not None and found in self._model.files
        return FileIdentity(name, found.size, self._model.version) if ours and found is not None else found

    def read(self, name: str, start: int = 0, end: int | None = None, retries: Retries | None = None) -> bytes:
        return self._storage.read(name, start, end, retries)

    def read_pinned(self, file: FileIdentity, start: int, end: int) -> bytes:
        return self._storage.read_pinned(self._model.known(file), start, end)

    def require_unchanged(self, file: FileIdentity) -> None:
        self._storage.require_unchanged(self._model.known(file))

    def fetch(self, file: FileIdentity, start: int, end: int, target: Target, retries: Retries) -> None:
        self._storage.fetch(self._model.known(file), start, end, target, retries)

    def get(self, name: str) -> bytes | None:
        return self._storage.get(name)

    def put(self, name: str, data: bytes) -> None:
        raise StorageError(f"{self.location}: {self.read_only}")

    def delete(self, name: str) -> None:
        raise StorageError(f"{self.location}: {self.read_only}")


def models_of(records: Iterable[DocumentRecord]) -> tuple[PlannedModel, ...]:
    """The models of all documents."""
    return tuple(model for record in records for model in record.models)


def _made_file(record: DocumentRecord) -> str:
    return f"{_FOLDER}/{_file(record.name or '')}.json"


def _file(name: str) -> str:
    return quote(name, safe=" ")

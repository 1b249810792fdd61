"""The sink for an output, by what its storage can do."""

from __future__ import annotations

from svc_dist.storage.base import Storage
from svc_dist.storage.writing.base import Sink
from svc_dist.storage.writing.local import LocalSink
from svc_dist.storage.writing.s3 import S3Sink
from svc_dist.storage.writing.staged import StagedSink


def open_sink(output: Storage, run_folder: Storage, fingerprint: str) -> Sink:
    """Where the shards of the plan with this fingerprint are written."""
    if output.path is not None and run_folder.path is not None:
        return LocalSink(output.path, run_folder.path / "partial")
    if output.multipart is not None:
        return S3Sink(output.multipart, output.location, run_folder, fingerprint)
    return StagedSink(output, run_folder, fingerprint)

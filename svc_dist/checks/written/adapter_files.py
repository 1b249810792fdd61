"""An adapter that a merge wrote, seen as a checkpoint, and compared with its base."""

from __future__ import annotations

from dataclasses import replace

from svc_dist.checkpoint.adapters.adapter import Adapter, OpenedModel, attach, open_adapter
from svc_dist.checkpoint.checkpoint import ADAPTER_FILE, Checkpoint, open_checkpoint, open_file
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.errors import SvcDistError
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.tensors.alias_groups import alias_groups, with_absent_heads
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage


def open_written(location: str, access: Access) -> tuple[Adapter, Checkpoint]:
    """An adapter, and its tensors by the names in its file.

    Raises DamagedInputError unless configuration and tensors agree, StorageError.
    """
    adapter = open_adapter(location, access)
    identity, tensors = open_file(open_storage(location, access), ADAPTER_FILE)
    return adapter, Checkpoint(location, (identity,), tensors, None)


def base_problem(adapter: Adapter, base: PlannedModel, access: Access) -> str | None:
    """Why an adapter does not fit its base; None where each of its tensors has one of its shape there.

    Raises SvcDistError where the base cannot be opened.
    """
    model = decoded_checkpoint(open_checkpoint(base.location, access), access)
    model = _with_heads(model.renamed(base.renames))
    try:
        attach(OpenedModel(adapter.location, None, adapter), model)
    except SvcDistError as error:
        return error.message
    for name, spec in adapter.saved.items():
        if name not in model.tensors or model.tensors[name].shape != spec.shape:
            return f"{spec.name} has no tensor of its shape in {base.location}"
    return None


def _with_heads(base: Checkpoint) -> Checkpoint:
    """A base with the output heads that it does not store, because they are the embedding."""
    shapes = {name: spec.shape for name, spec in base.tensors.items()}
    groups = with_absent_heads(alias_groups(shapes), shapes, base.config)
    heads = {one.head: base.tensors[one.names[0]] for one in groups if one.head is not None and one.head not in shapes}
    return replace(base, tensors={**base.tensors, **heads})

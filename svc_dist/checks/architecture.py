"""Models as transformers loads them: from local files, by safetensors, without running a checkpoint's own code."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from svc_dist.checkpoint.checkpoint import CONFIG, Checkpoint
from svc_dist.checkpoint.formats.declarations import without_declarations
from svc_dist.checkpoint.header import render_header
from svc_dist.checkpoint.weight_files import SINGLE_FILE

_SHOWN = 5
#: How every loader of transformers is called.
RULE = {"local_files_only": True, "trust_remote_code": False}


def read_config(folder: str) -> Any:
    """The config of a model. Raises what transformers raises on a config that it cannot read."""
    import transformers

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    return transformers.AutoConfig.from_pretrained(folder, **RULE)


def load(kind: Any, folder: str, device_map: str) -> tuple[Any, list[str], list[str]]:
    """A model of class ``kind``; which of its weights are missing or misshapen; which stored tensors it does not use.

    ``device_map``: ``auto`` spreads the model over the available devices, ``meta`` reads no weights.
    """
    model, info = kind.from_pretrained(
        folder, **RULE, use_safetensors=True, device_map=device_map, dtype="auto", ignore_mismatched_sizes=True,
        output_loading_info=True,
    )  # fmt: skip
    wrong = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    wrong += [
        f"{name} has shape {list(stored)}, not {list(shape)}" for name, stored, shape in sorted(info["mismatched_keys"])
    ]
    return model, wrong, [f"{name} is not part of the architecture" for name in sorted(info["unexpected_keys"])]


@contextmanager
def shapes_of(folder: str, model: Checkpoint) -> Iterator[str]:
    """A folder from which ``load`` may read names and shapes, but no weights.

    Of a ``model`` that stores weights in codes it is a temporary one: a file of holes where the weights would be, and a
    config that is not quantised. Loading codes takes libraries and devices that are not here.
    """
    if not any(spec.codec is not None for spec in model.tensors.values()):
        yield folder
        return
    with tempfile.TemporaryDirectory() as holes:
        specs = sorted(model.tensors.values(), key=lambda spec: -spec.nbytes // max(spec.numel, 1))
        header = render_header((spec.name, spec.dtype, spec.shape) for spec in specs)
        with (Path(holes) / SINGLE_FILE).open("wb") as file:
            file.write(header)
            file.truncate(len(header) + sum(spec.nbytes for spec in specs))
        (Path(holes) / CONFIG).write_text(json.dumps(without_declarations(model.config or {})))
        yield holes


def summarised(problems: list[str]) -> str:
    """The first few of many problems."""
    return "; ".join(problems[:_SHOWN]) + (" ..." if len(problems) > _SHOWN else "")


def reason_of(error: Exception) -> str:
    """The first line of an error of transformers, whose messages can have many."""
    return next(iter(str(error).splitlines()), type(error).__name__)

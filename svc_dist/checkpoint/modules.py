"""The modules of a sentence-transformers model: sub-folders that ``modules.json`` names, some with weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath

from svc_dist.checkpoint.placeholder import refuse_placeholder
from svc_dist.checkpoint.weight_files import SINGLE_FILE
from svc_dist.errors import DamagedInputError
from svc_dist.storage.base import Storage

MODULES = "modules.json"
_WEIGHTS = (".safetensors", ".bin", ".safetensors.index.json")


def module_folders(folder: Storage, names: Sequence[str]) -> list[str]:
    """The sub-folders of a model's modules; none where it has no modules. Raises DamagedInputError."""
    if MODULES not in names:
        return []
    where = f"{folder.location}/{MODULES}"
    text = folder.read(MODULES)
    refuse_placeholder(text, where)
    try:
        paths = [str(module["path"]) for module in json.loads(text)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedInputError(f"{where}: not a list of modules: {error!r}", "download the model again") from None
    if any(".." in PurePosixPath(path).parts or path.startswith("/") or "\\" in path for path in paths):
        raise DamagedInputError(f"{where}: a module lies outside the model's folder")
    return list(dict.fromkeys(path.strip("/") for path in paths if path.strip("/")))


def module_weights(folder: Storage, names: Sequence[str]) -> list[str]:
    """The files with the weights of a model's modules, such as ``2_Dense/model.safetensors``.

    Raises DamagedInputError for weights that cannot be read.
    """
    found = []
    for module in module_folders(folder, names):
        weights = [name for name in folder.names(module) if name.endswith(_WEIGHTS)]
        if SINGLE_FILE in weights:
            found.append(f"{module}/{SINGLE_FILE}")
        elif weights:
            raise DamagedInputError(
                f"{folder.location}/{module}: a module's weights in {weights[0]}, not in {SINGLE_FILE}",
                "convert it where you trust it: SentenceTransformer(path).save_pretrained(new_path)",
            )
    return found

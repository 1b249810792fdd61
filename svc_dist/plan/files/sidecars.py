"""Sidecars: files beside the weights that loaders need (config, tokenizer, chat templates, processors, code, licences).

The plan has the source and the identity of each, its fingerprint covers them, and planning parses JSON that a loader
reads.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from svc_dist.checkpoint.checkpoint import ADAPTER_CONFIG
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.formats.declarations import FILES as QUANTISATION_FILES
from svc_dist.checkpoint.formats.declarations import without_declarations
from svc_dist.checkpoint.header import json_object
from svc_dist.checkpoint.modules import MODULES, module_folders
from svc_dist.checkpoint.placeholder import HEAD, refuse_placeholder
from svc_dist.checkpoint.tokenizer import (
    CONFIG_FILE,
    TEMPLATE_CONFIGS,
    TEMPLATE_FILE,
    TEMPLATES_FOLDER,
    default_template,
    is_tokenizer_file,
    with_template,
)
from svc_dist.checkpoint.weight_files import is_index
from svc_dist.errors import DamagedInputError, RecipeError
from svc_dist.plan.files.layers import with_values
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.tensors.alias_groups import with_tied
from svc_dist.plan.vocabulary.added_tokens import LISTS, AddedToken, with_tokens
from svc_dist.plan.vocabulary.vocabularies import with_vocab_size
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.sizes import format_size
from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.open import open_storage

#: A larger file is not copied: loaders need none of this size beside the weights.
LARGEST = 200 * 2**20
#: Larger JSON files (vocabularies) are not parsed, for fast planning.
_PARSED = 2**20
_TOGETHER = 16
_ENDINGS = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".spm", ".vocab", ".bpe")
_NAMES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
#: Sub-folders that loaders read: chat templates, and code of a model's own way to generate.
_FOLDERS = (TEMPLATES_FOLDER, "custom_generate")
_REPLACED = ("README.md", "merge_recipe.yaml", "merge_report.json", "merge_outputs.json")
_TRAINING = ("optimizer", "scheduler", "rng_state", "trainer_state", "training_args", "scaler.pt", "global_step")
_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack",
    ".npz", ".tflite", ".index.json",
)  # fmt: skip


@dataclass(frozen=True)
class Sidecar:
    """A file beside the weights of each result.

    ``name``: its path in the result and in the folder of the model ``source`` (0: the base); ``identity``: of the file
    there, None for text in the plan. ``rewrite``: ``dtype`` sets a config's dtype, ``template`` a tokenizer config's
    chat template; ``text`` writes the plan's chat template. ``dequantised``: a config without the keys that say that
    the model is quantised. ``tied``, ``vocab_size``: the value of ``tie_word_embeddings`` and the number of rows of the
    vocabulary in a config, None for its own. ``more_tokens``: a tokenizer's file with the plan's added tokens.
    ``elsewhere``: the location in place of the source's, of a tokenizer whose model is not merged.
    ``values``: what other keys of a config get, by their paths, like ``text_config.num_hidden_layers``.
    """

    name: str
    source: int
    identity: FileIdentity | None
    rewrite: Literal["none", "dtype", "template", "text", "adapter"]
    dequantised: bool
    tied: bool | None
    vocab_size: int | None
    more_tokens: bool
    elsewhere: str | None
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """A file beside a model's weights that the merge does not copy, and why. ``needed``: a loader may need it."""

    location: str
    name: str
    reason: str
    needed: bool = False


def sidecars(
    recipe: ResolvedRecipe,
    models: Sequence[PlannedModel],
    tokenizer: int,
    template: str | None,
    dequantised: bool = False,
    tied: bool | None = None,
    vocab_size: int | None = None,
    more_tokens: bool = False,
    values: Mapping[str, Any] | None = None,
) -> tuple[tuple[Sidecar, ...], tuple[LeftOut, ...]]:
    """The files that the merge copies beside the weights, and those that it leaves out.

    ``models``: the base first; ``tokenizer``: the number of the model whose tokenizer is copied; ``template``: a chat
    template in place of that tokenizer's; ``dequantised``: the config says that the model is quantised, and what is
    written is not; ``tied``, ``vocab_size``: what the config must say about the output head and the rows of the
    vocabulary; ``values``: about other keys; ``more_tokens``: the tokenizer gets added tokens. Raises RecipeError for a
    ``config_source`` without a config, DamagedInputError for a file that its loader cannot read, StorageError.
    """
    config, other = recipe.config_source or 0, recipe.tokenizer.other
    models = models if other is None else [*models, PlannedModel(other, ())]
    copied: list[Sidecar] = []
    left_out: list[LeftOut] = []
    for number in dict.fromkeys((config, tokenizer)):
        storage = open_storage(models[number].location, recipe.access)
        names = storage.names()
        if number == config and recipe.config_source is not None and "config.json" not in names:
            raise RecipeError(
                f"{recipe.origin.at('config_source')}: {storage.location} has no config.json (an adapter has none)",
                "name a whole model",
                code="config-missing",
            )
        merged = {file.name for file in models[number].files}
        names = [
            name
            for name in _with_sub_folders(storage, names)
            if (tokenizer if is_tokenizer_file(name) else config) == number
            and name not in merged
            and not name.startswith(".")
            and not (template is not None and name == TEMPLATE_FILE)
        ]
        if number == config:
            read = {name.partition("/")[0] for name in (*names, *merged) if "/" in name} | set(_FOLDERS)
            reason = "not a folder that loaders of the model need"
            others = [one for one in storage.folders() if one not in read and not one.startswith(".")]
            left_out += [LeftOut(storage.location, f"{one}/", reason) for one in others]
        planning = functools.partial(_planned, storage, source=number, dtype=recipe.dtype, template=template)
        with ThreadPoolExecutor(_TOGETHER) as pool:
            for one in pool.map(planning, names):
                if dequantised and isinstance(one, Sidecar) and one.name in QUANTISATION_FILES:
                    one = LeftOut(storage.location, one.name, "the merged model is not quantised")
                if isinstance(one, Sidecar):
                    if one.name == "config.json":
                        one = replace(one, dequantised=dequantised, tied=tied, vocab_size=vocab_size)
                        one = replace(one, values=dict(values or {}))
                    copied.append(replace(one, more_tokens=more_tokens and one.name in LISTS))
                elif one is not None:
                    left_out.append(one)
    if other is not None:
        copied = [replace(one, source=0, elsewhere=other) if one.source == tokenizer else one for one in copied]
    if template is not None:
        copied.append(Sidecar(TEMPLATE_FILE, 0 if other else tokenizer, None, "text", False, None, None, False, other))
    return tuple(sorted(copied, key=lambda one: one.name)), tuple(left_out)


def planned_files(storage: Storage, names: Sequence[str], source: int) -> list[Sidecar | LeftOut]:
    """The plans for some files of model ``source``, copied as they are."""
    with ThreadPoolExecutor(_TOGETHER) as pool:
        planned = pool.map(lambda name: _planned(storage, name, source, None, None), names)
        return [one for one in planned if one is not None]


def content(
    sidecar: Sidecar, storage: Storage, dtype: str | None, template: str | None, tokens: Sequence[AddedToken] = ()
) -> bytes:
    """The content of a sidecar in a result. ``storage``: of its source; ``dtype``: None for the config's own;
    ``tokens``: the plan's added tokens.

    Raises ChangedInputError when the file is not the planned one.
    """
    if sidecar.identity is None:
        return (template or "").encode()
    data = _read(storage, sidecar.identity)
    if sidecar.dequantised:
        data = json_text(without_declarations(json.loads(data)))
    if sidecar.values:
        data = json_text(with_values(json.loads(data), sidecar.values))
    if sidecar.tied is not None:
        data = json_text(with_tied(json.loads(data), sidecar.tied))
    if sidecar.vocab_size is not None:
        data = json_text(with_vocab_size(json.loads(data), sidecar.vocab_size))
    if sidecar.more_tokens:
        data = with_tokens(sidecar.name, data, tokens)
    if sidecar.rewrite == "template" and template is not None:
        return with_template(data, template)
    return _with_dtype(data, dtype) if sidecar.rewrite == "dtype" and dtype is not None else data


def _with_sub_folders(storage: Storage, names: Sequence[str]) -> list[str]:
    """The names in a model's folder and in those of its sub-folders that loaders read."""
    folders = [*_FOLDERS, *module_folders(storage, names)]
    inner = (f"{folder}/{name}" for folder in folders for name in storage.names(folder, recursive=True))
    return list(dict.fromkeys([*names, *inner]))


def _reason(name: str) -> str | None:
    """Why a file is not copied; None where it is."""
    last = name.rpartition("/")[2]
    if name in _REPLACED or is_index(name):
        return "the merge writes its own"
    if last == ADAPTER_CONFIG:
        return "of an adapter beside the model"
    if last.startswith(_TRAINING):
        return "training state"
    if last.endswith(_WEIGHTS):
        return "weights that are not merged"
    return None if last.endswith(_ENDINGS) or last.split(".")[0] in _NAMES else "not needed by loaders"


def _planned(
    storage: Storage, name: str, source: int, dtype: str | None, template: str | None
) -> Sidecar | LeftOut | None:
    """The plan for a file; None if it was deleted after the listing."""
    last = name.rpartition("/")[2]
    if (reason := _reason(name)) is not None:
        return LeftOut(storage.location, name, reason, needed="/" in name and not last.endswith(_WEIGHTS))
    identity = storage.stat(name)
    if identity is None:
        return None
    if identity.size > LARGEST:
        reason = f"{format_size(identity.size)}, larger than {format_size(LARGEST)}"
        return LeftOut(storage.location, name, reason, needed=True)
    where = storage.url(name)
    try:
        refuse_placeholder(storage.read_pinned(identity, 0, min(identity.size, HEAD)), where)
    except DamagedInputError as error:
        if last.split(".")[0] not in _NAMES:
            raise
        return LeftOut(storage.location, name, error.message.removeprefix(f"{where}: "), needed=True)
    if last.endswith(".json") and (identity.size <= _PARSED or last.endswith("config.json")):
        required = last.endswith("config.json") or last == MODULES or is_tokenizer_file(name)
        try:
            _require_json(_read(storage, identity), where, last)
        except DamagedInputError as error:
            if required:
                raise DamagedInputError(error.message, error.hint or "download the file again, or repair it") from None
            return LeftOut(storage.location, name, "not valid JSON")
    if name == "config.json" and dtype is not None:
        return Sidecar(name, source, identity, "dtype", False, None, None, False, None)
    if name == CONFIG_FILE and template is not None:
        return Sidecar(name, source, identity, "template", False, None, None, False, None)
    return Sidecar(name, source, identity, "none", False, None, None, False, None)


def _require_json(data: bytes, where: str, name: str) -> None:
    if name in TEMPLATE_CONFIGS:
        default_template(json_object(data, where), where)
    elif name.endswith("config.json"):
        json_object(data, where)
    else:
        try:
            json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DamagedInputError(f"{where}: not valid JSON: {error}") from None


def _read(storage: Storage, identity: FileIdentity) -> bytes:
    """A whole file. Raises ChangedInputError when it no longer has this identity."""
    data = storage.read_pinned(identity, 0, identity.size)
    storage.require_unchanged(identity)
    return data


def _with_dtype(data: bytes, dtype: str) -> bytes:
    """A config with another dtype, in its sections too."""
    config = json.loads(data)
    nested = [value for key, value in config.items() if key.endswith("_config") and isinstance(value, dict)]
    named = [
        (section, key)
        for section in (config, *nested)
        for key in ("dtype", "torch_dtype")
        if section.get(key) in FLOAT_DTYPES.values()
    ]
    for section, key in named or [(config, "dtype")]:
        section[key] = dtype
    return json_text(config)


def json_text(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()

"""Folders that hold no safetensors model: what they are, and how to make a model of them."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from svc_dist.errors import DamagedInputError, RecipeError, StorageError, SvcDistError
from svc_dist.storage.base import Storage

_PICKLED = "reading a pickle can run any code: refused"
#: A pattern of file names; what a folder with such a file is; how to make a safetensors model of it.
_KINDS = tuple(
    (re.compile(pattern), what, hint)
    for pattern, what, hint in (
        (
            r".+\.distcp|\.metadata",
            "a checkpoint of torch.distributed (DCP, FSDP)",
            "make a model of it first, where you trust it:\n"
            "  python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR out.pt\n"
            "  mkdir -p new_path\n"
            "  python -c \"import torch; from safetensors.torch import save_file; s = torch.load('out.pt'); "
            "s = s.get('app', s); s = s.get('model', s); save_file({k: v.clone() for k, v in s.items() if "
            "torch.is_tensor(v)}, 'new_path/model.safetensors', {'format': 'pt'})\"\n"
            "  then copy config.json and the tokenizer into new_path; of a folder that holds nothing but the model, "
            "`accelerate merge-weights DIR new_path` does all of it",
        ),
        (
            r"model_world_size_\d+_rank_\d+\.pt|fsdp_config\.json",
            "a checkpoint of verl (FSDP shards of a trainer)",
            "make a model of it first: python -m verl.model_merger merge --backend fsdp --local_dir DIR "
            "--target_dir new_path",
        ),
        (
            r"zero_pp_rank_.+|mp_rank_\d+_model_states\.pt|bf16_zero_pp_rank_.+|zero_to_fp32\.py",
            "a checkpoint of DeepSpeed (ZeRO)",
            "make a model of it first: python zero_to_fp32.py . new_path --safe_serialization",
        ),
        (
            r"latest_checkpointed_iteration\.txt|model_optim_rng\.pt|model_rng\.pt",
            "a checkpoint of Megatron",
            "convert it to the Hugging Face format first (tools of Megatron-LM, Megatron-Bridge or NeMo)",
        ),
        (r".+\.nemo", "a NeMo archive", "convert it to the Hugging Face format first (NeMo's export scripts)"),
        (
            r".+\.(gguf|ggml)",
            "a GGUF model (llama.cpp)",
            "merge the safetensors model that it was converted from, then convert the result: "
            "python convert_hf_to_gguf.py new_path",
        ),
        (
            r"flax_model.*\.msgpack(\.index\.json)?",
            "a Flax model",
            "convert it first: AutoModel.from_pretrained(path, from_flax=True).save_pretrained(new_path), in a "
            "transformers below 5",
        ),
        (
            r"tf_model.*\.h5(\.index\.json)?|saved_model\.pb|.+\.data-\d+-of-\d+|.+\.ckpt\.(index|meta)",
            "a TensorFlow model",
            "convert it first: AutoModel.from_pretrained(path, from_tf=True).save_pretrained(new_path), in a "
            "transformers below 5",
        ),
        (r".+\.onnx(_data)?", "an ONNX model", "merge the safetensors model that it was exported from"),
        (r"openvino_model\.(bin|xml)", "an OpenVINO model", "merge the safetensors model that it was exported from"),
        (r".+\.(engine|plan|trt)", "a TensorRT engine", "merge the safetensors model that it was built from"),
        (r".+\.(keras|h5|tflite)", "a Keras or TensorFlow Lite model", "convert it to the Hugging Face format first"),
        (r".+\.(npz|npy)", "weights as NumPy arrays", "convert them to safetensors first: safetensors.numpy.save_file"),
        (
            r"model_index\.json",
            "a pipeline of diffusers: a model in each sub-folder",
            "merge its components one by one: name the sub-folder (transformer, unet, vae, text_encoder, ...)",
        ),
        (
            r".+\.(bin|pt|pth|ckpt|pkl|pickle)(\.index\.json)?",
            "only pickled weights",
            "convert it where you trust it: AutoModel.from_pretrained(path).save_pretrained(new_path)",
        ),
    )
)
_SUB_FOLDERS = 200  # that are looked into, for one that holds the model


def refuse_foreign(folder: Storage, names: Sequence[str]) -> DamagedInputError:
    """The error for a folder with files, ``names``, but no safetensors model: what it is, and what to do."""
    for pattern, what, hint in _KINDS:
        name = next((name for name in _every_name(folder, names) if pattern.fullmatch(name)), None)
        if name is not None:
            pickled = f"; {_PICKLED}" if what == "only pickled weights" else ""
            where = shlex.quote(folder.location)
            return DamagedInputError(f"{folder.location}: {what} ({name}){pickled}", hint.replace("DIR", where))
    shards = next((one for one in folder.folders() if one.startswith("pytorch_model_fsdp")), None)
    if shards is not None:
        return refuse_foreign(folder.sub(shards), ["__0_0.distcp"])
    return DamagedInputError(
        f"{folder.location}: no safetensors file", _inner(folder) or "check the path or URL in the recipe"
    )


def missing_folder(folder: Storage, where: str = "") -> SvcDistError | None:
    """The error for a path on a mounted file system that is not a folder; None for a folder, or a remote location.

    ``where`` says where the recipe names it.
    """
    path = folder.path
    if path is None or path.is_dir():
        return None
    where = f"{where}: " if where else ""
    if path.is_file():
        hint = f"name its folder: {path.parent}"
        if path.suffix == ".gguf":
            hint = next(hint for pattern, _, hint in _KINDS if pattern.fullmatch(path.name))
        return RecipeError(f"{where}{path}: a file, but a model is a folder", hint, code="no-such-model")
    return RecipeError(f"{where}{path}: no such folder", _near(path), code="no-such-model")


def empty_folder(folder: Storage) -> SvcDistError:
    """The error for a folder or prefix without files."""
    if (hint := _inner(folder)) is not None:
        return RecipeError(f"{folder.location}: no such model: only sub-folders are there", hint, code="no-such-model")
    return StorageError(
        f"{folder.location}: no such model: nothing is there",
        "check the path or URL in the recipe; a model on a hub is written hf://owner/name",
        code="no-such-model",
    )


def _every_name(folder: Storage, names: Sequence[str]) -> list[str]:
    """The names, on a mounted file system hidden ones too."""
    if folder.path is None:
        return list(names)
    try:
        return [*names, *sorted(path.name for path in folder.path.iterdir() if path.name.startswith("."))]
    except OSError:
        return list(names)


def _inner(folder: Storage) -> str | None:
    """The sub-folders of a folder on a mounted file system that may be meant in its place."""
    if folder.path is None:
        return None
    try:
        inside = sorted(entry for entry in folder.path.iterdir() if entry.is_dir())[:_SUB_FOLDERS]
        if folder.path.name.startswith("models--") and (folder.path / "snapshots").is_dir():  # of the hub's cache
            inside = sorted((folder.path / "snapshots").iterdir())
        models = [each for each in inside if any(each.glob("*.safetensors"))]
        training = [
            each for each in inside if each.name.startswith(("actor", "model", "checkpoint", "iter_", "global_"))
        ]
    except OSError:
        return None
    if models:
        more = f" (or another of {len(models)} sub-folders with models)" if len(models) > 1 else ""
        return f"name the sub-folder that holds the model: {models[-1]}{more}"
    if training:
        return f"this may be a trainer's folder: look into {training[0]}, and convert what it holds to safetensors"
    return None


def _near(path: Path) -> str:
    """Names beside a missing path that are like it."""
    existing = next((parent for parent in path.parents if parent.is_dir()), None)
    if existing is None:
        return "check the path in the recipe"
    wanted = path.relative_to(existing).parts[0]
    try:
        names = sorted(entry.name for entry in existing.iterdir() if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        names = []
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(str(existing / name) for name in close)}?"
    if path.parent == existing:
        return f"{existing} holds {', '.join(names[:5]) or 'no folder'}{', ...' if len(names) > 5 else ''}; " + (
            "a model on a hub is written hf://owner/name"
        )
    return f"{existing} has no folder {wanted}; a model on a hub is written hf://owner/name"

"""Models as transformers loads them: from local files, by safetensors, without running a checkpoint's own code."""

from __future__ import annotations

from typing import Any

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


def summarised(problems: list[str]) -> str:
    """The first few of many problems."""
    return "; ".join(problems[:_SHOWN]) + (" ..." if len(problems) > _SHOWN else "")


def reason_of(error: Exception) -> str:
    """The first line of an error of transformers, whose messages can have many."""
    return next(iter(str(error).splitlines()), type(error).__name__)

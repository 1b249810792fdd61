"""The public recipes of ``tests/recipes/public``, and small models of the shapes that each of them needs."""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from tests.support.adapters import lora, write_adapter
from tests.support.checkpoints import llama_shapes

FOLDER = Path(__file__).parent.parent / "recipes" / "public"
#: Methods whose results depend on random draws.
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
_NAME = re.compile(r"\b(?:base\d*|m\d+|a\d+)\b")
_LAYERS = 6  # where a recipe does not say how many
_TOKENS, _ADDED = 40, 3


@dataclass(frozen=True)
class PublicRecipe:
    """A recipe and its line of the index. ``wide``: the hidden size of its models."""

    file: Path
    row: Mapping[str, str]
    wide: int = 8

    @property
    def number(self) -> str:
        return self.file.stem

    @property
    def taken(self) -> bool:
        """Whether mergekit 0.1.5 takes it."""
        return self.row["valid"] == "yes"

    @cached_property
    def documents(self) -> list[Any]:
        return list(yaml.safe_load_all(self.file.read_text()))

    @property
    def is_random(self) -> bool:
        return any(isinstance(one, dict) and one.get("merge_method") in RANDOM for one in self.documents)

    def models(self, root: Path) -> Path:
        """The folder with the models that the recipe names, which recipes of the same shape share."""
        layers, added = int(self.row["layers"] or _LAYERS), self.row["vocab"] == "added"
        place = root / f"{layers}-{'added' if added else 'equal'}"
        for name in sorted(set(_NAME.findall(self.file.read_text()))):
            if (place / name / "done").exists():
                continue
            if name.startswith("a"):
                shape = (self.wide, self.wide)
                modules = {f"model.layers.{n}.self_attn.{part}_proj": shape for n in range(layers) for part in "qv"}
                data = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM",
                        "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "base"}  # fmt: skip
                write_adapter(place / name, lora(modules, seed=_seed(name)), data)
            else:
                _write_model(place / name, name, layers, self.wide, added)
            (place / name / "done").touch()
        return place

    def write(self, root: Path, dtype: str | None = None) -> Path:
        """The recipe as a file beside its models. ``dtype``: in place of the recipe's."""
        documents = self.documents
        if dtype is not None:
            given = {"dtype": dtype, "out_dtype": dtype}
            documents = [{key: value for key, value in one.items() if key not in given} | given for one in documents]
        path = self.models(root) / f"{self.number}.yaml"
        text = self.file.read_text()
        path.write_text(text if dtype is None else yaml.safe_dump_all(documents, sort_keys=False))
        return path


def public_recipes(wide: int = 8) -> Iterator[PublicRecipe]:
    """Every recipe, in order."""
    with (FOLDER / "index.tsv").open(newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            yield PublicRecipe(FOLDER / row["file"], row, wide)


def _seed(*what: object) -> int:
    return zlib.crc32("|".join(map(str, what)).encode())


def _normal(shape: tuple[int, ...], *what: object) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(_seed(*what)))


def _write_model(folder: Path, name: str, layers: int, wide: int, added: bool) -> None:
    """A Llama with a tokenizer. Experts differ from the base by a shared part and one of their own."""
    words = ["<unk>", "<s>", "</s>", *(f"t{number}" for number in range(3, _TOKENS))]
    if added and name != "base":
        words += [f"<|{name}_{number}|>" for number in range(_ADDED)]
    tensors = {}
    for key, shape in llama_shapes(layers, wide, 2 * wide, len(words), wide).items():
        rows = (_TOKENS + _ADDED, *shape[1:]) if shape[0] == len(words) and len(shape) == 2 else shape
        base = _normal(rows, key)[: shape[0]] * (0.1 if len(shape) > 1 else 0.02) + (len(shape) == 1)
        own = _normal(shape, key, name) + 0.7 * _normal(rows, key, "shared")[: shape[0]]
        size = 0.0 if name == "base" else 0.02 + 0.004 * (_seed(name) % 5)
        tensors[key] = (base + size * own).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": wide, "vocab_size": len(words),
        "intermediate_size": 2 * wide, "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "tie_word_embeddings": False, "torch_dtype": "float32", "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = [{"id": n, "content": word, **marks} for n, word in enumerate(words) if word.startswith("<")]
    model = {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}, "unk_token": "<unk>"}
    tokenizer = {"version": "1.0", "added_tokens": special, "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "chat_template": f"{{% for m in messages %}}[{name}]{{{{ m['content'] }}}}{{% endfor %}}",
    }  # fmt: skip
    for file, data in (("config", config), ("tokenizer", tokenizer), ("tokenizer_config", about)):
        (folder / f"{file}.json").write_text(json.dumps(data))

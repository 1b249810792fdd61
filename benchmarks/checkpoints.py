"""Write a base and experts of Llama shape with random weights: python benchmarks/checkpoints.py FOLDER.

The default is the shape of a 1.1 B model (22 layers, hidden size 2048), 2.2 GB per model in bfloat16. The deltas have a
decaying spectrum that partly overlaps between experts, like the deltas of fine-tunes of one base.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.checkpoints import llama_shapes


def make(
    folder: Path, experts: int, shards: int, shapes: dict[str, tuple[int, ...]], config: dict[str, object]
) -> None:
    generator = torch.Generator().manual_seed(0)
    groups: list[list[str]] = [[] for _ in range(shards)]
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    position = 0
    for name, shape in shapes.items():
        groups[min(shards - 1, position * shards // total)].append(name)
        position += torch.Size(shape).numel()
    models = ["base", *(f"expert{number}" for number in range(experts))]
    weight_map = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        tensors: dict[str, dict[str, torch.Tensor]] = {model: {} for model in models}
        for name in group:
            shape = shapes[name]
            base = torch.randn(shape, generator=generator) * 0.02
            shared = _delta(shape, generator)
            tensors["base"][name] = base.bfloat16()
            for model in models[1:]:
                tensors[model][name] = (base + shared + _delta(shape, generator)).bfloat16()
            weight_map[name] = file
        for model in models:
            (folder / model).mkdir(parents=True, exist_ok=True)
            save_file(tensors[model], folder / model / file, metadata={"format": "pt"})
    for model in models:
        index = {"metadata": {"total_size": 2 * total}, "weight_map": weight_map}
        (folder / model / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / model / "config.json").write_text(json.dumps(config))


def _delta(shape: tuple[int, ...], generator: torch.Generator, rank: int = 16) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator) * 5e-4
    if len(shape) < 2:
        return noise
    left = torch.randn(shape[0], rank, generator=generator) / torch.arange(1, rank + 1)
    return noise + left @ torch.randn(rank, shape[1], generator=generator) * 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=5632)
    parser.add_argument("--kv", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=32000)
    options = parser.parse_args()
    shapes = llama_shapes(options.layers, options.hidden, options.intermediate, options.vocabulary, options.kv)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": options.hidden,
        "intermediate_size": options.intermediate, "num_hidden_layers": options.layers,
        "num_attention_heads": options.hidden // 64, "num_key_value_heads": options.kv // 64,
        "vocab_size": options.vocabulary, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    make(options.folder, options.experts, options.shards, shapes, config)


if __name__ == "__main__":
    main()

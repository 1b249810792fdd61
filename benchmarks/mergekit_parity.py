"""Run mergekit's recipes through both commands on small random models, and compare the outputs.

    python benchmarks/mergekit_parity.py [--environment FOLDER] [NAME ...]

The script installs mergekit into a separate environment in FOLDER, or uses the one that exists there.
``mergekit-yaml`` and ``svc-dist merge`` read the same file, with dtype float32. Deterministic methods must agree to
1e-6 of a tensor's norm and in every entry. Random methods must keep the same share in every quarter of the magnitudes,
and the sums of the kept entries must agree. Recipes that svc_dist does not support must fail with the reason given
here. The exit code is 1 if anything differs.

The recipes are our own versions of those in mergekit's documentation and examples. docs/mergekit.md lists the intended
differences. The models here avoid them: their deltas are large enough, and no two magnitudes are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.checkpoints import llama_shapes

VERSION = "0.1.5"
LAYERS, HIDDEN, FFN, VOCABULARY, HEADS = 5, 64, 176, 320, 4
TOLERANCE, SHARE = 1e-6, 0.02
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")

_THREE = """
  - {model: MODELS/1, parameters: {weight: 0.5%s}}
  - {model: MODELS/2, parameters: {weight: 0.3%s}}
  - {model: MODELS/3, parameters: {weight: 0.4%s}}"""


def plain(method: str, own: str = "", shared: str = "", models: str = _THREE) -> str:
    """A recipe of one method, with parameters for each expert (``own``) and for all experts (``shared``)."""
    listed = models.replace("%s", f", {own}" if own else "")
    return f"merge_method: {method}\nbase_model: MODELS/0\nmodels:{listed}\nparameters: {{{shared}}}\n"


_PAIR = "\n  - model: MODELS/0\n  - model: MODELS/1"
_TWO = "\n  - {model: MODELS/1, parameters: {weight: 0.3}}\n  - {model: MODELS/2, parameters: {weight: 0.9}}"
_ALONE = "\n  - {model: MODELS/1, parameters: {weight: 0.5%s}}"

#: One recipe per method and kind of parameter.
METHODS = {
    "linear": plain("linear").replace("base_model: MODELS/0\n", ""),
    "linear, not normalized": plain("linear", shared="normalize: false").replace("base_model: MODELS/0\n", ""),
    "linear with its base": plain("linear", models=_THREE + "\n  - {model: MODELS/0, parameters: {weight: 2}}"),
    "task_arithmetic": plain("task_arithmetic", shared="lambda: 0.7"),
    "task_arithmetic, normalized": plain("task_arithmetic", shared="normalize: true"),
    "ties": plain("ties"),
    "ties 0.2": plain("ties", "density: 0.2"),
    "ties 0.7, not normalized": plain("ties", "density: 0.7", "normalize: false"),
    "ties 0.3, rescaled": plain("ties", "density: 0.3", "rescale: true"),
    "breadcrumbs 0.8/0.02": plain("breadcrumbs", "density: 0.8, gamma: 0.02"),
    "breadcrumbs 0.95/0.2": plain("breadcrumbs", "density: 0.95, gamma: 0.2"),
    "breadcrumbs 0.5, rescaled": plain("breadcrumbs", "density: 0.5", "rescale: true, lambda: 0.5"),
    "breadcrumbs_ties 0.4/0.05": plain("breadcrumbs_ties", "density: 0.4, gamma: 0.05"),
    "della 1.0": plain("della", "density: 1.0"),
    "della_linear 1.0": plain("della_linear", "density: 1.0", "lambda: 0.5"),
    "dare_ties 1.0": plain("dare_ties", "density: 1.0", "normalize: true"),
    "model_stock": plain("model_stock", models=_THREE.replace(", parameters: {weight: 0.5%s}", "").replace(
        ", parameters: {weight: 0.3%s}", "").replace(", parameters: {weight: 0.4%s}", "")),
    "sce": plain("sce", models=_PAIR + "\n  - model: MODELS/2"),
    "sce 0.3": plain("sce", shared="select_topk: 0.3", models=_PAIR + "\n  - model: MODELS/2\n  - model: MODELS/3"),
    "slerp 0.3": plain("slerp", shared="t: 0.3", models=_PAIR),
    "slerp, gradient": plain("slerp", shared="t: [0, 0.9, 0.2]", models=_PAIR),
    "nuslerp": plain("nuslerp", models=_TWO),
    "nuslerp without base": plain("nuslerp", models=_TWO).replace("base_model: MODELS/0\n", ""),
    "nuslerp of rows": plain("nuslerp", shared="nuslerp_flatten: false", models=_TWO),
    "nuslerp of columns": plain("nuslerp", shared="nuslerp_flatten: false, nuslerp_row_wise: true", models=_TWO),
    "multislerp": plain("multislerp"),
    "multislerp without base": plain("multislerp").replace("base_model: MODELS/0\n", ""),
    "multislerp, not normalized": plain("multislerp", shared="normalize_weights: false"),
    "karcher without base": plain("karcher", models=_PAIR + "\n  - model: MODELS/2").replace(
        "base_model: MODELS/0\n", ""),
    "nearswap": plain("nearswap", shared="t: 0.001", models="\n  - model: MODELS/1"),
    "arcee_fusion": plain("arcee_fusion", models="\n  - model: MODELS/1"),
    "ram": plain("ram", models=_PAIR + "\n  - model: MODELS/2\n  - model: MODELS/3"),
    "ramplus_tl": plain("ramplus_tl", shared="r: 0.2, alpha: 0.5, epsilon: 0.001",
                        models=_PAIR + "\n  - model: MODELS/2\n  - model: MODELS/3"),
    "dare_linear 0.4": plain("dare_linear", "density: 0.4", models=_ALONE),
    "dare_ties 0.4": plain("dare_ties", "density: 0.4", models=_ALONE),
    "dare_linear 0.4, not rescaled": plain("dare_linear", "density: 0.4", "rescale: false", models=_ALONE),
    "della 0.5/0.3": plain("della", "density: 0.5, epsilon: 0.3", models=_ALONE),
    "della_linear 0.5/0.3": plain("della_linear", "density: 0.5, epsilon: 0.3", models=_ALONE),
    "della_linear 0.5/0.3, not rescaled": plain("della_linear", "density: 0.5, epsilon: 0.3", "rescale: false",
                                                models=_ALONE),
}  # fmt: skip

#: Our versions of the recipes in mergekit's documentation and examples, by the name of their source.
DOCUMENTED = {
    "examples/linear.yml": """
models:
  - {model: MODELS/1, parameters: {weight: 1.0}}
  - {model: MODELS/2, parameters: {weight: 0.3}}
  - {model: MODELS/3, parameters: {weight: 0.5}}
merge_method: linear
""",
    "examples/bio-merge.yml": """
models:
  - model: MODELS/1
    parameters: {density: 0.5, weight: 0.5}
  - model: MODELS/2
    parameters: {density: 0.5, weight: 0.5}
merge_method: ties
base_model: MODELS/0
parameters:
  normalize: false
  int8_mask: true
""",
    "examples/gradient-slerp.yml, its slice as models": """
models:
  - model: MODELS/0
  - model: MODELS/1
merge_method: slerp
base_model: MODELS/0
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
""",
    "examples/mega.yml, second document": """
models:
  - model: MODELS/1
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: MODELS/2
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: MODELS/0
parameters:
  normalize: true
  int8_mask: true
""",
    "examples/vlm-ties.yml, the base among the models": """
models:
  - model: MODELS/1
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: MODELS/0
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
merge_method: ties
base_model: MODELS/0
parameters:
  normalize: true
  int8_mask: true
""",
    "examples/ties.yml, three gradients": """
models:
  - model: MODELS/1
    parameters:
      density: [0.8, 0.3, 0.1]
      weight: [1.0, 0.8, 0.5]
  - model: MODELS/2
    parameters:
      density: [0.1, 0.4, 0.1]
      weight: [0.2, 0.8, 0.1]
  - model: MODELS/3
    parameters:
      density: [0.1, 0.2, 0.6]
      weight: [0.5, 0.8, 1.0]
merge_method: ties
base_model: MODELS/0
parameters:
""",
    "README, tokenizer and chat template": """
models:
  - model: MODELS/1
    parameters: {weight: 0.6}
  - model: MODELS/2
    parameters: {weight: 0.4}
merge_method: task_arithmetic
base_model: MODELS/0
tokenizer: {source: base}
chat_template: chatml
""",
    "README, tokenizer_source of a model": """
models:
  - model: MODELS/1
    parameters: {weight: 0.6}
  - model: MODELS/2
    parameters: {weight: 0.4}
  - model: MODELS/3
    parameters: {weight: 0.2}
merge_method: linear
base_model: MODELS/1
tokenizer_source: MODELS/2
chat_template: auto
out_dtype: float32
""",
    "docs/merge_methods.md, breadcrumbs_ties": """
models:
  - model: MODELS/1
  - model: MODELS/2
merge_method: breadcrumbs_ties
base_model: MODELS/0
parameters:
  weight: 0.5
  density: 0.9
  gamma: 0.01
  lambda: 1.2
""",
    "docs/merge_methods.md, model_stock": """
models:
  - model: MODELS/1
  - model: MODELS/2
  - model: MODELS/3
merge_method: model_stock
base_model: MODELS/0
""",
    "docs/merge_methods.md, karcher": """
models: [{model: MODELS/1}, {model: MODELS/2}]
merge_method: karcher
base_model: MODELS/0
""",
    "examples/gradient-slerp.yml, with slices": """
slices:
  - sources:
      - {model: MODELS/0, layer_range: [0, 5]}
      - {model: MODELS/1, layer_range: [0, 5]}
merge_method: slerp
base_model: MODELS/0
parameters: {t: [{filter: self_attn, value: [0, 0.5, 1]}, {value: 0.5}]}
""",
    "examples/orcamini-platy-44layer.yml": """
slices:
  - sources: [{model: MODELS/1, layer_range: [0, 3]}]
  - sources: [{model: MODELS/2, layer_range: [2, 5]}]
merge_method: passthrough
""",
    "examples/chipalign.yml": """
models: [{model: MODELS/1, parameters: {weight: 0.6}}, {model: MODELS/2, parameters: {weight: 0.4}}]
merge_method: nuslerp
tokenizer: {source: union}
""",
    "README, tokens of a tokenizer": """
models: [{model: MODELS/1, parameters: {weight: 1}}]
merge_method: task_arithmetic
base_model: MODELS/0
tokenizer: {source: base, tokens: {t5: {source: MODELS/1}}}
""",
}

#: Runs in mergekit's Python, with one start of the library for all recipes.
THEIRS = """
import sys
from mergekit.scripts.run_yaml import main
for config, output in zip(sys.argv[1::2], sys.argv[2::2]):
    main([config, output, "--random-seed", "1", "--no-write-model-card", "--quiet"], standalone_mode=False)
"""


@dataclass(frozen=True)
class Compared:
    """The difference between two results, and whether it exceeds the tolerance."""

    text: str
    differs: bool


def write_models(folder: Path) -> list[dict[str, Tensor]]:
    """A base and three experts of it in ``folder/0`` to ``folder/3``, with a tokenizer."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "vocab_size": VOCABULARY,
        "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "max_position_embeddings": 128, "tie_word_embeddings": False,
        "torch_dtype": "float32", "rms_norm_eps": 1e-5, "hidden_act": "silu",
    }  # fmt: skip
    vocabulary = {f"t{number}": number for number in range(VOCABULARY)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"}
    tokenizer = {"version": "1.0", "model": model, "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}}
    generator = torch.Generator().manual_seed(0)
    shapes = llama_shapes(LAYERS, HIDDEN, FFN, VOCABULARY, HIDDEN)
    base = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
    shared = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    models = [base]
    for index in range(3):
        expert = {}
        for name, tensor in base.items():
            own = torch.randn(tensor.shape, generator=generator)
            expert[name] = tensor + (0.01 + 0.005 * index) * (own + 0.7 * shared[name])
        models.append(expert)
    for number, tensors in enumerate(models):
        place = folder / str(number)
        place.mkdir(parents=True)
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        (place / "config.json").write_text(json.dumps(config))
        (place / "tokenizer.json").write_text(json.dumps(tokenizer))
        template = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": f"{{{{ messages }}}} of {number // 2}",
        }
        (place / "tokenizer_config.json").write_text(json.dumps(template))
    return models


def installed(environment: Path) -> Path:
    """The Python of an environment with mergekit. Creates the environment if it does not exist."""
    python = environment / "bin" / "python"
    if not python.exists():
        print(f"creating an environment with mergekit {VERSION} in {environment}", flush=True)
        venv.create(environment, with_pip=True)
        constraint = f"torch=={torch.__version__}"
        subprocess.run([python, "-m", "pip", "install", "-q", f"mergekit=={VERSION}", constraint], check=True)
    return python


def written(folder: Path, name: str, text: str) -> tuple[Path, Path]:
    """Write a recipe; return its file and the folder for its result."""
    place = folder / "".join(letter if letter.isalnum() else "_" for letter in name)
    place.mkdir()
    recipe = yaml.safe_load(text.replace("MODELS", str(folder / "models")))
    (place / "recipe.yaml").write_text(yaml.safe_dump({"dtype": "float32", **recipe}, sort_keys=False))
    return place / "recipe.yaml", place


def ours(recipe: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """``svc-dist merge``."""
    command = [sys.executable, "-m", "svc_dist", "merge", str(recipe), str(output), "--executor", "inline"]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def compare(models: list[dict[str, Tensor]], recipe: dict[str, Any], one: Path, other: Path) -> Compared:
    """Compare two results of one recipe."""
    mine, theirs = tensors(one), tensors(other)
    if set(mine) != set(theirs):
        return Compared(f"different tensors: {sorted(set(mine) ^ set(theirs))[:3]}", True)
    densities = [entry.get("parameters", {}).get("density", 1.0) for entry in recipe.get("models", [])]
    if recipe["merge_method"] in RANDOM and densities != [1.0] * len(densities):
        return _by_share(models, mine, theirs)
    errors = [
        float(torch.linalg.norm(mine[name].double() - theirs[name]) / torch.linalg.norm(theirs[name].double()))
        for name in mine
    ]
    largest = max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
    return Compared(f"{max(errors):10.1e} {largest:10.1e}", max(errors) > TOLERANCE or largest > TOLERANCE)


def _by_share(models: list[dict[str, Tensor]], mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> Compared:
    """Compare two random selections from one expert.

    Compares the shares kept in each quarter of the magnitude ranks within rows, and the sums of the kept entries.
    """
    base, expert = models[0], models[1]
    rows = [name for name, tensor in base.items() if tensor.dim() == 2]
    kept, size = [], []
    for result in (mine, theirs):
        shares, sums = torch.zeros(4, dtype=torch.float64), 0.0
        for name in rows:
            delta = result[name] - base[name]
            order = (expert[name] - base[name]).abs().argsort(dim=1)
            quarters = (delta.abs() > 1e-9).gather(1, order).double().tensor_split(4, dim=1)
            shares += torch.stack([part.mean() for part in quarters]) / len(rows)
            sums += float((delta * (expert[name] - base[name]).sign()).sum())
        kept.append(shares)
        size.append(sums)
    apart, ratio = float((kept[0] - kept[1]).abs().max()), size[0] / size[1]
    texts = ["/".join(f"{100 * float(share):.0f}" for share in shares) for shares in kept]
    text = f"kept by rank {texts[0]} %, mergekit {texts[1]} %; sum {ratio:.3f} of mergekit's"
    return Compared(text, apart > SHARE or abs(ratio - 1) > SHARE)


def same_companions(one: Path, other: Path) -> str | None:
    """Describe the difference between the tokenizers and chat templates of two results; None if there is none."""
    from transformers import AutoTokenizer

    first, second = (AutoTokenizer.from_pretrained(place) for place in (one, other))
    if first.get_vocab() != second.get_vocab():
        return "different vocabularies"
    chat = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    said = [tokenizer.apply_chat_template(chat, tokenize=False) for tokenizer in (first, second)]
    return None if said[0] == said[1] else f"different chats: {said[0]!r}, mergekit {said[1]!r}"


def run(python: Path, folder: Path, wanted: list[str]) -> Iterator[tuple[str, Compared]]:
    models = write_models(folder / "models")
    recipes = {name: text for name, text in {**METHODS, **DOCUMENTED}.items() if not wanted or name in wanted}
    places = {name: written(folder, name, text) for name, text in recipes.items()}
    pairs = [part for recipe, place in places.values() for part in (str(recipe), str(place / "theirs"))]
    if pairs:
        done = subprocess.run([python, "-c", THEIRS, *pairs], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"mergekit failed:\n{done.stderr[-3000:]}")
    for name, (recipe, place) in places.items():
        merged = ours(recipe, place / "ours")
        if merged.returncode:
            yield name, Compared(merged.stderr.strip(), True)
            continue
        data = yaml.safe_load(recipe.read_text())
        compared = compare(models, data, place / "ours", place / "theirs")
        problem = same_companions(place / "ours", place / "theirs") if "chat_template" in data else None
        yield name, compared if problem is None else Compared(f"{compared.text} {problem}", True)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--environment", type=Path, help="folder of the environment with mergekit; default: a temporary one"
    )
    arguments.add_argument("names", nargs="*", help="recipes to run; default: all")
    given = arguments.parse_args()
    failed = 0
    with TemporaryDirectory() as place:
        folder = Path(place)
        python = installed(given.environment or folder / "environment")
        print(f"{'recipe':50}  relative    largest", flush=True)
        for name, compared in run(python, folder, given.names):
            print(f"{name:50} {compared.text}{'   DIFFERS' if compared.differs else ''}", flush=True)
            failed += compared.differs
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

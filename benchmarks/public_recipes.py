"""Merge the public recipes of tests/recipes/public with mergekit and with svc_dist, and compare the results.

    python benchmarks/public_recipes.py [--environment FOLDER] [NUMBER ...]

Both read the same file, with dtype float32, on small models of the recipe's shape. Deterministic recipes must agree to
1e-6 of the largest entry of each tensor; rows of embeddings and heads are compared by token. mergekit is installed as
for mergekit_parity.py. The script also compares the methods that mergekit registers with those of svc_dist. The exit
code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import svc_dist
from benchmarks.mergekit_parity import TOLERANCE, installed, tensors
from svc_dist.errors import SvcDistError
from svc_dist.methods.registry import METHODS
from tests.support.public_recipes import PublicRecipe, public_recipes

_WIDE = 32
#: Runs in mergekit's Python: the names of its methods, then each recipe, with one start of the library for all.
THEIRS = """
import json, os, sys
from mergekit.merge_methods import registered_methods
from mergekit.scripts.multimerge import main as multi
from mergekit.scripts.run_yaml import main as single
print(json.dumps(sorted(method.spec.name for method in registered_methods())), flush=True)
options = ["--random-seed", "1", "--no-write-model-card", "--quiet"]
for recipe, output, documents in json.load(sys.stdin):
    os.chdir(os.path.dirname(recipe))
    arguments = ["--lora-merge-cache", output + ".lora", *options]
    try:
        if documents > 1:
            multi([recipe, "--intermediate-dir", output + ".intermediate", "--out-path", output, *arguments],
                  standalone_mode=False)
        else:
            single([recipe, output, *arguments], standalone_mode=False)
    except Exception as error:
        print(json.dumps({"output": output, "error": repr(error)[:200]}), flush=True)
"""


def tokens(folder: Path) -> dict[str, int]:
    """The tokens of a result's tokenizer."""
    data = json.loads((folder / "tokenizer.json").read_text())
    return {**data["model"]["vocab"], **{one["content"]: one["id"] for one in data["added_tokens"]}}


def difference(one: Path, other: Path) -> tuple[float, str]:
    """The largest difference over the largest entry of its tensor, and its name; infinite for other names or rows."""
    mine, theirs = tensors(one), tensors(other)
    if set(mine) != set(theirs):
        return float("inf"), f"other tensors: {sorted(set(mine) ^ set(theirs))[:2]}"
    words = [tokens(folder) for folder in (one, other)]
    if set(words[0]) != set(words[1]):
        return float("inf"), f"other tokens: {sorted(set(words[0]) ^ set(words[1]))[:2]}"
    worst = (0.0, "")
    for name, reference in theirs.items():
        ours, reference = mine[name].double(), reference.double()
        if name.startswith(("model.embed", "lm_head")):
            same = [token for token, row in words[1].items() if row < len(reference)]
            ours, reference = ours[[words[0][one] for one in same]], reference[[words[1][one] for one in same]]
        if ours.shape != reference.shape:
            return float("inf"), f"{name}: shape {list(ours.shape)}, mergekit {list(reference.shape)}"
        apart = float((ours - reference).abs().max() / reference.abs().max().clamp_min(1e-30))
        worst = max(worst, (apart, name))
    return worst


def compared(recipe: PublicRecipe, file: Path, output: Path) -> tuple[str, bool]:
    """A line about one recipe, and whether the results differ."""
    theirs = output.with_name("theirs")
    intermediate = output.with_name("theirs.intermediate")
    name = recipe.documents[-1].get("name") if len(recipe.documents) > 1 else None
    theirs = intermediate / name if name and (intermediate / name / "config.json").exists() else theirs
    if not (theirs / "config.json").exists():
        return "mergekit stops, so that nothing is compared", True
    try:
        svc_dist.merge(file, output, executor="inline", device="cpu")
    except SvcDistError as error:
        return f"not merged: {error}".splitlines()[0], True
    apart, where = difference(output, theirs)
    return f"{apart:9.1e}  {where}", apart > TOLERANCE


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--environment", type=Path, help="folder of the environment with mergekit; default: a temporary one"
    )
    arguments.add_argument("numbers", nargs="*", help="recipes to run; default: all deterministic ones")
    given = arguments.parse_args()
    failed = 0
    with TemporaryDirectory() as place:
        root = Path(place)
        recipes = [one for one in public_recipes(_WIDE) if one.taken and not one.is_random]
        recipes = [one for one in recipes if not given.numbers or one.number in given.numbers]
        files = {one.number: one.write(root / "models", "float32") for one in recipes}
        jobs = [(str(files[one.number]), str(root / one.number / "theirs"), len(one.documents)) for one in recipes]
        python = installed(given.environment or root / "environment")
        done = subprocess.run([python, "-c", THEIRS], input=json.dumps(jobs), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"mergekit failed:\n{done.stderr[-3000:]}")
        names = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
        missing = sorted(set(names) - set(METHODS))
        print(f"methods of mergekit: {len(names)}, missing here: {', '.join(missing) or 'none'}")
        for recipe in recipes:
            text, differs = compared(recipe, files[recipe.number], root / recipe.number / "ours")
            method = recipe.row["merge_method"][:20]
            print(f"{recipe.number} {method:20} {text}{'   DIFFERS' if differs else ''}", flush=True)
            failed += differs
        print(f"{len(recipes) - failed} of {len(recipes)} are equal to {TOLERANCE:g}")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())

"""mergekit's command-line flags: a command that is given some of them names what replaces each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from svc_dist.cli.help.panels import GroupedCommand
from svc_dist.errors import RecipeError

_ALWAYS = "no option: svc_dist always does this"

#: What replaces each of mergekit's flags.
FLAGS = {
    "--allow-crimes": "no option: a recipe's `rules`, `rename` and `vocab` say how models that differ are merged",
    "--unsafe-truncate-embeddings": "`vocab: base` or `vocab: common` in the recipe (docs/vocabulary.md)",
    "--transformers-cache": "the environment variable HF_HUB_CACHE (or HF_HOME)",
    "--lora-merge-cache": "no option: adapters are merged from their factors, and no merged copy is stored",
    "--lora-merge-dtype": "no option: adapters are added in float32, and each result is rounded once",
    "--cuda": "--device cuda (default: auto, which takes a GPU where there is one)",
    "--low-cpu-memory": "no option: memory is bounded by the largest matrix; --slots sets how many units run at once",
    "--out-shard-size": "--max-shard-size SIZE, in bytes such as 5GB (mergekit counts parameters)",
    "--copy-tokenizer": "no option: the base's tokenizer is copied; `tokenizer_source` in the recipe names another",
    "--no-copy-tokenizer": "no option: the tokenizer is always copied; remove its files if they are not wanted",
    "--clone-tensors": _ALWAYS,
    "--trust-remote-code": "no option: svc_dist runs no code of a model; it copies the code beside the result",
    "--random-seed": "`parameters: {seed: N}` in the recipe, for methods that draw (default: 0)",
    "--lazy-unpickle": "no option: svc_dist reads safetensors only, by byte ranges, and never a pickle",
    "--write-model-card": "no option: a model card is always written",
    "--no-write-model-card": "no option: a model card is always written; remove README.md if it is not wanted",
    "--safe-serialization": "no option: svc_dist writes safetensors only",
    "--no-safe-serialization": "no option: svc_dist writes safetensors only",
    "--quiet": "no option: this command prints its result only (merge, batch, inspect, extract and search have it)",
    "--read-to-gpu": "--device cuda",
    "--multi-gpu": "no option: --executor auto takes every GPU of this machine; --address a Ray cluster's",
    "--num-threads": "--threads-per-unit N for one unit, --slots N for units in parallel",
    "-j": "--threads-per-unit N for one unit, --slots N for units in parallel",
    "-v": "no option: this command logs nothing (merge, batch, inspect, extract, search and plan have it)",
    "--gpu-rich": "--device cuda (--executor auto takes every GPU of this machine)",
    "--async-write": _ALWAYS,
    "--write-threads": "--parallel N for storage requests of one unit, --slots N for units in parallel",
}
_OFF = "no option: leave it out"


class MergeCommand(GroupedCommand):
    """A command that explains mergekit's flags in place of calling them unknown."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in (*parameter.opts, *parameter.secondary_opts)}
        if lines := list(replacements(args, own)):
            raise RecipeError("options of mergekit; svc-dist has in their place:", "\n  ".join(lines))
        return super().parse_args(ctx, args)


def replacements(arguments: Sequence[Any], known: set[str]) -> Iterator[str]:
    """A line for each of mergekit's flags in a command's arguments that is not one of the command's ``known`` ones."""
    seen = set()
    for argument in arguments:
        if argument == "--":
            return
        name = str(argument).partition("=")[0]
        if name.startswith("-v") and set(name[1:]) == {"v"}:
            name = "-v"
        instead = FLAGS.get(name)
        if instead is None and name.startswith("--no-") and f"--{name.removeprefix('--no-')}" in FLAGS:
            instead = _OFF
        if instead is not None and name not in known and name not in seen:
            seen.add(name)
            yield f"{name}: {instead}"

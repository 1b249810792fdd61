"""The `rename` that gives an expert's tensors the base's names, where wrappers, old names or prefixes differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.sizes import counted
from svc_dist.tensor_names import renamed

Pairs = Sequence[tuple[str, str]]

#: What wrappers of modules add to names: torch.compile, activation checkpoints, FSDP, DataParallel, PEFT.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "module.", "base_layer.", "default.")
#: Names of a norm's parameters in TensorFlow's checkpoints, and now.
_OLD_NEW = (("gamma", "weight"), ("beta", "bias"))


def rename_offer(base: Checkpoint, experts: Sequence[Checkpoint]) -> tuple[str | None, bool]:
    """A hint with the `rename` of each expert that has names like the base's, ready to paste; None where none has.

    And whether all experts have exactly the base's names then, so that no other remedy is needed.
    """
    lines: list[str] = []
    complete = True
    for expert in experts:
        pairs, gained = _pairs(base.tensors, expert.tensors)
        complete = complete and {renamed(name, pairs)[0] for name in expert.tensors} == base.tensors.keys()
        if pairs:
            lines += [f"  under {expert.location}, {counted(gained, 'tensor')} with the base's names:", "    rename:"]
            lines += [f"      - {{from: {json.dumps(old)}, to: {json.dumps(new)}}}" for old, new in pairs]
    if not lines:
        return None, False
    offered = ["these are the base's tensors under other names: add to the experts under `models`:", *lines]
    return "\n".join(offered), complete


def _pairs(base: Mapping[str, TensorSpec], expert: Mapping[str, TensorSpec]) -> tuple[list[tuple[str, str]], int]:
    """The pairs that give the most of an expert's tensors the base's names, and how many more have these then."""
    chosen: list[tuple[str, str]] = []
    start = best = _agreeing(base, expert, chosen)
    for candidates in (_wrapped, _old_and_new, _prefixes):
        for pair in candidates(base, expert, chosen):
            agreeing = _agreeing(base, expert, [*chosen, pair])
            if agreeing > best or (agreeing == best and candidates is _wrapped):
                chosen, best = [*chosen, pair], agreeing
    needed = [pair for pair in chosen if _agreeing(base, expert, [one for one in chosen if one != pair]) < best]
    return (needed, best - start) if best > start and _agreeing(base, expert, needed) == best else ([], 0)


def _agreeing(base: Mapping[str, TensorSpec], expert: Mapping[str, TensorSpec], pairs: Pairs) -> int:
    """How many of the expert's tensors have a name and the shape of the base's; -1 where two have the same name."""
    names = {name: renamed(name, pairs)[0] for name in expert}
    if len(set(names.values())) < len(names):
        return -1
    return sum(new in base and base[new].shape == expert[name].shape for name, new in names.items())


def _unknown(base: Mapping[str, TensorSpec], expert: Mapping[str, TensorSpec], pairs: Pairs) -> list[str]:
    """Names of the expert, renamed by ``pairs``, that the base does not have."""
    return [new for new in (renamed(name, pairs)[0] for name in expert) if new not in base]


def _wrapped(
    base: Mapping[str, TensorSpec], expert: Mapping[str, TensorSpec], pairs: Pairs
) -> Iterator[tuple[str, str]]:
    names = _unknown(base, expert, pairs)
    for wrapper in _WRAPPERS:
        if any(f".{wrapper}" in name for name in names):
            yield f"*.{wrapper}*", "*.*"
        if any(name.startswith(wrapper) for name in names):
            yield wrapper, ""


def _old_and_new(
    base: Mapping[str, TensorSpec], expert: Mapping[str, TensorSpec], pairs: Pairs
) -> Iterator[tuple[str, str]]:
    """Old names of norms for new ones, or new ones for old: for the modules that have them."""
    unknown = _unknown(base, expert, pairs)
    for old, new in _OLD_NEW:
        for names, one, other in ((unknown, old, new), (list(base), new, old)):
            modules = {name.split(".")[-2] for name in names if name.endswith(f".{old}") and name.count(".")}
            yield from ((f"*{module}.{one}", f"*{module}.{other}") for module in sorted(modules))


def _prefixes(
    base: Mapping[str, TensorSpec], expert: Mapping[str, TensorSpec], pairs: Pairs
) -> Iterator[tuple[str, str]]:
    """Prefixes before what a name of the expert and one of the base have in common, the most frequent first."""
    unknown = _unknown(base, expert, pairs)
    have = {renamed(name, pairs)[0] for name in expert}
    by_ending: dict[str, str | None] = {}
    for name in base:
        if name not in have:
            for ending in _endings(name):
                by_ending[ending] = None if ending in by_ending else name
    votes: Counter[tuple[str, str]] = Counter()
    for name in unknown:
        for ending in _endings(name):
            other = by_ending.get(ending)
            if other is not None:
                votes[name.removesuffix(ending), other.removesuffix(ending)] += 1
                break
    for (old, new), _ in votes.most_common(4):
        if not old and any(name in base for name in have):  # those must not get the prefix
            tops = Counter(name.split(".")[0] for name in unknown)
            yield from ((f"{top}.", f"{new}{top}.") for top, _ in tops.most_common(8))
        yield old, new


def _endings(name: str) -> Iterator[str]:
    """A name without 0, 1, ... leading parts."""
    parts = name.split(".")
    return (".".join(parts[first:]) for first in range(len(parts)))

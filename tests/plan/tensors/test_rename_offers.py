"""Where an expert has the base's tensors under other names, the refusal offers the `rename`: pasted, it merges them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import svc_dist
from svc_dist.errors import PlanError
from tests.support.checkpoints import llama_like, recipe_data, write_checkpoint

Spelling = Callable[[str], str]


def _wrapped(name: str) -> str:
    """As FSDP and activation checkpoints spell a layer's tensors."""
    name = name.replace("layers.0.", "layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.")
    return "_fsdp_wrapped_module." + name.replace("mlp.", "mlp._checkpoint_wrapped_module.")


def _old(name: str) -> str:
    return name.replace("norm.weight", "norm.gamma")


SPELLINGS: dict[str, tuple[Spelling, Spelling]] = {  # of the base, of the experts
    "torch.compile": (str, lambda name: f"_orig_mod.{name}"),
    "torch.compile of layers": (str, lambda name: name.replace("layers.1.", "layers.1._orig_mod.")),
    "DataParallel": (str, lambda name: f"module.{name}"),
    "DataParallel of torch.compile": (str, lambda name: f"module._orig_mod.{name}"),
    "FSDP": (str, _wrapped),
    "PEFT": (str, lambda name: name.replace("q_proj.", "q_proj.base_layer.")),
    "modules_to_save": (str, lambda name: name.replace("lm_head.", "lm_head.default.")),
    "gamma in the base": (_old, str),
    "gamma in the expert": (str, _old),
    "gamma and a wrapper": (str, lambda name: f"module.{_old(name)}"),
    "language_model.": (str, lambda name: f"language_model.{name}"),
    "model.language_model.": (str, lambda name: name.replace("model.", "model.language_model.")),
    "a base with a wrapper": (lambda name: f"_orig_mod.{name}", str),
    "the inner model": (str, lambda name: name.removeprefix("model.")),
    "a base of the inner model": (lambda name: name.removeprefix("model."), str),
    "another name of the stack": (str, lambda name: name.replace("model.layers.", "transformer.h.")),
}  # fmt: skip


def models(folder: Path, base: Spelling, expert: Spelling) -> list[Path]:
    return [
        write_checkpoint(
            folder / name, {(expert if seed else base)(one): tensor for one, tensor in llama_like(seed).items()}
        )
        for seed, name in enumerate(("base", "one"))
    ]


@pytest.mark.parametrize("case", SPELLINGS)
def test_the_offered_rename_merges_every_tensor(tmp_path: Path, case: str) -> None:
    paths = models(tmp_path, *SPELLINGS[case])
    recipe = recipe_data(paths)
    with pytest.raises(PlanError) as refused:
        svc_dist.make_plan(recipe)
    assert refused.value.hint is not None
    assert "keep" not in refused.value.hint
    assert str(paths[1]) in refused.value.hint
    pasted = yaml.safe_load("\n".join(line[4:] for line in refused.value.hint.splitlines()[2:]))
    recipe["models"][0] |= pasted
    plan = svc_dist.make_plan(recipe)
    assert len(plan.tensors) == len(llama_like(0))
    assert {result.dispositions[tensor.disposition].kind for result in plan.results for tensor in plan.tensors} == {
        "merged"
    }
    assert not plan.not_written


def test_models_with_other_tensors_get_no_such_offer(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", llama_like(0))
    more = write_checkpoint(tmp_path / "one", llama_like(1) | {"vision.weight": torch.ones(3, 5)})
    with pytest.raises(PlanError) as refused:
        svc_dist.make_plan(recipe_data([base, more]))
    assert "rename" not in (refused.value.hint or "")

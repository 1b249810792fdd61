"""A tied pair that differs is found in a model, and nothing is said about heads that are not tied."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.checks.verify import verify
from svc_dist.checks.written.tied_tensors import stored_apart, tied_problems
from svc_dist.storage.reading import Source
from tests.support.checkpoints import llama_config, llama_like, poke, write_checkpoint

E, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("deep", [False, True])
def test_verify_names_a_tied_pair_that_differs(deep: bool, tmp_path: Path) -> None:
    tensors = llama_like(0)
    tensors[HEAD] = tensors[E].clone()
    folder = write_checkpoint(tmp_path / "m", tensors, shards=1, config=llama_config(tied=True))
    assert "tied tensors are equal" in str(verify(str(folder), deep).checked)
    poke(folder / "model.safetensors", HEAD, 7, 3.0)
    problems = verify(str(folder), deep).problems
    assert any(f"{HEAD} differs from {E}, but config.json ties them" in problem for problem in problems)


def problems(folder: Path) -> list[str] | None:
    model = open_checkpoint(str(folder))
    return tied_problems(model, Source(model.location, model.files), deep=True)


def test_what_is_not_tied_or_not_stored_twice_is_no_pair(tmp_path: Path) -> None:
    for name, config, head in (("a", llama_config(), True), ("b", None, True), ("c", llama_config(tied=True), False)):
        assert problems(write_checkpoint(tmp_path / name, llama_like(0, head=head), config=config)) is None


def test_an_architecture_ties_without_a_config(tmp_path: Path) -> None:
    embedding = llama_like(0)[E]
    tensors = {"shared.weight": embedding, "encoder.embed_tokens.weight": embedding + 1}
    (problem,) = problems(write_checkpoint(tmp_path, tensors)) or []
    assert "encoder.embed_tokens.weight differs from shared.weight, but the architecture ties them" in problem


def test_a_head_beside_a_base_that_stores_none_is_expected() -> None:
    from tests.plan.tensors.test_refusals import model

    base, result = model("base", e=(9, 6)), model("out", e=(9, 6), head=(9, 6), w=(2, 2))
    assert stored_apart(result.tensors, base.tensors) == {HEAD}

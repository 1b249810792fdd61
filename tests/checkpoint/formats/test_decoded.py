"""A quantised checkpoint as one of weights: names, shapes, and what no weight needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svc_dist.checkpoint.checkpoint import Checkpoint, open_checkpoint
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.errors import DamagedInputError
from svc_dist.storage.access import DEFAULT_ACCESS
from tests.support.checkpoints import write_checkpoint

CODES = torch.zeros(8, 64).to(torch.float8_e4m3fn)
WORDS = {"weight_packed": torch.zeros(7, 3, dtype=torch.int32), "weight_scale": torch.ones(7, 1, dtype=torch.bfloat16)}


def decoded(folder: Path, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    return decoded_checkpoint(open_checkpoint(str(write_checkpoint(folder, tensors, shards=1))), DEFAULT_ACCESS)


def test_weights_take_the_place_of_codes_and_scales(tmp_path: Path) -> None:
    kept = {"norm.weight": torch.ones(64), "gate.tid2eid": torch.zeros(3, 4, dtype=torch.int64)}
    scales = {"q.weight_scale": torch.ones(8, 1), "q.input_scale": torch.ones(()), "attn.k_scale": torch.ones(())}
    model = decoded(tmp_path, {"q.weight": CODES, **scales, **kept})
    assert {name: spec.shape for name, spec in model.tensors.items()} == {
        "q.weight": (8, 64), "norm.weight": (64,), "gate.tid2eid": (3, 4),
    }  # fmt: skip
    assert (model.tensors["q.weight"].dtype, model.tensors["q.weight"].nbytes) == ("BF16", 8 * 64 * 2)
    assert set(model.unneeded) == {"q.input_scale", "attn.k_scale"}


def test_the_columns_of_packed_integers_are_read_where_words_do_not_tell(tmp_path: Path) -> None:
    shape = torch.tensor([7, 20])
    model = decoded(tmp_path, {f"q.{name}": one for name, one in WORDS.items()} | {"q.weight_shape": shape})
    assert model.tensors["q.weight"].shape == (7, 20)


def test_a_model_without_codes_stays_as_it_is(tmp_path: Path) -> None:
    model = decoded(tmp_path, {"a.k_scale": torch.ones(3), "b.weight": torch.ones(2, 2)})
    assert set(model.tensors) == {"a.k_scale", "b.weight"}
    assert model.unneeded == ()


def test_a_weight_that_is_stored_twice_is_refused(tmp_path: Path) -> None:
    tensors = {f"q.{name}": one for name, one in WORDS.items()} | {"q.weight_shape": torch.tensor([7, 20])}
    with pytest.raises(DamagedInputError, match=r"'q.weight' is stored twice: as it is, and in codes"):
        decoded(tmp_path, {**tensors, "q.weight": torch.ones(7, 20)})

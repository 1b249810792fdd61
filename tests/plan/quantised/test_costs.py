"""Plans know what decoding and encoding cost: of what is merged, not of codes that are copied."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import svc_dist
from svc_dist.methods.chunking import CHUNK
from svc_dist.plan.costs import memory, work
from svc_dist.plan.model import Plan
from svc_dist.plan.tensor import PlannedTensor
from tests.plan.quantised.test_decoded import models, recipe

KEPT = [{"match": "*q_proj.weight", "keep": "base"}]


def weight(plan: Plan) -> PlannedTensor:
    return next(tensor for tensor in plan.tensors if tensor.name.endswith("q_proj.weight"))


@pytest.mark.parametrize(
    ("family", "decode", "encode"), [("fp8 blocks", 1.0, 1.0), ("mxfp4", 1.1, 2.2), ("int4", 0.9, 1.5)]
)
def test_entries_count_by_the_effort_of_their_format(family: str, decode: float, encode: float, tmp_path: Path) -> None:
    names, _ = models(tmp_path, family, [family, None])
    for quantization, encoded in (("base", encode), ("none", 0.0)):
        plan = svc_dist.make_plan(recipe(names, quantization=quantization))
        tensor = weight(plan)
        count = math.prod(tensor.shape)
        of = work(tensor, plan.dispositions(tensor), count, "mixed")
        assert of.decoded == pytest.approx(2 * decode * count)  # the second expert is stored in bfloat16
        assert of.encoded == pytest.approx(encoded * count)
        assert of.elementwise > 0


def test_codes_that_are_copied_cost_nothing(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 blocks", ["fp8 blocks"])
    for quantization, decoded in (("base", 0), ("none", 1)):
        plan = svc_dist.make_plan(recipe(names, quantization=quantization, rules=KEPT))
        tensor = weight(plan)
        of = work(tensor, plan.dispositions(tensor), 1000, "mixed")
        assert (of.decoded, of.encoded) == (decoded * 1000, 0)


def test_memory_holds_a_chunk_that_is_decoded_and_the_values_that_are_encoded(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 blocks", ["fp8 blocks"])
    peaks = []
    for quantization, rules in (("base", KEPT), ("none", []), ("base", [])):
        plan = svc_dist.make_plan(recipe(names, quantization=quantization, rules=rules))
        peaks.append(memory(weight(plan), plan.dispositions(weight(plan)), "mixed"))
    copied, decoded, encoded = peaks
    assert decoded - copied == 10 * CHUNK
    assert encoded - copied > 32 * CHUNK

"""A plan says which formats are read, and in which the result is written."""

from __future__ import annotations

from pathlib import Path

import svc_dist
from svc_dist.cli.texts import plan_lines
from svc_dist.plan.model import Plan
from tests.plan.quantised.test_decoded import models, recipe


def code_lines(plan: Plan) -> list[str]:
    return [line for line in plan_lines(plan) if "from codes" in line]


def test_formats_are_named(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 blocks", ["int4", None])
    (line,) = code_lines(svc_dist.make_plan(recipe(names)))
    assert line == (
        "reads 2 weights (FP8 in blocks of 16 x 32) and 2 weights (INT4 in groups of 32) from codes, "
        "writes 2 weights (FP8 in blocks of 16 x 32) in the base's own format"
    )
    (line,) = code_lines(svc_dist.make_plan(recipe(names, quantization="none")))
    assert line.endswith("writes all as bfloat16 weights")


def test_plain_models_are_not_spoken_of(tmp_path: Path) -> None:
    names, _ = models(tmp_path, None, [None])
    assert not code_lines(svc_dist.make_plan(recipe(names)))

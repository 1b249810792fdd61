"""The whole command on checkpoints that hold the test vectors' deltas over a base: each method as a rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from tests.support.checkpoints import write_checkpoint

VECTORS = sorted((Path(__file__).parents[1] / "vectors").glob("*.safetensors"))
TOLERANCE = {"float64": 1e-10, "mixed": 5e-5, "fast": 2e-3}
POLAR = ("tsv_m", "iso_c", "iso_cts")


def rule_of(entry: str) -> dict[str, Any]:
    """The rule that asks for a vector: ``svc|of=ties|density=0.2|alpha=1.0`` and the like."""
    method, *options = entry.split("|")
    values = {key: value for key, _, value in (option.partition("=") for option in options)}
    calibrate = None
    if method == "svc":
        method = values.pop("of")
        calibrate = {"method": "svc", "alpha": float(values.pop("alpha"))}
    parameters = {key: value if key in ("init", "rank_rule") else float(value) for key, value in values.items()}
    rule: dict[str, Any] = {"merge_method": "linear" if method == "average" else method, "parameters": parameters}
    return rule | ({"calibrate": calibrate} if calibrate else {})


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("file", VECTORS, ids=lambda file: file.stem)
def test_a_merge_writes_the_vectors(file: Path, precision: str, tmp_path: Path) -> None:
    expected = load_file(file)
    experts = sum(name.startswith("delta.") for name in expected)
    deltas = [expected.pop(f"delta.{index}") for index in range(experts)]
    entries = [entry for entry in expected if not entry.endswith(("|gamma", "|sigma"))]
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(deltas[0].shape, generator=generator, dtype=torch.float64) * deltas[0].std()
    names = {entry: f"case.{number}.weight" for number, entry in enumerate(entries)}
    models = [write_checkpoint(tmp_path / "base", {name: base.clone() for name in names.values()}, shards=3)]
    for index, delta in enumerate(deltas):
        weights = {name: (base + delta).clone() for name in names.values()}
        models.append(write_checkpoint(tmp_path / f"expert{index}", weights, shards=2))
    recipe = {
        "base_model": str(models[0]),
        "models": [{"model": str(model)} for model in models[1:]],
        "merge_method": "task_arithmetic",
        "rules": [{"match": name, **rule_of(entry)} for entry, name in names.items()],
        "max_shard_size": "200KB",
    }
    svc_dist.merge(recipe, tmp_path / "out", precision=precision)
    merged: dict[str, Tensor] = {}
    for shard in (tmp_path / "out").glob("*.safetensors"):
        merged |= load_file(shard)
    wrong = []
    for entry, name in names.items():
        found = float((merged[name] - base - expected[entry]).norm() / expected[entry].norm())
        allowed = TOLERANCE[precision]
        if precision == "float64" and any(method in entry for method in POLAR):
            allowed = 1e-7
        if not found <= allowed:
            wrong.append(f"{entry}: {found:.1e} > {allowed:.0e}")
    assert not wrong

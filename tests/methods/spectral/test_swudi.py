"""SWUDI and SWUDI-A: each way to the result gives the closed form's, and nothing at rounding level is kept."""

from __future__ import annotations

import pytest
import torch

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.spectral.rank_rules import rank
from tests.support import spectral_references as plain
from tests.support.spectral_cases import adapters, error, fine_tunes, run, stack, taken

LARGEST = (512, 1376)  # SWUDI sums it in float32 at `fast`


@pytest.mark.parametrize("init", ["sum", "mean", "zero"])
@pytest.mark.parametrize("shape", [(300, 400), (500, 320)], ids=str)
def test_few_directions_from_a_krylov_space_are_those_of_the_full_decomposition(
    shape: tuple[int, int], init: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svc_dist.methods.spectral import swudi

    models = fine_tunes(*shape, 3)
    truth = plain.swudi(stack(taken(models, "float64")), rank_ratio=0.03, init=init)
    monkeypatch.setattr(swudi, "krylov_pays", lambda *_: True)
    monkeypatch.setattr(swudi, "swudi_precision", lambda rows, columns, precision: precision)  # as for larger ones
    assert error(run("swudi", taken(models, "float64"), rank_ratio=0.03, init=init).delta, truth) <= 1e-8
    assert error(run("swudi", taken(models, "mixed"), rank_ratio=0.03, init=init).delta, truth) <= 1e-5


@pytest.mark.parametrize("shape", [(20, 300), (128, 128), (192, 96), LARGEST], ids=str)
@pytest.mark.parametrize("rule", ["participation_sqrt", "participation", "entropy", "stable_rank", "cumvar_0.9"])
def test_swudi_a_minimises_on_the_directions_that_its_rule_keeps(rule: str, shape: tuple[int, int]) -> None:
    models = fine_tunes(*shape, 4)
    deltas = stack(taken(models, "float64"))
    values = torch.linalg.eigvalsh(plain.normalised(deltas)[0]).flip(0).clamp_min(1e-8)
    top = rank(rule, values, (4 * shape[0], shape[1]))
    for precision, tolerance in (("float64", 1e-8), ("mixed", 1e-5)):
        result = run("swudi_a", taken(models, precision), rank_rule=rule)
        assert result.summary["kept_rank"] == top
        assert error(result.delta, plain.swudi_a(deltas, top)) <= tolerance


def test_swudi_a_never_keeps_a_direction_at_rounding_level() -> None:
    for precision in ("float64", "mixed"):
        deltas = TaskDeltas(adapters(128, 96, (4, 4, 4)), precision=precision)
        result = run("swudi_a", deltas, rank_rule="cumvar_1.0")
        assert result.summary["kept_rank"] == 12
        assert result.summary["cut"] > 0
        assert torch.linalg.norm(result.delta) <= 4 * torch.linalg.norm(sum(deltas))


def test_several_times_take_one_decomposition_and_are_what_each_gives_alone() -> None:
    from svc_dist.methods.spectral.swudi import swudi

    deltas = taken(fine_tunes(64, 48, 3), "float64")
    times = [30.0, 300.0, 3000.0]
    together = list(swudi(deltas, exp_time=times, rank_ratio=0.5, init="mean"))
    assert len(together) == len(times)
    for time, merged in zip(times, together, strict=True):
        truth = plain.swudi(stack(deltas), exp_time=time, rank_ratio=0.5, init="mean")
        assert error(merged.delta, truth) <= 1e-8

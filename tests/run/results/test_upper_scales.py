"""One scale above several matrices: kept while it holds what is new, else the same new one for all."""

from __future__ import annotations

import torch

from svc_dist.checkpoint.formats.codecs.fp8_scaled import Fp8Scaled
from svc_dist.checkpoint.formats.codecs.nvfp4 import Nvfp4
from svc_dist.run.results.encoding import Parts, unchanged_blocks
from svc_dist.run.results.upper_scales import MergedWeight, choose_wholes

SHAPE = (8, 32)
NVFP4 = Nvfp4(SHAPE, "modelopt", ".weight", ".weight_scale_2")
FP8 = Fp8Scaled(SHAPE, "modelopt", ())


def weight(codec: Nvfp4 | Fp8Scaled, values: torch.Tensor, upper: float, changed: bool, model: int = 0) -> MergedWeight:
    """A merged weight over a model that stores ``values``, half as large where they changed, below this scale."""
    whole = {codec.of_the_whole[0]: torch.tensor(upper)}
    before = values / 2 if changed else values
    stored = codec.encode(before.bfloat16(), whole)

    def rows(matrix: int, begin: int, end: int) -> Parts:
        return {suffix: part if suffix in whole else part[begin:end] for suffix, part in stored.items()}

    new = values.bfloat16().view(-1)
    return MergedWeight(codec, new, unchanged_blocks(codec, new, before.bfloat16().view(-1), 0), rows, model)


def upper(one: MergedWeight) -> float:
    return float(next(iter(one.wholes[0].values())))


def test_a_scale_that_still_holds_the_values_is_kept() -> None:
    one = weight(NVFP4, torch.full(SHAPE, 2.0), 4 / 2688, changed=True)
    choose_wholes([one])
    assert upper(one) == torch.tensor(4 / 2688)


def test_all_that_are_run_as_one_get_a_new_scale_together() -> None:
    small = weight(NVFP4, torch.full(SHAPE, 1.0), 4 / 2688, changed=False)
    large = weight(NVFP4, torch.full(SHAPE, 8.0), 4 / 2688, changed=True)
    choose_wholes([small, large])
    assert upper(small) == upper(large) == torch.tensor(8 / 2688)
    assert small.unchanged is not None
    assert not small.unchanged.any()  # its codes stand for other values below another scale


def test_scales_of_several_models_must_be_equal() -> None:
    ones = torch.full(SHAPE, 1.0)
    one, other = (weight(NVFP4, ones, top / 2688, False, model) for model, top in ((0, 4), (1, 2)))
    choose_wholes([one, other])
    assert upper(one) == upper(other) == torch.tensor(1 / 2688)
    alike = [weight(NVFP4, ones, 4 / 2688, False, model) for model in (0, 1)]
    choose_wholes(alike)
    assert {upper(one) for one in alike} == {float(torch.tensor(4 / 2688))}


def test_one_scale_of_a_tensor_is_computed_anew_unless_nothing_changed() -> None:
    same, other = (weight(FP8, torch.full(SHAPE, 4.48), 0.5, changed) for changed in (False, True))
    choose_wholes([same])
    choose_wholes([other])
    assert upper(same) == 0.5
    assert upper(other) == torch.tensor(4.48).bfloat16().float() / 448
    (parts,) = same.encoded("cpu")
    assert same.stored is not None
    assert torch.equal(parts[".weight"].view(torch.uint8), same.stored(0, 0, 8)[".weight"].view(torch.uint8))

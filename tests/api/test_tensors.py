"""The mathematics for tensors in hand, held against the test vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.errors import NumericsError, RecipeError

VECTORS = sorted((Path(__file__).parent.parent / "vectors").glob("*.safetensors"))
TOLERANCE = {"float64": 1e-10, "mixed": 5e-5, "fast": 2e-3}


def load(file: Path) -> tuple[list[Tensor], dict[str, Tensor]]:
    tensors = load_file(file)
    deltas = [tensors.pop(f"delta.{index}") for index in range(sum(name.startswith("delta.") for name in tensors))]
    return deltas, tensors


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("precision", ["float64", "mixed", "fast"])
@pytest.mark.parametrize("file", VECTORS, ids=lambda file: file.stem)
def test_task_arithmetic_average_and_svc_agree_with_the_vectors(file: Path, precision: str) -> None:
    deltas, expected = load(file)
    tolerance = TOLERANCE[precision]
    merged = svc_dist.merge_deltas(deltas, "task_arithmetic", weight=0.3, precision=precision)
    assert error(merged, expected["task_arithmetic|weight=0.3"]) < tolerance
    assert error(svc_dist.merge_deltas(deltas, "linear", precision=precision), expected["average"]) < tolerance
    compared = 0
    for name, value in expected.items():
        if not name.startswith("svc|of=task_arithmetic") or name.endswith(("gamma", "sigma")):
            continue
        alpha = float(name.rsplit("=", 1)[1])
        calibration = {"method": "svc", "alpha": alpha}
        found = svc_dist.merge_deltas(deltas, "task_arithmetic", weight=0.3, precision=precision, calibrate=calibration)
        assert error(found, value) < tolerance
        compared += 1
    assert compared == 2


@pytest.mark.parametrize("file", VECTORS, ids=lambda file: file.stem)
def test_calibrate_gives_the_vectors_sigma_and_gamma(file: Path) -> None:
    deltas, expected = load(file)
    name = "svc|of=task_arithmetic|weight=0.3|alpha=1.0"
    result = svc_dist.calibrate(expected["task_arithmetic|weight=0.3"], deltas, alpha=1.0)
    sigma, gamma = expected[f"{name}|sigma"], expected[f"{name}|gamma"]
    real = sigma > 1e-8 * sigma[0]  # directions at rounding level have no gamma to speak of
    assert error(result.delta, expected[name]) < 1e-10
    assert error(result.sigma[real], sigma[real]) < 1e-10
    assert float((result.gamma[real] - gamma[real]).abs().max()) < 1e-6


def test_the_right_side_is_the_left_side_of_the_transpose() -> None:
    deltas, expected = load(next(file for file in VECTORS if file.stem == "wide"))
    merged = expected["task_arithmetic|weight=0.3"]
    right = svc_dist.calibrate(merged, deltas, side="right")
    left = svc_dist.calibrate(merged.T, [delta.T for delta in deltas], side="left")
    assert error(right.delta, left.delta.T) < 1e-12


def test_svc_of_one_expert_alone_changes_nothing() -> None:
    deltas, _ = load(VECTORS[0])
    assert error(svc_dist.calibrate(deltas[0], deltas[:1]).delta, deltas[0]) < 1e-12


def test_the_scale_of_the_input_does_not_matter_while_alpha_never_binds() -> None:
    torch.manual_seed(0)
    shared = torch.randn(30, 20, dtype=torch.float64)
    deltas = [shared + 0.1 * torch.randn(30, 20, dtype=torch.float64) for _ in range(3)]
    merged = sum(deltas, torch.zeros(30, 20, dtype=torch.float64))
    results = [svc_dist.calibrate(scale * merged, deltas, alpha=1e-9).delta for scale in (0.1, 1.0, 7.0)]
    assert error(results[0], results[1]) < 1e-10
    assert error(results[2], results[1]) < 1e-10


def test_inputs_are_never_modified() -> None:
    deltas, _ = load(VECTORS[0])
    before = [delta.clone() for delta in deltas]
    for method in ("linear", "task_arithmetic"):
        svc_dist.merge_deltas(deltas, method, calibrate="svc")
        svc_dist.merge_deltas([delta.float() for delta in deltas], method, calibrate="svc", precision="mixed")
    assert all(torch.equal(old, new) for old, new in zip(before, deltas, strict=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "nope"}, "method is 'nope'"),
        ({"method": "task_arithmetic", "wieght": 1}, "no parameter 'wieght'"),
        ({"method": "task_arithmetic", "weight": [1.0]}, "1 values of weight"),
        ({"method": "task_arithmetic", "weight": "much"}, "must be a number"),
        ({"method": "task_arithmetic", "calibrate": {"method": "svc", "alpha": 0}}, "above 0"),
        ({"method": "task_arithmetic", "calibrate": "svd"}, "calibrate is 'svd'"),
        ({"method": "task_arithmetic", "precision": "half"}, "must be one of"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        svc_dist.merge_deltas([torch.ones(2, 2), torch.ones(2, 2)], **arguments)  # type: ignore[arg-type]


def test_lambda_scales_the_merged_delta() -> None:
    deltas, expected = load(VECTORS[0])
    found = svc_dist.merge_deltas(deltas, "task_arithmetic", weight=0.3, **{"lambda": 2.0})
    assert error(found, 2 * expected["task_arithmetic|weight=0.3"]) < 1e-12


@pytest.mark.parametrize("method", ["task_arithmetic", "swudi"])
def test_a_convolution_kernel_is_one_matrix(method: str) -> None:
    deltas, _ = load(VECTORS[0])
    rows = len(deltas[0])
    kernels = [delta[:, : delta.shape[1] // 4 * 4].reshape(rows, -1, 2, 2) for delta in deltas]
    found = svc_dist.merge_deltas(kernels, method, calibrate="svc")
    expected = svc_dist.merge_deltas([kernel.reshape(rows, -1) for kernel in kernels], method, calibrate="svc")
    assert found.shape == kernels[0].shape
    assert torch.equal(found.reshape(rows, -1), expected)


@pytest.mark.parametrize("method", ["linear", "ties", "swudi"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_deltas_that_are_not_finite_are_an_error(method: str, value: float) -> None:
    with pytest.raises(NumericsError, match="not finite"):
        svc_dist.merge_deltas([torch.ones(3, 2), torch.full((3, 2), value)], method)


def test_weights_that_cannot_be_divided_by_are_refused_as_in_a_recipe() -> None:
    deltas = [torch.ones(2, 2), torch.ones(2, 2)]
    with pytest.raises(RecipeError, match="task_arithmetic: the weights add up to zero"):
        svc_dist.merge_deltas(deltas, "task_arithmetic", weight=[1.0, -1.0], normalize=True)


@pytest.mark.parametrize("given", [True, False, [["svc"]], {"method": ["svc"]}, {}, "svd"])
def test_a_wrong_calibration_is_named(given: Any) -> None:
    with pytest.raises(RecipeError, match="calibrate is"):
        svc_dist.merge_deltas([torch.ones(2, 2)] * 2, "linear", calibrate=given)


@pytest.mark.parametrize("given", [None, "none", {"method": "none"}])
def test_no_calibration_is_written_as_in_a_recipe(given: Any) -> None:
    assert torch.equal(svc_dist.merge_deltas([torch.eye(2)] * 2, "linear", calibrate=given), torch.eye(2).double())


def test_a_matrix_without_entries_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"merged has shape \[0, 5\]"):
        svc_dist.calibrate(torch.zeros(0, 5), [torch.zeros(0, 5)])


@pytest.mark.parametrize(
    ("method", "given"),
    [
        *((name, {}) for name in ("star", "tsv_m", "iso_c", "iso_cts", "swudi", "swudi_a", "ties", "model_stock")),
        ("sce", {"select_topk": 0.5}),
        ("task_arithmetic", {"calibrate": "svc"}),
        ("task_arithmetic", {"calibrate": {"method": "svc", "side": "right"}}),
    ],
)
def test_results_scale_with_deltas_of_any_size(method: str, given: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(3)
    plain = [torch.randn(24, 40, generator=generator) for _ in range(3)]
    expected = svc_dist.merge_deltas(plain, method, precision="mixed", **given).double()
    # The paper's guard for an expert that does not reach into a direction has a size.
    for scale in (1e20, 1e30) if "calibrate" in given else (1e-30, 1e-25, 1e-22, 1e20, 1e30):
        scaled = svc_dist.merge_deltas([delta * scale for delta in plain], method, precision="mixed", **given)
        assert error(scaled.double() / scale, expected) <= 1e-5, scale


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (2, 0, 3), (0, 2, 3)])
def test_deltas_without_entries_merge_to_one_without_entries(shape: tuple[int, ...]) -> None:
    assert svc_dist.merge_deltas([torch.zeros(shape)] * 2, "tsv_m", calibrate="svc").shape == shape


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_della_ranks_the_entries_of_a_kernel_within_the_rows_of_its_matrix(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    kernels = [torch.randn(6, 5, 3, 3, generator=generator) for _ in range(2)]
    found = svc_dist.merge_deltas(kernels, method, density=0.5)
    expected = svc_dist.merge_deltas([kernel.reshape(6, 45) for kernel in kernels], method, density=0.5)
    assert torch.equal(found.reshape(6, 45), expected)

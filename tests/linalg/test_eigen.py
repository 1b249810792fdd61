"""Eigendecompositions, Gram matrices and singular values, which the spectral methods build on.

The modules eigen, gram, krylov and svd of the folder.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg import eigen as linalg
from svc_dist.linalg import lapack
from svc_dist.linalg.eigen import leading_gram_eigen, symmetric_eigen
from svc_dist.linalg.gram import add_gram, gram, mirrored, product
from svc_dist.linalg.krylov import krylov_pays, leading_eigenpairs
from svc_dist.linalg.svd import leading_values, polar_factor, rounding_level, thin_svd


def with_spectrum(values: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    matrix = (vectors * values) @ vectors.T
    return (matrix + matrix.T) / 2


SPECTRA = {
    "decaying": torch.arange(1, 301, dtype=torch.float64) ** -1.0,
    "steep": torch.logspace(0, -18, 300, dtype=torch.float64),
    "clusters": torch.cat([torch.full((100,), value, dtype=torch.float64) for value in (2.0, 1.0, 1e-3)]),
    "of low rank": torch.cat([torch.arange(20, 0, -1.0, dtype=torch.float64), torch.zeros(280, dtype=torch.float64)]),
    "nothing": torch.zeros(300, dtype=torch.float64),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("count", [1, 17, 150, 299, 300])
def test_eigenpairs_are_orthonormal_and_fit(name: str, count: int) -> None:
    matrix, scale = with_spectrum(SPECTRA[name]), float(SPECTRA[name].max()) or 1.0
    values, vectors, residual = symmetric_eigen(matrix, "A", count=count)
    assert residual <= 1e-12
    assert torch.allclose(values, SPECTRA[name], atol=1e-13 * scale, rtol=0)
    assert vectors.shape == (300, count)
    assert torch.linalg.norm(vectors.T @ vectors - torch.eye(count)) <= 1e-10
    assert torch.linalg.norm(matrix @ vectors - vectors * values[:count]) <= 1e-12 * scale


@pytest.mark.parametrize("size", [1, 2, 3, 191, 192, 193, 194, 400])
def test_eigenpairs_of_every_size(size: int) -> None:
    matrix = with_spectrum(torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)))
    values, vectors, _ = symmetric_eigen(matrix, "A")
    assert torch.linalg.norm((vectors * values) @ vectors.T - matrix) <= 1e-11
    assert torch.linalg.norm(vectors.T @ vectors - torch.eye(size)) <= 1e-10


def test_a_diagonal_matrix_has_reflectors_that_do_nothing() -> None:
    values, vectors, _ = symmetric_eigen(torch.diag(torch.tensor([1.0, 3.0, 2.0, 0.0], dtype=torch.float64)), "A")
    assert values.tolist() == [3.0, 2.0, 1.0, 0.0]
    assert vectors.abs().argmax(0).tolist() == [1, 2, 0, 3]


def test_vectors_in_float32_are_orthonormal_to_its_precision() -> None:
    matrix = with_spectrum(SPECTRA["decaying"])
    vectors = symmetric_eigen(matrix, "A", dtype=torch.float32).vectors
    exact = symmetric_eigen(matrix, "A").vectors
    assert vectors.dtype == torch.float32
    assert float((vectors.double().T @ exact).diagonal().abs().sub(1).abs().max()) <= 1e-6


def test_the_matrix_is_kept_unless_given_away() -> None:
    matrix = with_spectrum(SPECTRA["decaying"])
    before = matrix.clone()
    symmetric_eigen(matrix, "A")
    assert torch.equal(matrix, before)
    symmetric_eigen(matrix, "A", overwrite=True)
    assert not torch.equal(matrix, before)


def test_the_other_method_steps_in_where_lapack_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    routine = lapack._routine

    def failing(name: str):
        return (lambda *arguments: None) if name == "dstemr" else routine(name)  # reports nothing found

    matrix = with_spectrum(SPECTRA["decaying"])
    expected = symmetric_eigen(matrix, "A", count=20)[1]
    monkeypatch.setattr(lapack, "_routine", failing)
    vectors = symmetric_eigen(matrix, "A", count=20)[1]
    assert float((vectors.T @ expected).diagonal().abs().sub(1).abs().max()) <= 1e-10


def test_no_convergence_is_an_error_that_names_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object) -> Tensor:
        raise lapack.NotConvergedError("LAPACK info 7")

    monkeypatch.setattr(lapack.Tridiagonal, "values", failing)
    with pytest.raises(NumericsError, match="the Gram matrix did not converge: LAPACK info 7"):
        symmetric_eigen(torch.eye(4, dtype=torch.float64), "the Gram matrix")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_before_lapack_sees_it(value: float) -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[1, 2] = value
    with pytest.raises(NumericsError, match="some matrix has entries that are not finite"):
        symmetric_eigen(matrix, "some matrix")


@pytest.mark.parametrize("shape", [(30, 50), (700, 300), (300, 2100), (1, 1)], ids=str)
def test_gram_matrices_in_float64_of_float32_matrices_are_exact_to_float64(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = matrix.double() @ matrix.double().T
    assert torch.linalg.norm(gram(matrix) - expected) <= 1e-13 * torch.linalg.norm(expected)
    assert torch.equal(gram(matrix), gram(matrix).T)
    total = torch.zeros_like(expected)
    add_gram(total, matrix.double(), 0.5)
    assert torch.linalg.norm(mirrored(total) - expected / 2) <= 1e-13 * torch.linalg.norm(expected)


def test_a_product_in_float64_needs_no_copy_of_its_matrix() -> None:
    generator = torch.Generator().manual_seed(2)
    left = torch.randn(7, 40, generator=generator, dtype=torch.float64)
    matrix = torch.randn(40, 2500, generator=generator)
    assert torch.allclose(product(left, matrix), left @ matrix.double(), rtol=1e-14)


@pytest.mark.parametrize("name", ["decaying", "steep", "of low rank"])
@pytest.mark.parametrize("count", [1, 10, 30])
def test_the_krylov_space_finds_the_leading_pairs_of_the_full_decomposition(name: str, count: int) -> None:
    matrix = with_spectrum(SPECTRA[name])
    found = leading_eigenpairs(lambda block: block @ matrix, 300, count)
    assert found is not None
    values, vectors = found
    assert torch.allclose(values, SPECTRA[name][:count], atol=1e-13 * float(SPECTRA[name][0]), rtol=0)
    expected = symmetric_eigen(matrix, "A", count=count)[1]
    resolved = int((SPECTRA[name][:count] > 1e-12 * SPECTRA[name][0]).sum())
    gap = float((SPECTRA[name][resolved - 1] - SPECTRA[name][resolved]) / SPECTRA[name][0])
    distance = vectors[:, :resolved] - expected[:, :resolved] @ (expected[:, :resolved].T @ vectors[:, :resolved])
    assert torch.linalg.norm(distance) <= 1e-11 / gap
    assert torch.linalg.norm(vectors.T @ vectors - torch.eye(count)) <= 1e-11


def test_the_krylov_space_gives_up_where_it_does_not_converge() -> None:
    matrix = torch.diag(1 + 1e-13 * torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    matrix[0, 0] = 2
    spread = torch.diag(torch.linspace(1, 1.001, 400, dtype=torch.float64))
    assert leading_eigenpairs(lambda block: block @ spread, 400, 5, tolerance=1e-16) is None
    assert leading_eigenpairs(lambda block: block @ matrix * float("nan"), 400, 5) is None


def test_where_the_krylov_space_gives_up_the_full_decomposition_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(40, 60, generator=torch.Generator().manual_seed(3))
    expected = leading_gram_eigen(matrix, 4, "A", torch.float64).vectors
    monkeypatch.setattr(linalg, "krylov_pays", lambda *_: True)
    monkeypatch.setattr(linalg, "leading_eigenpairs", lambda *arguments, **options: None)
    assert torch.equal(leading_gram_eigen(matrix, 4, "A", torch.float64).vectors, expected)


def test_a_krylov_space_pays_only_for_few_of_many() -> None:
    assert krylov_pays(4096, 409)
    assert not krylov_pays(4096, 1024)
    assert krylov_pays(2048, 180)
    assert not krylov_pays(2048, 180, "cuda:0")
    assert not krylov_pays(512, 8)


def test_the_krylov_space_starts_from_the_same_vectors_every_time() -> None:
    matrix = with_spectrum(SPECTRA["decaying"])
    results = [leading_eigenpairs(lambda block: block @ matrix, 300, 5) for _ in range(2)]
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_thin_svd_gives_the_matrix_back(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(dtype)
    svd = thin_svd(matrix, "A", dtype=torch.float64)
    rebuilt = (svd.left * svd.values) @ svd.right
    assert svd.cut == 0
    assert torch.linalg.norm(rebuilt - matrix) <= 1e-12 * torch.linalg.norm(matrix.double())
    assert torch.allclose(svd.values, torch.linalg.svdvals(matrix.double()), rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_at_rounding_level_are_cut_and_counted(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(60, 7, generator=generator).double() @ torch.randn(7, 40, generator=generator).double()
    svd = thin_svd(matrix.to(dtype), "A", dtype=torch.float64)
    assert (len(svd.values), svd.cut) == (7, 33)
    assert thin_svd(matrix.to(dtype), "A", count=3).cut == 0
    assert len(thin_svd(matrix.to(dtype), "A", scale=1e20).values) == 0
    assert rounding_level(matrix.to(dtype)) < 1e-5


def test_polar_factors_leave_out_what_is_linearly_dependent() -> None:
    generator = torch.Generator().manual_seed(6)
    basis = torch.linalg.qr(torch.randn(50, 10, generator=generator, dtype=torch.float64))[0]
    twice = torch.cat([basis, basis], 1)  # two experts that agree
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        factor, cut, _ = polar_factor(twice, "B", dtype)
        assert cut == 10
        assert torch.linalg.norm(factor - twice / 2**0.5) <= tolerance * 10
        wide, wide_cut, _ = polar_factor(twice.T, "B", dtype)
        assert wide_cut == cut
        assert torch.linalg.norm(wide.T - factor) <= tolerance * 10


def test_the_spectral_norm_is_known_well_enough_for_a_rounding_level() -> None:
    matrix = torch.randn(80, 120, generator=torch.Generator().manual_seed(7))
    assert 0.9 <= leading_values(matrix, 1)[0] / float(torch.linalg.matrix_norm(matrix, 2)) <= 1.0001

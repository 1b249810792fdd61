"""LAPACK's routines through their addresses: the pairs of a symmetric matrix, and other threads run meanwhile."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import Tensor

from svc_dist.linalg import lapack
from svc_dist.linalg.lapack import Tridiagonal, usable


def symmetric(size: int) -> Tensor:
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    return matrix + matrix.T


@pytest.mark.parametrize("size", [1, 2, 5, 193, 250])
def test_values_and_vectors_are_those_of_the_matrix(size: int) -> None:
    matrix = symmetric(size)
    form = Tridiagonal(matrix.clone())
    expected = torch.linalg.eigvalsh(matrix)
    assert torch.allclose(form.values(), expected, atol=1e-11)
    count = (size + 1) // 2
    vectors = form.vectors(count, torch.float64)
    assert torch.allclose(matrix @ vectors, vectors * expected.flip(0)[:count], atol=1e-10)
    assert torch.allclose(vectors.T @ vectors, torch.eye(count, dtype=torch.float64), atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_where_all_eigenvalues_agree_the_vectors_are_orthonormal_still(dtype: torch.dtype) -> None:
    vectors = Tridiagonal(2 * torch.eye(60, dtype=torch.float64)).vectors(60, dtype)
    assert vectors.dtype == dtype
    assert torch.allclose(vectors.T @ vectors, torch.eye(60, dtype=dtype), atol=1e-5)


def test_no_vectors_are_none() -> None:
    assert Tridiagonal(symmetric(9)).vectors(0, torch.float64).shape == (9, 0)


def test_what_the_routines_take() -> None:
    assert usable(symmetric(3))
    assert not usable(symmetric(3).float())
    assert not usable(torch.zeros(4, 6, dtype=torch.float64)[:, ::2])


def test_lapack_lets_other_threads_run() -> None:
    matrix = symmetric(300).repeat(3, 3)
    progress: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            progress.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    for _ in range(3):
        lapack.Tridiagonal(matrix.clone())
    end = time.perf_counter()
    done.set()
    thread.join()
    assert sum(start < moment < end for moment in progress) >= 5

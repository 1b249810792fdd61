"""Numbers of threads are held while work is in flight, and restored after it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from svc_dist.errors import RecipeError
from svc_dist.linalg.threads import load_lapack, threads_fixed


def blas() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def in_new_thread(call: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def numbers() -> tuple[int, int, set[int]]:
    """Torch's number in this thread and in a new one, and those of the BLAS libraries."""
    return torch.get_num_threads(), in_new_thread(torch.get_num_threads), blas()


@pytest.fixture(autouse=True)
def _two(two_threads: None) -> None:
    load_lapack()


def test_the_number_is_in_force_in_new_threads_and_everything_is_restored() -> None:
    before = numbers()
    with threads_fixed(3):
        assert numbers() == (2, 3, {3})
        with threads_fixed(3):
            pass
        assert numbers() == (2, 3, {3})
    assert numbers() == before


def test_limits_that_the_caller_has_set_are_in_force_again_afterwards() -> None:
    outside = blas()
    with threadpool_limits(2, "blas"):
        before = numbers()

        def work() -> int:  # in a thread to which threadpoolctl does not listen meanwhile
            with threads_fixed(1):
                assert numbers()[1:] == (1, {1})
            return 0

        in_new_thread(work)
        assert numbers() == before
    assert blas() == outside


def test_without_a_number_blas_takes_torchs_of_this_thread_or_the_one_in_force() -> None:
    before = numbers()
    with threads_fixed():
        assert numbers() == (2, before[1], {2})
    with threads_fixed(1), threads_fixed():
        assert blas() == {1}
    assert numbers() == before


def test_the_last_one_to_leave_restores() -> None:
    before, entered, leave = numbers(), threading.Event(), threading.Event()

    def stay() -> None:
        with threads_fixed(3):
            entered.set()
            leave.wait(60)

    with threads_fixed(3):
        thread = threading.Thread(target=stay)
        thread.start()
        assert entered.wait(60)
    assert blas() == {3}
    leave.set()
    thread.join()
    assert numbers() == before


def test_another_number_is_refused_while_one_is_held() -> None:
    with threads_fixed(1):
        with (
            pytest.raises(RecipeError, match="units with 1 threads run in this process, none with 2"),
            threads_fixed(2),
        ):
            pass
        assert blas() == {1}


def test_work_on_tensors_in_a_thread_with_another_number_waits_and_gets_its_own() -> None:
    entered, seen = threading.Event(), []

    def other() -> None:
        torch.set_num_threads(1)
        entered.set()
        with threads_fixed():
            seen.append(blas())

    with threads_fixed():
        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(60)
        with threads_fixed():  # of the same thread: it does not wait for itself
            thread.join(0.2)
            assert blas() == {2}
        assert not seen
    thread.join(60)
    assert seen == [{1}]


def test_every_library_is_loaded_before_work_starts() -> None:
    code = (
        "import sys, torch; from svc_dist.linalg.threads import threads_fixed\n"
        "assert 'scipy.linalg' not in sys.modules\n"
        "with threads_fixed(): assert 'scipy.linalg' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("count", [None, 1])
@pytest.mark.parametrize("interface", ["older", "newer"])
def test_products_of_float32_are_not_rounded_to_tf32_whatever_the_caller_set(count: int | None, interface: str) -> None:
    matmul: Any = torch.backends.cuda.matmul
    try:
        if interface == "older":
            torch.set_float32_matmul_precision("high")
        else:
            matmul.fp32_precision = "tf32"
        with threads_fixed(count):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
        if interface == "older":
            assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
        matmul.fp32_precision = "none"

"""No test talks to a hub or reports usage: set before anything imports the libraries that would."""

from __future__ import annotations

import functools
import gc
import logging
import os
import secrets
from collections.abc import Iterator
from unittest import mock

import pytest
import typer.main
import typer.testing
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray reads its token from HOME once per process, a node that it starts reads it anew: with tests that have homes of
# their own it would find none, and end.
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

# A busy machine is no bug: examples are bounded by number, not by time.
settings.register_profile("svc_dist", deadline=None, max_examples=60)
settings.load_profile("svc_dist")


def pytest_collection_finish() -> None:
    """What is there for good, the libraries and the tests themselves, is nothing for a collection to look through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def commands_built_once() -> Iterator[None]:
    """typer builds all commands anew for each call, which takes as long as a small plan; a process calls it once."""
    built = functools.cache(typer.main.get_command)
    with mock.patch("typer.main.get_command", built), mock.patch("typer.testing._get_command", built):
        yield


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A command that runs in this process sends the package's log to standard error: for its own test only."""
    log = logging.getLogger("svc_dist")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors on a busy machine: threads would wait for each other most of the time."""
    import torch
    from threadpoolctl import threadpool_limits

    from svc_dist.linalg.threads import load_lapack

    torch.set_num_threads(1)
    load_lapack()
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Another number than what work in this process may have left, for tests that see it kept."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)

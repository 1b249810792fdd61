"""What the tests of linear algebra share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def small_tensors(one_thread: None) -> None:
    """All tests of the methods."""

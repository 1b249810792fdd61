"""What a start of the merge command decides before it runs."""

from __future__ import annotations

import pytest

from svc_dist.errors import RecipeError
from svc_dist.run.host import detect_device
from svc_dist.run.session import Options, _settings


@pytest.mark.skipif(detect_device() == "cuda", reason="this machine has a GPU")
def test_a_driver_without_a_gpu_may_merge_on_a_clusters() -> None:
    assert _settings(Options(device="cuda", address="head:6379"), None).device == "cuda"
    with pytest.raises(RecipeError, match="no CUDA device"):
        _settings(Options(device="cuda"), None)

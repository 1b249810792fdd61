"""What this machine has, and the settings of a run on it."""

from __future__ import annotations

import pytest

from svc_dist.errors import RecipeError
from svc_dist.plan.settings import SettingsRequest
from svc_dist.run.host import detect_device, settings_here


@pytest.mark.skipif(detect_device() == "cuda", reason="this machine has a GPU")
def test_a_driver_without_a_gpu_may_merge_on_a_clusters() -> None:
    request = SettingsRequest(device="cuda")
    assert settings_here(request, None, cluster=True).device == "cuda"
    with pytest.raises(RecipeError, match="no CUDA device"):
        settings_here(request, None)

"""The resources of this machine, its memory from fake trees of /proc and control groups, and the settings of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.errors import RecipeError
from svc_dist.plan.settings import Settings, SettingsRequest
from svc_dist.run.devices import cuda
from svc_dist.run.host import available_memory, detect_device, device_memory, require_kind, settings_here

GIB = 2**30
V2_MOUNT = "31 24 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "40 32 0:35 {root} /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory"


def machine(root: Path, available: int, cgroup: str, mount: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 999 kB\nMemAvailable: {available // 1024} kB\nHugePages_Total: 0\n")
    (root / "proc/self/cgroup").write_text(cgroup + "\n")
    (root / "proc/self/mountinfo").write_text(f"25 1 8:1 / / rw - ext4 /dev/sda1 rw\n{mount}\n")
    return root


def v2(folder: Path, limit: int | str, used: int, inactive: int = 0, active: int = 0, high: int | str = "max") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.high").write_text(f"{high}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon 1\nfile {inactive + active}\ninactive_file {inactive}\nactive_file {active}\n"
    )


def v1(folder: Path, limit: int, used: int, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"inactive_file 7\ntotal_inactive_file {inactive}\ntotal_active_file 0\n")


def test_without_control_groups_the_machine_decides(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, 12 * GIB, "0::/", "")) == 12 * GIB


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == 8 * GIB


def test_cached_inputs_do_not_count_as_used(tmp_path: Path) -> None:
    """A pod of 64 GB whose page cache is full of inputs."""
    root = machine(tmp_path, 400 * GIB, "0::/", V2_MOUNT.format(root="/"))
    v2(root / "sys/fs/cgroup", 64 * GIB, 63 * GIB, inactive=40 * GIB, active=20 * GIB)
    assert available_memory(root) == 61 * GIB


@pytest.mark.parametrize(("pod", "slice_", "expected"), [(32, 64, 31), (64, 32, 30)])
def test_the_smallest_limit_on_the_way_up_counts(tmp_path: Path, pod: int, slice_: int, expected: int) -> None:
    root = machine(tmp_path, 400 * GIB, "0::/jobs.slice/pod/worker", V2_MOUNT.format(root="/"))
    top = root / "sys/fs/cgroup"
    v2(top / "jobs.slice/pod/worker", "max", GIB)
    v2(top / "jobs.slice/pod", pod * GIB, GIB)
    v2(top / "jobs.slice", slice_ * GIB, 2 * GIB)
    assert available_memory(root) == expected * GIB


def test_memory_high_limits_too(tmp_path: Path) -> None:
    root = machine(tmp_path, 400 * GIB, "0::/job", V2_MOUNT.format(root="/"))
    v2(root / "sys/fs/cgroup/job", 64 * GIB, GIB, high=16 * GIB)
    assert available_memory(root) == 15 * GIB


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    root = machine(tmp_path, 400 * GIB, "4:cpu,cpuacct:/x\n9:memory:/docker/abc\n0::/x", V1_MOUNT.format(root="/"))
    v1(root / "sys/fs/cgroup/memory/docker/abc", 64 * GIB, 60 * GIB, inactive=50 * GIB)
    v1(root / "sys/fs/cgroup/memory", 9223372036854771712, 300 * GIB)
    assert available_memory(root) == 54 * GIB


@pytest.mark.parametrize("own", ["/docker/abc", "/", "/../../other"])
def test_a_mount_that_shows_only_this_container(tmp_path: Path, own: str) -> None:
    root = machine(tmp_path, 400 * GIB, f"9:memory:{own}", V1_MOUNT.format(root="/docker/abc"))
    v1(root / "sys/fs/cgroup/memory", 8 * GIB, 2 * GIB)
    assert available_memory(root) == 6 * GIB


def test_more_used_than_allowed_leaves_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path, 400 * GIB, "0::/job", V2_MOUNT.format(root="/"))
    v2(root / "sys/fs/cgroup/job", GIB, 2 * GIB)
    assert available_memory(root) == 0


def test_this_machine() -> None:
    assert 0 < available_memory() < 2**50


@pytest.mark.skipif(detect_device() == "cuda", reason="this machine has a GPU")
def test_a_gpu_that_is_asked_for_and_is_not_here_is_refused_with_the_reason() -> None:
    with pytest.raises(RecipeError, match=r"torch can use no GPU here: torch .* is built for") as refused:
        settings_here(SettingsRequest(device="cuda"), None)
    assert refused.value.code == "cuda-unusable"
    with pytest.raises(RecipeError, match="torch can use no GPU here"):  # not an empty list of devices
        device_memory("cuda")


def test_a_gpu_that_torch_cannot_use_is_no_silent_merge_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda, "has_driver", lambda: True)
    monkeypatch.setattr(cuda, "usable", lambda: False)
    assert settings_here(SettingsRequest(), None).device == "cpu"
    (said,) = caplog.messages
    assert said.startswith("warning: merging on the CPU, because torch can use no GPU here: torch ")


def test_a_run_is_resumed_on_its_kind_of_gpu_only() -> None:
    begun = Settings("mixed", 1, "cuda", "H100", "2.13.0+cu130")
    require_kind(begun, "H100", "2.13.0+cu130")
    require_kind(Settings(device="cuda"), "A100", "2.11.0")
    for gpu, build in (("A100", "2.13.0+cu130"), ("H100", "2.13.0+cu126")):
        with pytest.raises(RecipeError, match=r"begun on H100 with torch 2\.13\.0\+cu130, and here is"):
            require_kind(begun, gpu, build)

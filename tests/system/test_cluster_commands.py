"""What the files of cluster/ run, on a Ray cluster of this machine, with stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import environment, shard_hashes, short_home
from tests.support.s3_servers import free_ports
from tests.test_kubernetes_files import built

CLUSTER = Path(__file__).parents[2] / "cluster"

SRUN = """#!/usr/bin/env bash
# srun: takes its options, runs the rest here, and hands a signal on to all of it.
echo "$*" >>"$CALLS/srun"
while [[ $1 == --* ]]; do shift; done
setsid "$@" &
trap 'kill -TERM -- "-$!"' TERM
wait "$!"
wait "$!"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
  show) printf 'one\\ntwo\\n' ;;
  *) echo "$*" >>"$CALLS/scontrol" ;;
esac
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merge of many units."""
    folder = tmp_path_factory.mktemp("merge")
    models = write_llamas(folder / "models", experts=2, layers=12, hidden=64, intermediate=128, vocabulary=500)
    return write_recipe(folder / "recipe.yaml", models, calibrate="svc", max_shard_size="20KB")


@pytest.fixture(scope="module")
def inline(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("inline") / "out"
    svc_dist.merge(recipe, output)
    return shard_hashes(output)


def processes(home: Path) -> list[int]:
    """Whatever still runs with its home there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HOME={home}\0".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def commands(home: Path) -> list[str]:
    """What they run."""
    found = []
    for pid in processes(home):
        with suppress(OSError):
            found.append(f"{pid}: " + Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def tools(folder: Path, **scripts: str) -> str:
    """A PATH that begins with these scripts and this interpreter's own commands."""
    folder.mkdir()
    own = {
        "python": f'exec {sys.executable} "$@"',
        "ray": f'exec {sys.executable} -m ray.scripts.scripts "$@"',
        "svc-dist": f'exec {sys.executable} -m svc_dist "$@"',
    }
    for name, text in (own | scripts).items():
        (folder / name).write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


class Slurm:
    """slurm.sh as a job of two nodes of one core each, which are both here."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = environment(home) | {
            "PATH": tools(home / "bin", srun=SRUN, scontrol=SCONTROL),
            "CALLS": str(home),
            "TMPDIR": str(home),
            "PYTHON": sys.executable,
            "HEAD_IP": "127.0.0.1",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "[one,two]",
            "SLURM_CPUS_ON_NODE": "1",
        }

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        script = [str(CLUSTER / "slurm.sh"), *map(str, arguments)]
        with (self.home / "log").open("w") as log:
            return subprocess.Popen(script, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def run(self, *arguments: str | Path) -> tuple[int, str]:
        """Exit code and log of a job."""
        code = self.start(*arguments).wait(240)
        return code, self.log()

    def log(self) -> str:
        return (self.home / "log").read_text()

    def called(self, command: str) -> list[str]:
        calls = self.home / command
        return calls.read_text().splitlines() if calls.exists() else []

    def assert_nothing_left(self) -> None:
        assert not list(self.home.glob(".svc-dist-*")), "the token is left behind"
        assert not (self.home / "svc-7").exists(), "a node's files are left behind"
        until = time.monotonic() + 30  # a worker that was starting ends once it finds its node gone
        while processes(self.home) and time.monotonic() < until:
            time.sleep(0.1)
        assert not commands(self.home), "processes are left behind"


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    with short_home() as home:
        yield Slurm(home)
        for pid in processes(home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_slurm_job_whose_time_is_up_is_requeued_and_goes_on(
    slurm: Slurm, recipe: Path, inline: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    code, said = slurm.run(recipe, output, "--max-runtime", "0.01")
    assert code == 75, said
    assert slurm.called("scontrol") == ["requeue 7"]
    slurm.assert_nothing_left()
    done = list(output.glob(".svc_dist/receipts/*"))  # none, where the nodes took longer to answer than that
    code, said = slurm.run(recipe, output)
    assert code == 0, said
    assert '"executor": "ray"' in said
    assert ("resuming: " in said) == bool(done)
    assert shard_hashes(output) == inline
    assert slurm.called("scontrol") == ["requeue 7"], "a merge that is done is not requeued"
    slurm.assert_nothing_left()
    steps = slurm.called("srun")
    assert [("--nodelist=one" in step, "--head" in step) for step in steps] == [(True, True), (False, False)] * 2


@pytest.mark.slow
def test_slurms_warning_stops_a_merge_in_order(
    slurm: Slurm, recipe: Path, inline: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    job = slurm.start(recipe, output)
    while job.poll() is None and not list(output.glob(".svc_dist/receipts/*")):
        time.sleep(0.005)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(240) == 75, slurm.log()
    assert '"message": "the merge is not complete"' in slurm.log()
    assert slurm.called("scontrol") == ["requeue 7"]
    slurm.assert_nothing_left()
    svc_dist.merge(recipe, output)
    assert shard_hashes(output) == inline


@pytest.mark.slow
def test_a_slurm_job_that_cannot_succeed_is_not_requeued(slurm: Slurm, tmp_path: Path) -> None:
    code, said = slurm.run(tmp_path / "no.yaml", tmp_path / "out")
    assert code == 2
    assert "cannot read the recipe" in said
    assert slurm.called("scontrol") == []
    slurm.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize(("told", "requeued"), [(signal.SIGUSR1, ["requeue 7"]), (signal.SIGTERM, [])])
def test_a_slurm_job_whose_time_is_up_while_its_cluster_starts_is_requeued_and_a_cancelled_one_is_not(
    slurm: Slurm, tmp_path: Path, told: signal.Signals, requeued: list[str]
) -> None:
    job = slurm.start(tmp_path / "no.yaml", tmp_path / "out")
    while not slurm.called("srun"):
        time.sleep(0.05)
    job.send_signal(told)
    assert job.wait(120) == 75, slurm.log()
    assert slurm.called("scontrol") == requeued
    assert not list(slurm.home.glob(".svc-dist-*")), "the token is left behind"


@contextmanager
def ray_head(variables: dict[str, str]) -> Iterator[str]:
    """A cluster of one node with two CPUs. Its address."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    options = ["--num-cpus=2", "--object-store-memory=100000000", "--include-dashboard=false"]
    head = subprocess.Popen([*command, *options, f"--port={port}"], env=variables, stdout=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(60)


def deployed(name: str) -> dict[str, Any]:
    """The objects of a deployment by kind, the variables in place of its settings."""
    objects = {entry["kind"]: entry for entry in built(name) if entry["metadata"]["name"] != "svc-dist-recipe"}
    assert objects["ConfigMap"]["metadata"]["name"] == "svc-dist-env"
    return objects


@pytest.mark.slow
def test_the_drivers_of_kubernetes_end_with_the_merges_exit_codes(
    recipe: Path, inline: dict[str, str], tmp_path: Path
) -> None:
    found = deployed("raycron")
    driver = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    entrypoint = shlex.split(deployed("rayjob")["RayJob"]["spec"]["entrypoint"])
    outputs = tmp_path / "merged"
    with short_home() as home:
        variables = environment(home) | found["ConfigMap"]["data"] | {"PATH": tools(home / "bin")}
        variables |= {entry["name"]: entry["value"] for entry in driver["env"]}
        (home / "token").write_text("0123456789abcdef" * 4)
        variables |= {"RAY_AUTH_TOKEN_PATH": str(home / "token"), "OUTPUT": f"{outputs}/{{date}}"}

        def start(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
            here = [word.replace("/scratch", str(tmp_path / "scratch")) for word in command]
            return subprocess.run(here, env=variables | more, text=True, capture_output=True, check=False, timeout=240)

        try:
            with ray_head({name: value for name, value in variables.items() if name != "RAY_ADDRESS"}) as address:
                cron = [*driver["command"], *driver["args"]]
                while start(["ray", "status", "--address", address], RAY_ADDRESS="").returncode:
                    time.sleep(0.5)
                done = start(cron, RAY_ADDRESS=address, RECIPE=str(tmp_path / "no.yaml"))
                assert done.returncode == 2, done.stderr
                assert "cannot read the recipe" in done.stderr
                done = start(cron, RAY_ADDRESS=address, RECIPE=str(recipe))
                assert done.returncode == 0, done.stderr
                assert '"executor": "ray"' in done.stderr
                (output,) = outputs.glob("20*")
                assert (outputs / "latest").resolve() == output
                assert shard_hashes(output) == inline
                done = start(cron, RAY_ADDRESS=address, RECIPE=str(recipe))
                assert done.returncode == 0, done.stderr
                assert list(outputs.glob("20*")) == [output], "nothing has changed"
                assert entrypoint[2:4] == ["/etc/svc-dist/recipe.yaml", found["ConfigMap"]["data"]["OUTPUT"]]
                entrypoint[2:4] = [str(recipe), str(output)]
                done = start(entrypoint, RAY_ADDRESS=address)
                assert done.returncode == 0, done.stderr
                assert "complete" in done.stderr
        finally:
            for pid in processes(home):  # in a container they end with it
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

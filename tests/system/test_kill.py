"""Killed at any instant and started again: the same bytes, and nothing that has a receipt is done twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import svc_dist
from svc_dist.checks.status import read_status
from svc_dist.errors import ChangedInputError, ExitCode
from svc_dist.run_folder.segments import ledger
from tests.support import dying
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import command, environment, run, shard_hashes, short_home, started


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About a hundred units of some tens of milliseconds each."""
    folder = tmp_path_factory.mktemp("models")
    models = write_llamas(folder, experts=3, layers=16, hidden=192, intermediate=448, vocabulary=800)
    return write_recipe(folder / "recipe.yaml", models, calibrate="svc", max_shard_size="150KB")


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("expected") / "out"
    report = svc_dist.merge(recipe, output)
    assert report.units > 80
    return shard_hashes(output)


def receipts(output: Path) -> dict[str, tuple[int, int]]:
    """Each receipt with its inode and time: a unit that ran again would leave another."""
    folder = output / ".svc_dist" / "receipts"
    if not folder.exists():
        return {}
    found = {}
    with suppress(FileNotFoundError):  # a merge that is complete removes them while this looks
        for path in folder.iterdir():
            if not path.name.startswith("."):
                status = path.stat()
                found[path.name] = (status.st_ino, status.st_mtime_ns)
    return found


@dataclass
class Killer:
    """Starts a merge over and over, and kills it some time after it began to leave receipts."""

    recipe: Path
    output: Path
    home: Path
    executor: str
    rng: random.Random
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)
    kills: int = 0
    interrupted: int = 0

    def start(self) -> tuple[Callable[[], int | None], Callable[[], None], Callable[[], Any]]:
        """Start a merge. Returns what asks for its exit code, what kills it and what waits for its end."""
        if self.executor == "inline":
            forked = dying.start(yaml.safe_load(self.recipe.read_text()), str(self.output))
            return lambda: forked.exitcode, forked.kill, forked.join
        arguments = command("merge", self.recipe, self.output, "--executor", self.executor, "--slots", "2")
        process = subprocess.Popen(
            arguments, env=environment(self.home), stderr=subprocess.DEVNULL, start_new_session=True
        )
        group = partial(os.killpg, process.pid, signal.SIGKILL)  # with what it started
        return process.poll, group if self.rng.random() < 0.5 else process.kill, process.wait

    def strike(self, within: float) -> bool:
        """One start, killed at a random moment up to ``within`` seconds after its first new receipt, or before it."""
        poll, kill, wait = self.start()
        before = len(self.kept)
        delay = self.rng.uniform(0, within)
        early = self.rng.random() < 0.2
        while poll() is None and not early and len(receipts(self.output)) <= before:
            time.sleep(0.01)
        time.sleep(delay)
        if poll() is not None:
            assert poll() == 0
            return True
        kill()
        wait()
        self.kills += 1
        now = receipts(self.output)
        if (self.output / "model.safetensors.index.json").exists():  # it was through, or all but for clearing up
            svc_dist.merge(self.recipe, self.output, executor="inline")
            assert not (self.output / ".svc_dist").exists()
            return True
        assert {name: now.get(name) for name in self.kept} == self.kept, "a unit with a receipt ran again"
        self.interrupted += len(now) > len(self.kept)
        self.kept = now
        return False


def kill_and_resume(killer: Killer, kills: int, within: float, expected: dict[str, str]) -> None:
    """Kill often enough (starting over when a merge gets through), then let it finish, and compare."""
    rounds = 0
    while killer.kills < kills:
        if killer.strike(within):
            assert shard_hashes(killer.output) == expected
            rounds += 1
            killer.output = killer.output.with_name(f"out{rounds}")
            killer.kept = {}
    resumed = len(killer.kept)
    report = svc_dist.merge(killer.recipe, killer.output, executor="inline")
    assert report.units_resumed >= resumed  # a worker that outlived its driver may have added some
    assert shard_hashes(killer.output) == expected
    assert not (killer.output / ".svc_dist").exists()
    assert killer.interrupted >= kills // 2, "most kills must hit a merge in the middle"


def test_fourteen_kills_inline(recipe: Path, expected: dict[str, str], tmp_path: Path) -> None:
    killer = Killer(recipe, tmp_path / "out", tmp_path / "home", "inline", random.Random(1))
    kill_and_resume(killer, 14, 0.25, expected)


def test_three_kills_ray(recipe: Path, expected: dict[str, str], tmp_path: Path) -> None:
    with short_home() as home:
        kill_and_resume(Killer(recipe, tmp_path / "out", home, "ray", random.Random(2)), 3, 0.25, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("executor", "kills", "seed"), [("inline", 40, 3), ("ray", 12, 4)])
def test_many_more_kills(
    recipe: Path, expected: dict[str, str], tmp_path: Path, executor: str, kills: int, seed: int
) -> None:
    with short_home() as home:
        kill_and_resume(Killer(recipe, tmp_path / "out", home, executor, random.Random(seed)), kills, 0.25, expected)


@pytest.mark.slow
def test_ten_kills_while_receipts_go_into_small_segments(
    recipe: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "SEGMENT", 4)
    kill_and_resume(Killer(recipe, tmp_path / "out", tmp_path / "home", "inline", random.Random(6)), 10, 0.25, expected)


@pytest.fixture(scope="module")
def stopped_once(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    killer = Killer(recipe, folder / "out", folder / "home", "inline", random.Random(5))
    while not killer.kept:
        assert not killer.strike(0.1)
    return folder / "out"


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A merge that was killed in the middle: the test's own copy of it."""
    return shutil.copytree(stopped_once, tmp_path / "out")


def test_status_of_a_killed_merge_says_what_is_left(stopped: Path) -> None:
    status = read_status(str(stopped))
    assert status.state.startswith("stopped")
    assert 0 < status.done < status.units
    assert status.done + status.left == status.units
    assert "run the same command again" in run("status", stopped, home=stopped.parent).out


def test_a_changed_recipe_is_refused_with_what_changed(recipe: Path, stopped: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text() + "parameters: {lambda: 0.5}\n")
    with pytest.raises(ChangedInputError, match=r"recipe: parameters: lambda: was None, is 0.5"):
        svc_dist.merge(other, stopped)


def test_a_changed_input_is_refused_with_the_file(recipe: Path, stopped: Path) -> None:
    shard = next((recipe.parent / "expert1").glob("model-00001*"))
    before = shard.stat()
    try:
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        with pytest.raises(ChangedInputError, match=rf"expert1/{shard.name}: was"):
            svc_dist.merge(recipe, stopped)
    finally:
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_other_settings_are_refused_and_none_means_the_runs(
    recipe: Path, stopped: Path, expected: dict[str, str]
) -> None:
    with pytest.raises(ChangedInputError, match="settings: precision: was mixed, is fast"):
        svc_dist.merge(recipe, stopped, precision="fast")
    svc_dist.merge(recipe, stopped)
    assert shard_hashes(stopped) == expected


def test_receipts_of_a_shard_that_is_gone_count_for_nothing(
    recipe: Path, stopped: Path, expected: dict[str, str]
) -> None:
    for file in (*(stopped / ".svc_dist" / "partial").iterdir(), *stopped.glob("model-*")):
        file.unlink()
    report = svc_dist.merge(recipe, stopped)
    assert report.units_resumed == 0
    assert shard_hashes(stopped) == expected


def test_sigterm_drains_and_asks_to_be_started_again(recipe: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    output = tmp_path / "out"
    with started("merge", recipe, output, home=tmp_path / "home") as process:
        while not receipts(output):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == ExitCode.TRY_AGAIN
    assert "run the same command again" in said
    assert 0 < len(receipts(output)) < 90
    run("merge", recipe, output, home=tmp_path / "home")
    assert shard_hashes(output) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_merge_is_planned_asks_for_another_start(tmp_path: Path, number: signal.Signals) -> None:
    recipe = tmp_path / "recipe.yaml"
    os.mkfifo(recipe)
    with started("merge", recipe, tmp_path / "out", home=tmp_path / "home") as process, recipe.open("w"):
        process.send_signal(number)  # it waits for what the recipe says
        _, said = process.communicate(timeout=60)
    assert process.returncode == ExitCode.TRY_AGAIN
    assert "run the same command again" in said


def test_restart_begins_anew(recipe: Path, stopped: Path, expected: dict[str, str]) -> None:
    report = svc_dist.merge(recipe, stopped, restart=True)
    assert report.units_resumed == 0
    assert shard_hashes(stopped) == expected

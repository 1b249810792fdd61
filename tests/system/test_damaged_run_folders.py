"""Run folders that something damaged: a clear error or the work done again, never other bytes, never a hang."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.checkpoint import layout
from svc_dist.errors import ExitCode
from svc_dist.plan.model import Unit
from svc_dist.plan.tables.tensors import TensorRow
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.receipt import sealed
from tests.support.checkpoints import INDEX, tree_state, write_llamas, write_recipe
from tests.support.command import Run, shard_hashes
from tests.support.stopped import stop_merge

SEEDS = [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 24))]
FEW = 12  # receipts of the run that was stopped
END, MEMORY = (Unit.__struct_fields__.index(name) for name in ("end", "memory"))
KIND, PLACES_OF_ROW = (TensorRow.__struct_fields__.index(name) for name in ("kind", "places"))


@dataclass
class Stopped:
    """A merge that was stopped, in a folder of the test's own, and the bytes that it must end with."""

    recipe: Path
    out: Path
    expected: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.out / ".svc_dist"

    @property
    def receipts(self) -> list[Path]:
        return sorted((self.folder / "receipts").iterdir())

    @property
    def partial(self) -> Path:
        return next(file for file in sorted((self.folder / "partial").iterdir()) if file.stat().st_blocks)


def finished(stopped: Stopped) -> object:
    """The records of finished shards: a run that was stopped early has none."""
    return tree_state(stopped.folder / "shards") if (stopped.folder / "shards").exists() else {}


@pytest.fixture(scope="module", autouse=True)
def _small_ranges() -> Iterator[None]:
    """Ranges so small that a shard of a few kilobytes has several units."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "MIN_RANGE", 512)
        patch.setattr(layout, "MAX_RANGE", 1024)
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, _small_ranges: None) -> Stopped:
    folder = tmp_path_factory.mktemp("original")
    recipe = write_recipe(folder / "r.yaml", write_llamas(folder), max_shard_size="6kB", calibrate="svc")
    svc_dist.merge(recipe, folder / "whole", executor="inline", device="cpu")
    stop_merge(recipe, folder / "out", FEW, shards=1)
    return Stopped(recipe, folder / "out", shard_hashes(folder / "whole"))


@pytest.fixture
def stopped(original: Stopped, tmp_path: Path) -> Iterator[Stopped]:
    shutil.copytree(original.out, tmp_path / "out")

    def hangs(*_: object) -> None:
        raise TimeoutError("a command hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(120)
    yield Stopped(original.recipe, tmp_path / "out", original.expected)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


Damage = Callable[[Stopped], Any]


def other_receipt(stopped: Stopped) -> None:
    shutil.copy(stopped.receipts[0], stopped.folder / "receipts" / "000015.json")
    shutil.copy(stopped.receipts[0], stopped.receipts[1])


def renamed_receipt(stopped: Stopped) -> None:
    """Another unit's receipt that says it were this unit's, with a seal: only the range itself tells."""
    first = json.loads(stopped.receipts[0].read_bytes())
    undone = next(f"{n:06d}" for n in range(1000) if not (stopped.folder / f"receipts/{n:06d}.json").exists())
    body = {key: value for key, value in first.items() if key != "seal"} | {"unit": undone}
    text = json.dumps(body, separators=(",", ":")).encode()
    (stopped.folder / f"receipts/{undone}.json").write_bytes(sealed(text))


def flipped(path: Path, offset: int = 5000) -> None:
    data = bytearray(path.read_bytes())
    data[offset % len(data)] ^= 1
    path.write_bytes(data)


def plan(stopped: Stopped, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((stopped.folder / "plan.json").read_bytes())
    change(content)
    (stopped.folder / "plan.json").write_text(json.dumps(content))


def replaced(name: str, make: Callable[[Path], Any]) -> Damage:
    def damage(stopped: Stopped) -> None:
        path = stopped.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return damage


def full_folder(path: Path) -> None:
    path.mkdir()
    (path / "x").write_text("x")


KINDS: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "a folder": full_folder,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a loop": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "deep": lambda path: path.write_text("[" * 200_000),
    "nested": lambda path: path.write_text('{"id":' * 5000 + "1" + "}" * 5000),
    "of another type": lambda path: path.write_text('[1, null, {"a": "b"}]'),
    "numbers that are none": lambda path: path.write_text('{"id": NaN, "pid": 1e999, "heartbeat": Infinity}'),
    "unpaired": lambda path: path.write_text('{"id": "\\ud800", "host": "\\udfff", "pid": "x", "heartbeat": null}'),
    "endless": lambda path: (path.write_bytes(b""), os.truncate(path, 5 << 30)),
}
PLACES = {(place, kind) for place in ("plan.json", "lock", "receipts/000000.json") for kind in KINDS}
PLACES |= {
    (place, kind) for place in ("failures.json", "receipts", "partial") for kind in ("a pipe", "a folder", "deep")
}


def finish(run: Run, stopped: Stopped, recorded: bool = True) -> None:
    """Look at the run, then resume it; where that is refused, start over. The bytes are right in the end.

    ``recorded``: whether the run folder says which finished shards are the run's, so that they may be removed.
    """
    before = {file for file in tree_state(stopped.recipe.parent) if not file.startswith("out")}
    for command in (["status", stopped.out], ["plan", stopped.recipe, stopped.out]):
        looked = run(*command)
        assert looked.code in (ExitCode.DONE, ExitCode.USAGE, ExitCode.INPUT, ExitCode.STORAGE), looked.err
        assert "Traceback" not in looked.err
    ended = run("merge", stopped.recipe, stopped.out)
    if ended.code != ExitCode.DONE:
        assert ended.code in (ExitCode.INPUT, ExitCode.STORAGE, ExitCode.USAGE), ended.err
        assert "Traceback" not in ended.err
        assert not (stopped.out / INDEX).exists()
        again = run("merge", stopped.recipe, stopped.out, "--restart")
        if not recorded and again.code == ExitCode.USAGE:
            assert "already holds" in again.err
            return
        assert again.code == ExitCode.DONE, f"{ended.err}\n{again.err}"
    assert shard_hashes(stopped.out) == stopped.expected
    assert not stopped.folder.exists()
    assert {file for file in tree_state(stopped.recipe.parent) if not file.startswith("out")} == before


@pytest.mark.parametrize(("place", "kind"), sorted(PLACES))
def test_what_is_no_file_of_a_run_neither_hangs_nor_ends_in_a_trace(
    run: Run, stopped: Stopped, place: str, kind: str
) -> None:
    replaced(place, KINDS[kind])(stopped)
    finish(run, stopped)


@pytest.mark.parametrize("place", ["plan.json", "lock", "receipts/000000.json", "partial"])
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "deep", "a device"])
def test_a_damaged_run_can_be_cleaned_away(run: Run, stopped: Stopped, place: str, kind: str) -> None:
    replaced(place, KINDS[kind])(stopped)
    (stopped.out / "notes.txt").write_text("mine")
    cleaned = run("clean", stopped.out, "--yes")
    assert cleaned.code == ExitCode.DONE, cleaned.err
    assert not stopped.folder.exists()
    assert (stopped.out / "notes.txt").read_text() == "mine"


DAMAGES: dict[str, Damage] = {
    "another unit's receipt": other_receipt,
    "another unit's receipt under a false name": renamed_receipt,
    "a receipt of a flipped bit": lambda s: flipped(s.receipts[2], 40),
    "a receipt that was cut": lambda s: os.truncate(s.receipts[2], 100),
    "a flipped bit in a partial file": lambda s: flipped(s.partial),
    "a partial file of zeros": lambda s: s.partial.write_bytes(bytes(s.partial.stat().st_size)),
    "a partial file of another size": lambda s: os.truncate(s.partial, 5),
    "no partial files": lambda s: shutil.rmtree(s.folder / "partial"),
    "no receipts": lambda s: shutil.rmtree(s.folder / "receipts"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_receipts_and_ranges_cost_their_units_only(run: Run, stopped: Stopped, damage: Damage) -> None:
    damage(stopped)
    ended = run("merge", stopped.recipe, stopped.out)
    assert ended.code == ExitCode.DONE, ended.err
    assert shard_hashes(stopped.out) == stopped.expected
    assert run("verify", stopped.out, "--deep").code == ExitCode.DONE


PLANS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "shard names": lambda p: [shard.update(file=f"evil-{n}.safetensors") for n, shard in enumerate(p["shards"])],
    "shard names outside": lambda p: p["shards"][0].update(file="../../evil.safetensors"),
    "ranges": lambda p: p["units"][0].__setitem__(END, p["units"][0][END] - 4),
    "sizes": lambda p: p["shards"][0].update(size=p["shards"][0]["size"] + 8),
    "swapped tensors": lambda p: p["tensors"]["rows"].insert(0, p["tensors"]["rows"].pop()),
    "sources": lambda p: p["tensors"]["kinds"][0].update(sources=p["tensors"]["kinds"][0]["sources"][:1] * 3),
    "places": lambda p: p["tensors"]["rows"][0][PLACES_OF_ROW].__setitem__(1, 0),
    "no place": lambda p: p["tensors"]["rows"][0].__setitem__(PLACES_OF_ROW, []),
    "kinds": lambda p: p["tensors"]["rows"][0].__setitem__(KIND, -1),
    "sidecars": lambda p: p["sidecars"][0].update(name="notes.txt"),
    "results": lambda p: p["results"][0].update(path="elsewhere"),
    "weights": lambda p: p["results"][0]["dispositions"][0].update(parameters={"weight": [9, 9], "lambda": 3.0}),
    "settings": lambda p: p["settings"].update(threads_per_unit=2**40),
    "its fingerprint": lambda p: p.update(fingerprint="0" * 64),
}


@pytest.mark.parametrize("change", PLANS.values(), ids=PLANS.keys())
def test_a_plan_that_was_edited_is_refused_and_nothing_is_written_by_it(
    run: Run, stopped: Stopped, change: Callable[[dict[str, Any]], Any]
) -> None:
    (stopped.out / "notes.txt").write_text("mine")
    plan(stopped, change)
    before = tree_state(stopped.out)
    ended = run("merge", stopped.recipe, stopped.out)
    assert ended.code == ExitCode.INPUT, ended.err
    assert "plan.json" in ended.err
    assert "--restart" in ended.err
    after = tree_state(stopped.out)
    assert {name: after[name] for name in after if name != ".svc_dist"} == {
        name: before[name] for name in before if name != ".svc_dist"
    }
    finish(run, stopped)
    assert (stopped.out / "notes.txt").read_text() == "mine"


def test_costs_and_reasons_of_a_plan_are_those_of_the_plan_made_anew(run: Run, stopped: Stopped) -> None:
    def change(content: dict[str, Any]) -> None:
        content["warnings"] = ["\x1b[31mforged"]
        for unit in content["units"]:
            unit[MEMORY] = 2**62

    plan(stopped, change)
    ended = run("merge", stopped.recipe, stopped.out)
    assert ended.code == ExitCode.DONE
    assert "forged" not in ended.err
    assert shard_hashes(stopped.out) == stopped.expected


def test_a_link_in_the_run_folder_is_not_written_through(run: Run, stopped: Stopped, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in (stopped.partial.name, "lock"):
        (theirs / name).write_bytes(b"theirs" * 1000)
    size = stopped.partial.stat().st_size
    os.truncate(theirs / stopped.partial.name, size)
    before = tree_state(theirs)
    first = stopped.partial
    first.unlink()
    first.symlink_to(theirs / first.name)
    (stopped.folder / "lock").unlink(missing_ok=True)
    (stopped.folder / "lock").symlink_to(theirs / "lock")
    finish(run, stopped)
    assert tree_state(theirs) == before


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_link_to_an_input_in_place_of_a_partial_file_is_not_written_through(
    run: Run, stopped: Stopped, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    theirs = tmp_path / "theirs.safetensors"
    shutil.copy(stopped.partial, theirs)
    before = theirs.read_bytes()
    target = next(file for file in sorted((stopped.folder / "partial").iterdir(), reverse=True))
    os.truncate(theirs, target.stat().st_size)
    before = theirs.read_bytes()
    target.unlink()
    link(theirs, target)
    finish(run, stopped)
    assert theirs.read_bytes() == before


def test_a_run_folder_that_is_a_link_or_a_file_is_refused(run: Run, stopped: Stopped, tmp_path: Path) -> None:
    shutil.move(stopped.folder, tmp_path / "elsewhere")
    stopped.folder.symlink_to(tmp_path / "elsewhere")
    for options in ([], ["--restart"]):
        ended = run("merge", stopped.recipe, stopped.out, *options)
        assert ended.code == ExitCode.USAGE
        assert "is a symbolic link" in ended.err
    stopped.folder.unlink()
    stopped.folder.write_text("mine")
    for options in ([], ["--restart"]):
        ended = run("merge", stopped.recipe, stopped.out, *options)
        assert ended.code in (ExitCode.USAGE, ExitCode.STORAGE), ended.err
    assert stopped.folder.read_text() == "mine"


def test_a_finished_shard_that_changed_since_is_not_published(run: Run, stopped: Stopped) -> None:
    shard = next(file for file in sorted(stopped.out.glob("*.safetensors")))
    good = shard.read_bytes()
    flipped(shard)
    ended = run("merge", stopped.recipe, stopped.out)
    assert ended.code == ExitCode.INPUT
    assert f"{shard.name} is not what this run wrote" in ended.err
    shard.write_bytes(good)  # another time, the same content
    finish(run, stopped)


def test_a_report_that_names_others_files_does_not_have_them_removed(run: Run, stopped: Stopped) -> None:
    assert run("merge", stopped.recipe, stopped.out).code == ExitCode.DONE
    (stopped.out / "thesis.txt").write_text("mine")
    (stopped.out.parent / "outside.txt").write_text("mine")
    report = stopped.out / "merge_report.json"
    content = json.loads(report.read_text())
    content["files"] += ["thesis.txt", "../outside.txt", "/etc/nothing", "sub/../thesis.txt"]
    report.write_text(json.dumps(content))
    assert run("merge", stopped.recipe, stopped.out, "--restart").code == ExitCode.DONE
    assert (stopped.out / "thesis.txt").read_text() == "mine"
    assert (stopped.out.parent / "outside.txt").read_text() == "mine"


def _mutate(data: bytes, chance: random.Random) -> bytes:
    """A file as a bad disk, a text editor or an adversary may leave it."""
    kind = chance.randrange(6)
    position = chance.randrange(len(data) + 1)
    if kind == 0:
        return data[:position]
    if kind == 1:
        return data[:position] + bytes([chance.randrange(256)]) + data[position + 1 :]
    if kind == 2:
        return data[:position] + data[max(0, position - 40) :]
    if kind == 3:
        return data.replace(str(chance.randrange(10)).encode(), str(chance.randrange(10)).encode(), 1)
    try:
        content = json.loads(data)
    except ValueError:
        return bytes(len(data))
    values: list[Any] = [None, -1, 2**70, "", "../x", "\x1b[31m", [], {}, 1e308, True, "\ud800", [[[]]]]
    node = content
    for _ in range(chance.randrange(1, 6)):
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        if not keys:
            break
        key = chance.choice(keys)
        if chance.random() < 0.4 or not isinstance(node[key], dict | list):
            node[key] = chance.choice(values)
            break
        node = node[key]
    return json.dumps(content, separators=(",", ":")).encode()


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_changes_in_a_run_folder_the_bytes_are_right_or_the_error_clear(
    run: Run, stopped: Stopped, seed: int
) -> None:
    chance, recorded = random.Random(seed), finished(stopped)
    for _ in range(chance.randrange(1, 4)):
        files = [file for file in sorted(stopped.folder.rglob("*")) if file.is_file()]
        victim = chance.choice(files if chance.random() < 0.7 else [stopped.folder / "plan.json"])
        victim.write_bytes(_mutate(victim.read_bytes(), chance))
        if chance.random() < 0.2:
            chance.choice(files).write_bytes(chance.choice(files).read_bytes())
    finish(run, stopped, finished(stopped) == recorded)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_changes_in_a_finished_merge_no_command_ends_in_a_trace(
    run: Run, original: Stopped, tmp_path: Path, seed: int
) -> None:
    shutil.copytree(original.out.parent / "whole", tmp_path / "out")
    chance = random.Random(1000 + seed)
    names = ["merge_report.json", "merge_report.json", INDEX, "config.json"]
    victim = tmp_path / "out" / chance.choice(names)
    victim.write_bytes(_mutate(victim.read_bytes(), chance))
    page = tmp_path / "page.html"
    out = tmp_path / "out"
    for command in (
        ["verify", out, "--deep"], ["status", out], ["report", out, "--html", page], ["plan", original.recipe, out],
        ["merge", original.recipe, out],
    ):  # fmt: skip
        ended = run(*command)
        assert ended.code in (ExitCode.DONE, ExitCode.USAGE, ExitCode.INPUT, ExitCode.STORAGE), ended.err
        assert "Traceback" not in ended.err
        assert "\x1b[31m" not in ended.out + ended.err.replace("\x1b[31merror", "error")
    assert Output(str(tmp_path / "out")).storage.names()

"""Hostile inputs and places through the real command: a clear error, its exit code, and nothing harmed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file

from svc_dist.errors import ExitCode
from svc_dist.run_folder.lock import LocalLock
from tests.support.checkpoints import (
    INDEX,
    entry,
    llama_config,
    llama_like,
    poke,
    raw_file,
    specs_of,
    tree_state,
    write_checkpoint,
    write_index,
    write_llamas,
    write_recipe,
)
from tests.support.command import Ended, Run
from tests.support.command import run as run_process

FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
HEAD, EMBED, NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"


@dataclass
class World:
    """A base, two experts and a recipe, all sound, and where the merge should go."""

    folder: Path
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def expert(self) -> Path:
        return self.folder / "expert1"

    @property
    def models(self) -> list[Path]:
        return [self.folder / name for name in ("base", "expert0", "expert1")]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def recipe_file(self) -> Path:
        return write_recipe(self.folder / "r.yaml", self.models, **self.recipe)

    def inputs(self) -> dict[str, dict[str, tuple[int, str]]]:
        return {model.name: tree_state(model) for model in self.models if model.exists()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    write_llamas(tmp_path)
    return World(tmp_path)


def refuse(
    run: Run, world: World, code: int, *words: str, output: str | Path | None = None, options: Sequence[str] = ()
) -> Ended:
    """Run a merge that must fail: by this code, with these words, and with no harm done."""
    output = world.out if output is None else output
    before = world.inputs()
    ended = run("merge", world.recipe_file, output, *options)
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert "error: " in ended.err
    for word in words:
        assert word in ended.err
    assert "Traceback" not in ended.err
    assert world.inputs() == before
    assert not (Path(output) / INDEX).exists()
    return ended


def merged(run: Run, world: World, output: Path | None = None, *options: str) -> dict[str, str]:
    """Run a merge that must succeed; the hashes of what it wrote."""
    target = output or world.out
    ended = run("merge", world.recipe_file, target, *options)
    assert ended.code == ExitCode.DONE, ended.err
    return weights(target)


def weights(folder: Path) -> dict[str, str]:
    files = [folder / INDEX, *sorted(folder.glob("*.safetensors"))]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def truncate(world: World) -> None:
    os.truncate(world.expert / SECOND, (world.expert / SECOND).stat().st_size - 10)


def header(world: World, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header of an expert's second shard, its data as it is."""
    file = world.expert / SECOND
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    parsed = json.loads(data[8:end])
    changed = change(parsed)
    raw_file(file, parsed if changed is None else changed, data[end:])


def move(by: int) -> Callable[[World], None]:
    def shift(parsed: dict[str, Any]) -> None:
        offsets = max((part["data_offsets"] for name, part in parsed.items() if name != "__metadata__"))
        offsets[:] = [offset + by for offset in offsets]

    return lambda world: header(world, shift)


def duplicate(parsed: dict[str, Any]) -> bytes:
    text = json.dumps(parsed)
    return (text[:-1] + f', "{NORM}": {json.dumps(parsed[NORM])}}}').encode()


def index(world: World, **changed: str) -> None:
    data = json.loads((world.expert / INDEX).read_text())["weight_map"]
    write_index(world.expert, data | {name.replace("__", "."): file for name, file in changed.items()})


def unnamed(world: World) -> None:
    data = json.loads((world.expert / INDEX).read_text())["weight_map"]
    del data[NORM]
    write_index(world.expert, data)


def outside(world: World) -> None:
    shutil.copy(world.expert / SECOND, world.folder / "outside.safetensors")
    index(world, lm_head__weight="../outside.safetensors")


def pickled(world: World) -> None:
    shutil.rmtree(world.expert)
    world.expert.mkdir()
    torch.save(llama_like(2), world.expert / "pytorch_model.bin")


def empty(world: World) -> None:
    shutil.rmtree(world.expert)
    world.expert.mkdir()


def a_file(world: World) -> None:
    shutil.rmtree(world.expert)
    world.expert.write_text("x")


def save(world: World, folder: Path, **options: Any) -> None:
    shutil.rmtree(folder)
    write_checkpoint(folder, llama_like(2, **options), config=llama_config())


def without_norm(world: World) -> None:
    tensors = llama_like(2)
    del tensors[NORM]
    shutil.rmtree(world.expert)
    write_checkpoint(world.expert, tensors)


def zeros_of(world: World) -> None:
    """An interrupted save: right length, nothing in it."""
    (world.expert / FIRST).write_bytes(bytes((world.expert / FIRST).stat().st_size))


Case = tuple[Callable[[World], Any], int, tuple[str, ...]]

BAD_CHECKPOINTS: dict[str, Case] = {
    "truncated shard": (truncate, 3, (SECOND, "truncated", "download or save it again")),
    "shard of no bytes": (lambda w: (w.expert / FIRST).write_bytes(b""), 3, (FIRST, "too short")),
    "shard of zeros": (zeros_of, 3, (FIRST, "does not begin with '{'")),
    "header beyond the file": (
        lambda w: raw_file(w.expert / SECOND, b"{}", length=10_000_000),
        3,
        (SECOND, "header length 10,000,000 reaches past the end of the file"),
    ),
    "header of 2^63 bytes": (
        lambda w: raw_file(w.expert / SECOND, b"{}", length=2**63), 3, (SECOND, "exceeds the format's limit")
    ),
    "overlapping offsets": (move(-2), 3, (SECOND, "tensor", "overlaps the tensor before it")),
    "hole": (move(2), 3, (SECOND, "tensor", "leaves a hole before it")),
    "duplicate name": (lambda w: header(w, duplicate), 3, (SECOND, f"'{NORM}' stands there twice")),
    "wrong size for its dtype": (
        lambda w: header(w, lambda h: h[NORM].update(dtype="F32")), 3, (SECOND, NORM, "F32", "needs 64 bytes")
    ),
    "unknown dtype": (lambda w: header(w, lambda h: h[NORM].update(dtype="Q4")), 3, (SECOND, NORM, "dtype 'Q4'")),
    "impossible shape": (
        lambda w: header(w, lambda h: h[NORM].update(shape=[2**62] * 400)), 3, (SECOND, NORM, "impossible shape")
    ),
    "index naming a file outside": (outside, 3, (INDEX, HEAD, "'../outside.safetensors'", "outside the checkpoint")),
    "index naming a missing file": (
        lambda w: (w.expert / SECOND).unlink(), 3, (SECOND, "missing", "download the model again")
    ),
    "index naming a pickle": (
        lambda w: index(w, lm_head__weight="a.bin"), 3, (INDEX, HEAD, "'a.bin'", "not a safetensors file")
    ),
    "tensor in a file but not in the index": (unnamed, 3, (NORM, SECOND, "index does not name it")),
    "tensor in another file than the index says": (
        lambda w: index(w, model__norm__weight=FIRST), 3, (NORM, SECOND, FIRST)
    ),
    "index that is no JSON": (lambda w: (w.expert / INDEX).write_text("{"), 3, (INDEX, "not a safetensors index")),
    "config that is no JSON": (
        lambda w: (w.base / "config.json").write_text("{"), 3, ("base/config.json", "not valid JSON")
    ),
    "another shape": (
        lambda w: save(w, w.expert, vocabulary=48),
        2,
        (f"{EMBED}: shape [40, 16] in the base, [48, 16] in", "expert1", "no rule is offered to paste"),
    ),
    "missing tensor": (without_norm, 2, (f"{NORM}: missing in", "expert1", "no rule is offered to paste")),
    "missing tensor of the base": (
        lambda w: save(w, w.base, head=False), 2, (f"{HEAD}: in", "expert1", "but not in the base", "keep: base")
    ),
    "another number of layers": (lambda w: save(w, w.expert, layers=1), 2, ("9 tensors", "... and 1 more", "expert1")),
    "pickles only": (pickled, 3, ("expert1", "pytorch_model.bin", "pickle", "save_pretrained")),
    "empty folder": (empty, 4, ("expert1", "nothing is there", "check the path")),
    "missing folder": (lambda w: shutil.rmtree(w.expert), 2, ("models[1].model", "expert1: no such folder")),
    "missing base": (lambda w: shutil.rmtree(w.base), 2, ("base_model", "base: no such folder")),
    "a file for a folder": (
        a_file, 2, ("expert1: a file, but a model is a folder",)
    ),
    "nan in an expert": (
        lambda w: poke(w.expert / SECOND, HEAD, 77, float("nan")),
        3,
        (f"expert1/{SECOND}", HEAD, "nan at element 77 of shape [40, 16]", "keep this tensor of the base"),
    ),
    "inf in an expert": (
        lambda w: poke(w.expert / SECOND, NORM, 3, float("inf")), 3, (f"expert1/{SECOND}", NORM, "inf at element 3")
    ),
    "nan in the base": (
        lambda w: poke(w.base / FIRST, EMBED, 0, float("nan")), 3, (f"base/{FIRST}", EMBED, "nan at element 0")
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "code", "words"), BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS.keys())
def test_a_bad_checkpoint_is_told_from_a_good_one(
    run: Run, world: World, damage: Callable[[World], Any], code: int, words: tuple[str, ...]
) -> None:
    damage(world)
    refuse(run, world, code, *words)
    if code != ExitCode.INPUT or "element" not in str(words):
        assert not world.out.exists()  # refused by its headers: nothing was begun


BAD_RECIPES: dict[str, tuple[dict[str, Any], int, tuple[str, ...]]] = {
    "unknown key": ({"calibrat": "svc"}, 2, ("r.yaml:6 (calibrat)", "unknown key", "did you mean 'calibrate'?")),
    "unknown parameter": (
        {"parameters": {"lamda": 1}, "calibrate": "svc"},
        2,
        ("(parameters.lamda)", "did you mean 'lambda'?"),
    ),
    "rule that matches nothing": (
        {"rules": [{"match": "embed_tokens*", "keep": "base"}]},
        2,
        ("rules[0].match", "matches no tensor", "begin one with *"),
    ),
    "rule in another's shadow": (
        {"rules": [{"match": "*", "keep": "base"}, {"match": "lm_head*", "calibrate": "svc"}]},
        2,
        ("rules[1].match", "rules[0]", "put the narrower rule first"),
    ),
    "unknown method": ({"method": "task_arithmatic"}, 2, ("merge_method", "did you mean 'task_arithmetic'?")),
    "overflowing dtype": (
        {"parameters": {"lambda": 1e12}, "dtype": "float16"}, 6, ("does not fit into float16", "wider `dtype`")
    ),
    "unknown protocol": (
        {"models": [{"model": "nosuch://host/model"}]}, 2, ("models[0].model", "nosuch://host/model", "known: paths, ")
    ),
    "credentials": (
        {"models": [{"model": "https://user:s3cr3t@host/model"}]}, 2, ("models[0].model", "carries a credential")
    ),
    "signature": (
        {"models": [{"model": "https://host/m?X-Amz-Signature=s3cr3t"}]}, 2, ("models[0].model", "'X-Amz-Signature'")
    ),
    "shared access signature": (
        {"base_model": "https://host/m?sv=1&sig=s3cr3t"}, 2, ("base_model", "'sig'", "environment")
    ),
    "token": ({"base_model": "https://host/m?token=s3cr3t"}, 2, ("base_model", "'token'", "environment")),
}  # fmt: skip


@pytest.mark.parametrize(("keys", "code", "words"), BAD_RECIPES.values(), ids=BAD_RECIPES.keys())
def test_a_bad_recipe_is_told_with_its_place_and_remedy(
    run: Run, world: World, keys: dict[str, Any], code: int, words: tuple[str, ...]
) -> None:
    world.recipe = keys
    ended = refuse(run, world, code, *words)
    assert "s3cr3t" not in ended.err
    for file in world.folder.rglob("*"):
        assert not file.is_file() or file.name == "r.yaml" or b"s3cr3t" not in file.read_bytes()


def test_damage_of_an_expert_can_be_kept_out_by_a_rule(run: Run, world: World) -> None:
    poke(world.expert / SECOND, NORM, 3, float("nan"))
    refuse(run, world, ExitCode.INPUT, "nan")
    world.recipe = {"rules": [{"match": NORM, "keep": "base"}]}
    assert merged(run, world, world.folder / "kept")


@pytest.mark.parametrize("calibrate", ["none", "svc"])
@pytest.mark.parametrize("tensor", ["model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_nan_is_found_whatever_the_method(run: Run, world: World, calibrate: str, tensor: str) -> None:
    world.recipe = {"calibrate": calibrate}
    file = next(path for path in sorted(world.expert.glob("*.safetensors")) if tensor in specs_of(path))
    poke(file, tensor, 100, float("nan"))
    refuse(run, world, ExitCode.INPUT, str(file), tensor, "nan at element 100")


def test_a_nan_in_a_tensor_kept_from_the_base_is_found(run: Run, world: World) -> None:
    world.recipe = {"rules": [{"match": NORM, "keep": "base"}]}
    poke(world.base / SECOND, NORM, 5, float("nan"))
    refuse(run, world, ExitCode.INPUT, f"base/{SECOND}", NORM, "nan at element 5")


def test_a_run_is_not_resumed_with_an_input_that_changed(run: Run, world: World) -> None:
    poke(world.expert / SECOND, NORM, 3, float("nan"))
    refuse(run, world, ExitCode.INPUT, "nan")
    poke(world.expert / SECOND, NORM, 3, 1.0)
    refuse(run, world, ExitCode.INPUT, "since then this changed", f"expert1/{SECOND}: was", "--restart")
    world.recipe = {"parameters": {"lambda": 0.5}}
    refuse(run, world, ExitCode.INPUT, "recipe: parameters: lambda: was None, is 0.5")
    assert merged(run, world, world.out, "--restart")


def test_a_complete_output_is_not_overwritten_by_another_merge(run: Run, world: World) -> None:
    before = merged(run, world)
    assert merged(run, world) == before
    world.recipe = {"method": "linear"}
    ended = run("merge", world.recipe_file, world.out)
    assert ended.code == ExitCode.INPUT
    assert "complete merge of something else" in ended.err
    assert weights(world.out) == before
    assert merged(run, world, world.out, "--restart") != before


def test_a_restart_that_cannot_begin_leaves_the_old_output(run: Run, world: World) -> None:
    before = merged(run, world)
    without_norm(world)
    assert run("merge", world.recipe_file, world.out, "--restart").code == ExitCode.USAGE
    assert weights(world.out) == before
    assert run("verify", world.out, "--deep").code == ExitCode.DONE


def test_a_run_folder_that_cannot_be_read_can_be_restarted(run: Run, world: World) -> None:
    (world.out / ".svc_dist").mkdir(parents=True)
    (world.out / ".svc_dist/plan.json").write_text("{")
    refuse(run, world, ExitCode.INPUT, "plan.json cannot be read", "--restart")
    assert merged(run, world, world.out, "--restart")


@pytest.mark.parametrize("options", [(), ("--restart",)], ids=["start", "restart"])
@pytest.mark.parametrize("place", ["expert1", "expert1/inside", "expert1/deep/inside", ".", "link"])
def test_inputs_and_output_cannot_lie_inside_one_another(
    run: Run, world: World, place: str, options: tuple[str, ...]
) -> None:
    (world.folder / "link").symlink_to(world.expert)
    before = tree_state(world.folder)
    output = world.folder / place
    index_before = (output / INDEX).exists()
    recipe = world.recipe_file
    ended = run("merge", recipe, output, *options)
    assert ended.code == ExitCode.USAGE
    assert "lie inside one another" in ended.err
    assert "inputs are never written to" in ended.err
    assert (output / INDEX).exists() == index_before
    after = tree_state(world.folder)
    assert {name: state for name, state in after.items() if name not in (".", "r.yaml")} == {
        name: state for name, state in before.items() if name != "."
    }


def test_an_input_that_is_itself_a_merge_survives_a_restart_over_it(run: Run, world: World) -> None:
    merged(run, world)
    first = world.out
    recipe = write_recipe(world.folder / "again.yaml", [first, *world.models[1:]])
    before = tree_state(first)
    ended = run("merge", recipe, first, "--restart")
    assert ended.code == ExitCode.USAGE
    assert tree_state(first) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"theirs"), (SECOND, b"theirs"), ("config.json", b"{}"), ("README.md", b"")],
)
@pytest.mark.parametrize("options", [(), ("--restart",)], ids=["start", "restart"])
def test_an_output_with_another_s_files_is_left_alone(
    run: Run, world: World, name: str, content: bytes, options: tuple[str, ...]
) -> None:
    world.out.mkdir()
    (world.out / name).write_bytes(content)
    before = tree_state(world.out)
    refuse(run, world, ExitCode.USAGE, name, "no run of", "OUTPUT", options=options)
    assert {file: state for file, state in tree_state(world.out).items() if file != "."} == {
        file: state for file, state in before.items() if file != "."
    }


def test_notes_in_the_output_are_no_hindrance_and_stay(run: Run, world: World) -> None:
    world.out.mkdir()
    (world.out / "notes.md").write_text("mine")
    assert merged(run, world)
    assert (world.out / "notes.md").read_text() == "mine"


def test_an_output_on_an_unknown_storage_is_refused_clearly(run: Run, world: World) -> None:
    before = sorted(world.folder.rglob("*"))
    url = "nosuch://bucket/out"
    refuse(run, world, ExitCode.USAGE, "svc_dist knows no storage nosuch://", "s3://", output=url)
    assert [path for path in sorted(world.folder.rglob("*")) if path.name != "r.yaml"] == before


def test_a_remote_output_s_credentials_are_not_repeated(run: Run, world: World) -> None:
    for command in (["merge", world.recipe_file], ["verify"], ["status"]):
        ended = run(*command, "s3://key:s3cr3t@bucket/out")
        assert ended.code == ExitCode.USAGE
        assert "s3cr3t" not in ended.out + ended.err


def test_an_output_that_is_a_file_is_refused(run: Run, world: World) -> None:
    world.out.write_text("mine")
    for options in ((), ("--restart",)):
        refuse(run, world, ExitCode.USAGE, "out is a file", "name a folder", options=options)
    refuse(run, world, ExitCode.STORAGE, "Not a directory", output=world.out / "below")
    assert world.out.read_text() == "mine"


def test_a_run_that_is_only_planning_yet_is_not_disturbed(run: Run, world: World) -> None:
    lock = world.out / ".svc_dist/lock"
    with LocalLock(lock):
        refuse(run, world, ExitCode.LOCKED, "another live run holds this output", f"process {os.getpid()}")
        refuse(run, world, ExitCode.LOCKED, "another live run holds this output", options=["--restart"])
        assert lock.exists()


def test_an_error_in_json_is_one_line_with_its_code_and_remedy(run: Run, world: World) -> None:
    truncate(world)
    ended = run("merge", world.recipe_file, world.out, "--log-format", "json")
    assert ended.code == ExitCode.INPUT
    told = json.loads(ended.err.splitlines()[-1])
    assert (told["level"], told["exit_code"], told["hint"]) == ("error", 3, "download or save it again")
    assert SECOND in told["message"]


def test_quantised_weights_are_merged_or_kept(run: Run, world: World) -> None:
    for seed, model in enumerate(world.models):
        shutil.rmtree(model)
        tensors = llama_like(seed) | {
            "q.weight": torch.full((8, 8), seed + 1.0).to(torch.float8_e4m3fn),
            "q.weight_scale": torch.full((8, 1), seed + 1.0),
            "steps": torch.tensor([seed]),
        }
        write_checkpoint(model, tensors)
    world.recipe = {"rules": [{"match": ["q.weight"], "keep": "base"}]}
    merged(run, world)
    found: dict[str, torch.Tensor] = {}
    for file in world.out.glob("*.safetensors"):
        found |= load_file(file)
    assert torch.equal(found["q.weight"].float(), torch.ones(8, 8))
    assert torch.equal(found["q.weight_scale"], torch.ones(8, 1))
    assert found["steps"].tolist() == [0]


def test_packed_weights_can_be_kept(run: Run, world: World) -> None:
    data = bytes(range(12))
    for model in world.models:
        shutil.rmtree(model)
        raw_file(
            model / "model.safetensors",
            {"w": entry("F32", [4], 0), "q": entry("F4", [3, 8], 16)},
            torch.arange(4.0).numpy().tobytes() + data,
        )
    world.recipe = {"rules": [{"match": "q", "keep": "base"}]}
    merged(run, world)
    spec = specs_of(world.out / "model.safetensors")["q"]
    assert (world.out / "model.safetensors").read_bytes()[spec.start : spec.end] == data


def test_names_with_markup_or_control_characters_do_no_harm(run: Run, world: World) -> None:
    for seed, model in enumerate(world.models):
        shutil.rmtree(model)
        write_checkpoint(model, {"x[/b].weight": torch.full((4, 4), float(seed)), "y\x1b[31m.weight": torch.ones(2)})
    ended = run("plan", world.recipe_file)
    assert (ended.code, ended.err) == (ExitCode.DONE, "")
    assert "\x1b[31m" not in ended.out
    assert merged(run, world)


# Odd but legal: the same bytes come out.


@pytest.mark.parametrize("padding", [1, 2, 3, 4093])
def test_data_at_odd_offsets_merges_to_the_same_bytes(run: Run, world: World, padding: int) -> None:
    world.recipe = {"calibrate": "svc"}
    expected = merged(run, world)
    for model in world.models:
        for file in model.glob("*.safetensors"):
            data = file.read_bytes()
            end = 8 + int.from_bytes(data[:8], "little")
            raw_file(file, data[8:end] + b" " * padding, data[end:])
    assert merged(run, world, world.folder / "again") == expected


def test_single_files_and_shards_merge_to_the_same_bytes(run: Run, world: World) -> None:
    expected = merged(run, world)
    for seed, (model, shards) in enumerate(zip(world.models, (1, 5, 21), strict=True)):
        shutil.rmtree(model)
        write_checkpoint(model, llama_like(seed), shards=shards)
    assert merged(run, world, world.folder / "again") == expected


def test_remote_inputs_merge_to_the_same_bytes(run: Run, world: World) -> None:
    world.recipe = {"calibrate": "svc"}
    expected = merged(run, world)
    memory = fsspec.filesystem("memory")
    for model in world.models:
        memory.put(f"{model}/", f"/hostile-{model.name}/", recursive=True)
    remote = write_recipe(
        world.folder / "remote.yaml", [f"memory://hostile-{model.name}" for model in world.models], **world.recipe
    )
    scratch = world.folder / "scratch"
    ended = run("merge", remote, world.folder / "again", "--scratch", scratch)
    assert ended.code == ExitCode.DONE, ended.err
    assert weights(world.folder / "again") == expected
    assert not scratch.exists() or list(scratch.iterdir()) == []  # what lands in memory needs no scratch space


# Places that are full or cannot be written to.


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.fixture
def larger(tmp_path: Path) -> World:
    """Models of 1.1 MB, in output shards of some 300 kB."""
    write_llamas(tmp_path, vocabulary=16_000)
    return World(tmp_path, {"max_shard_size": "300kB", "calibrate": "svc"})


def test_on_a_full_disk_a_merge_stops_and_goes_on_once_there_is_room(run: Run, larger: World) -> None:
    expected = merged(run, larger, larger.folder / "undisturbed")
    with tmpfs(larger.folder / "disk", "size=16k") as disk:
        failures = []
        for size in [16, 128, 600, *range(1024, 4096, 8)]:
            remount(disk, f"size={size}k")
            ended = run("merge", larger.recipe_file, disk / "out")
            if ended.code == ExitCode.DONE:
                break
            failures.append(ended.err)
            assert ended.code == ExitCode.STORAGE, ended.err
            assert "No space left on device" in ended.err
            assert "free space there, then run the same command again" in ended.err
            assert "Traceback" not in ended.err
            assert not (disk / "out" / INDEX).exists()
        assert len(failures) >= 3
        assert any("cannot make room for" in failure for failure in failures)
        assert any("/receipts/" in failure for failure in failures)
        assert any("merge_report.json" in failure for failure in failures)
        assert weights(disk / "out") == expected
        assert run("verify", disk / "out", "--deep").code == ExitCode.DONE


def test_a_read_only_output_is_a_storage_error(run: Run, world: World) -> None:
    with tmpfs(world.folder / "disk", "size=1m") as disk:
        (disk / "out").mkdir()
        remount(disk, "ro")
        for output in (disk / "out", disk / "new", disk / "new/deeper"):
            refuse(run, world, ExitCode.STORAGE, str(output), "Read-only file system", output=output)


# In a process of its own, as a user starts it.


def test_the_process_ends_with_the_code_and_says_why_on_stderr(world: World) -> None:
    poke(world.expert / SECOND, HEAD, 77, float("nan"))
    done = run_process("merge", world.recipe_file, world.out, home=world.folder, expect=ExitCode.INPUT)
    assert done.out == ""
    assert "nan at element 77" in done.err
    assert "Traceback" not in done.err
    world.recipe = {"calibrat": "svc"}
    done = run_process("merge", world.recipe_file, world.out, home=world.folder, expect=ExitCode.USAGE)
    assert done.out == ""
    assert done.err.startswith(f"error: {world.folder}/r.yaml:6 (calibrat): unknown key")


def test_a_file_size_limit_is_a_storage_error_and_can_be_resumed_without(run: Run, larger: World) -> None:
    expected = merged(run, larger, larger.folder / "undisturbed")
    done = subprocess.run(
        [sys.executable, "-m", "svc_dist", "merge", larger.recipe_file, larger.out],
        capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )  # fmt: skip
    assert done.returncode == ExitCode.STORAGE, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (larger.out / INDEX).exists()
    assert merged(run, larger) == expected


# Outputs that something happened to since.


@pytest.fixture
def done(run: Run, world: World) -> World:
    merged(run, world)
    return world


def flip(world: World) -> None:
    file = world.out / "model.safetensors"
    spec = specs_of(file)[EMBED]
    with file.open("r+b") as opened:
        opened.seek(spec.start + 100)
        byte = opened.read(1)[0]
        opened.seek(spec.start + 100)
        opened.write(bytes([byte ^ 1]))


def report(world: World, **changed: Any) -> None:
    file = world.out / "merge_report.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def other_shard(world: World) -> None:
    (world.out / INDEX).unlink()
    write_checkpoint(world.out, {"a": torch.zeros(3)}, shards=1)


AFTERWARDS: dict[str, tuple[Callable[[World], Any], tuple[str, ...]]] = {
    "one bit flipped": (flip, ("model.safetensors: bytes 0 to", "are not those written")),
    "truncated": (lambda w: os.truncate(w.out / "model.safetensors", 5000), ("model.safetensors", "truncated")),
    "nan written into it": (
        lambda w: poke(w.out / "model.safetensors", NORM, 2, float("nan")), (NORM, "holds nan at element 2")
    ),
    "another model's shard": (other_shard, ("not what was written", "has no model.safetensors.index.json")),
    "index gone": (lambda w: (w.out / INDEX).unlink(), ("the merge is not complete",)),
    "shard gone": (lambda w: (w.out / "model.safetensors").unlink(), ("model.safetensors", "missing")),
    "report of nothing": (
        lambda w: (w.out / "merge_report.json").write_text("{}"), ("merge_report.json cannot be read",)
    ),
    "report without ranges": (lambda w: report(w, ranges=[]), ("merge_report.json cannot be read", "end at byte 0")),
    "report of other things": (lambda w: report(w, tensors="abc", shards=[3]), ("merge_report.json cannot be read",)),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), AFTERWARDS.values(), ids=AFTERWARDS.keys())
def test_verify_tells_what_happened_to_an_output(
    run: Run, done: World, damage: Callable[[World], Any], words: tuple[str, ...]
) -> None:
    damage(done)
    ended = run("verify", done.out, "--deep")
    assert ended.code == ExitCode.INPUT
    assert "Traceback" not in ended.err
    for word in words:
        assert any(word in line for line in ended.out.splitlines() if line.startswith("WRONG")), ended.out


@pytest.mark.parametrize(
    "changed",
    [{"hidden_size": "x"}, {"num_attention_heads": 0}, {"model_type": ["llama"]}, {"architectures": ["nosuch"]}],
)
def test_a_config_that_no_library_understands_is_skipped_by_verify(
    run: Run, done: World, changed: dict[str, Any]
) -> None:
    (done.out / "config.json").write_text(json.dumps(llama_config() | changed))
    report(done, sidecars=[])  # or verify says that the config is not the one that was written
    ended = run("verify", done.out)
    assert ended.code == ExitCode.DONE
    assert "skipped  parameters of the architecture" in ended.out


def test_code_that_comes_with_a_model_is_never_run(run: Run, done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    config = llama_config(model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    (done.out / "config.json").write_text(json.dumps(config))
    (done.out / "evil.py").write_text(f"open({str(done.folder / 'pwned')!r}, 'w')")
    report(done, sidecars=[])  # or verify says that the config is not the one that was written
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # even a user who agrees to everything is not asked
    ended = run("verify", done.out)
    assert ended.code == ExitCode.DONE
    assert "custom code" in ended.out
    assert not (done.folder / "pwned").exists()

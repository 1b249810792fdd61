"""Mistakes that people make: each message has a code, names the place, and says what to do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from svc_dist.recipe.writing.explanations import explanations
from svc_dist.storage.s3.client import forget_clients
from tests.support.adapters import config, llama_modules, lora, write_adapter
from tests.support.checkpoints import INDEX, llama_config, llama_like, write_checkpoint, write_llamas
from tests.support.command import Run

GOOD = """\
base_model: base
models:
  - model: expert0
    parameters: {weight: 0.4}
  - model: expert1
    parameters: {weight: 0.4}
merge_method: task_arithmetic
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that are sound, and models that are not."""
    folder = tmp_path_factory.mktemp("world")
    _, _, expert = write_llamas(folder)
    for name in ("lfs", "missing", "no_index", "other_tokens", "cut"):
        shutil.copytree(expert, folder / name)
    first = sorted(expert.glob("*.safetensors"))[0].name
    (folder / "lfs" / first).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (folder / "missing" / first).unlink()
    (folder / "no_index" / INDEX).unlink()
    (folder / "cut" / first).write_bytes((expert / first).read_bytes()[:-100])
    words = [f"w{number}" for number in range(40)]
    for name in ("base", "expert0", "expert1", "other_tokens"):
        order = words[::-1] if name == "other_tokens" else words
        vocab = {word: number for number, word in enumerate(order)}
        tokenizer = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": vocab}}
        (folder / name / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_checkpoint(folder / "wider", llama_like(5, hidden=32), config=llama_config(hidden_size=32))
    renamed = {name.replace("model.layers", "bert.encoder.layer"): value for name, value in llama_like(3).items()}
    write_checkpoint(folder / "bert", renamed, config={"model_type": "bert"})
    (folder / "pickled").mkdir()
    torch.save({}, folder / "pickled" / "pytorch_model.bin")
    (folder / "used").mkdir()
    shutil.copy(expert / first, folder / "used")
    return folder


#: By the mistake: the recipe, the command after it, the exit code, the code, and what the message must say.
MISTAKES: dict[str, tuple[str, str, int, str, tuple[str, ...]]] = {
    "a wrong path": (GOOD.replace("expert1", "expertl"), "plan R", 2, "no-such-model", ("R:5", "did you mean")),
    "a typo in a key": (
        GOOD.replace("merge_m", "merg_m"),
        "plan R",
        2,
        "key-missing",
        ("R:7", "did you mean 'merge_method'"),
    ),
    "a typo in a parameter": (GOOD.replace("weight", "wieght"), "plan R", 2, "unknown-parameter", ("R:4", "'weight'")),
    "indentation": (GOOD.replace("    p", "  p"), "plan R", 2, "not-yaml", ("R:4", "Indent by spaces")),
    "a tab": (GOOD.replace("  - m", "\t- m"), "plan R", 2, "not-yaml", ("R:3", "Indent by spaces")),
    "another architecture": (GOOD.replace("expert1", "bert"), "plan R", 2, "names-differ", ("/bert", "rename:")),
    "an expert of another base": (
        GOOD.replace("expert1", "wider"),
        "plan R",
        2,
        "not-a-fine-tune",
        ("/wider", "base_model"),
    ),
    "no credentials": (
        GOOD.replace("expert1", "s3://bucket/one"),
        "plan R",
        4,
        "storage-failed",
        ("s3://bucket/one", "AWS_"),
    ),
    "a disk that is too small": (GOOD, "merge R OUT", 4, "storage-failed", ("OUT", "10 B are free", "free space")),
    "an LFS pointer": (
        GOOD.replace("expert1", "lfs"),
        "plan R",
        3,
        "input-damaged",
        ("/lfs/model-00001", "git lfs pull"),
    ),
    "swapped arguments": (GOOD, "merge OUT R", 2, "arguments-refused", ("OUT", "merge R OUT")),
    "a missing shard": (
        GOOD.replace("expert1", "missing"),
        "plan R",
        3,
        "input-damaged",
        ("model-00001", "hf download"),
    ),
    "shards without an index": (
        GOOD.replace("expert1", "no_index"),
        "plan R",
        3,
        "input-damaged",
        ("/no_index", "add model"),
    ),
    "a truncated file": (
        GOOD.replace("expert1", "cut"),
        "plan R",
        3,
        "input-damaged",
        ("/cut/model-00001", "download"),
    ),
    "a pickle": (
        GOOD.replace("expert1", "pickled"),
        "plan R",
        3,
        "input-damaged",
        ("pytorch_model.bin", "save_pretrained"),
    ),
    "too many weights": (
        GOOD,
        "plan base expert0 --method ties --weight 1 --weight 1",
        2,
        "arguments-refused",
        ("--weight", "one for all"),
    ),
    "a comma in a number": (
        GOOD.replace("0.4", "'0,4'"),
        "plan R",
        2,
        "value-not-allowed",
        ("R:4", "must be a number"),
    ),
    "an unknown method": (
        GOOD.replace("arithmetic", "arithmetics"),
        "plan R",
        2,
        "unknown-method",
        ("R:7", "did you mean"),
    ),
    "an output that is an input": (GOOD, "merge R expert0", 2, "output-refused", ("/expert0", "another folder")),
    "an output that is not empty": (GOOD, "merge R used", 2, "output-refused", ("/used", "new folder")),
    "a GPU where there is none": (
        GOOD,
        "merge R OUT --device cuda",
        2,
        "cuda-unusable",
        ("device is cuda", "--device cpu"),
    ),
    "a wrong address of Ray": (
        GOOD,
        "merge R OUT --address 127.0.0.1:9",
        4,
        "cluster-unreachable",
        ("127.0.0.1:9", "ray start"),
    ),
    "another tokenizer": (
        GOOD.replace("expert1", "other_tokens"),
        "plan R",
        2,
        "vocab-differs",
        ("/other_tokens", "vocab: union"),
    ),
    "JSON of something else": ("", "plan base/config.json", 2, "not-a-recipe", ("config.json", "svc-dist recipe new")),
    "an empty recipe": ("", "plan R", 2, "not-a-recipe", ("R", "svc-dist recipe new")),
    "no base": (GOOD.replace("base_model: base\n", ""), "plan R", 2, "base-missing", ("R:6", "base_model")),
    "no recipe": (GOOD, "plan nowhere.yaml", 2, "recipe-unreadable", ("nowhere.yaml", "Check the path")),
    "an unknown option": (GOOD, "merge R OUT --devise cpu", 2, "arguments-refused", ("--devise", "--help")),
    "a layer that the model does not have": (
        GOOD,
        "inspect R --layers 99",
        2,
        "arguments-refused",
        ("R: --layers names layer 99", "has layers 0 to", "leave --layers out"),
    ),
    "a typo in the path of a merge": (
        GOOD,
        "verify nowhere",
        3,
        "verification-failed",
        ("nowhere has 1 problem", "check the path"),
    ),
    "a value that an option does not have": (
        GOOD,
        "merge R OUT --device gpu",
        2,
        "arguments-refused",
        ("'cuda'", "--help"),
    ),
}


@pytest.fixture
def _no_clients() -> Iterator[None]:
    """Clients keep the credentials that they were made with: neither those of other tests, nor none for others."""
    forget_clients()
    yield
    forget_clients()


@pytest.mark.usefixtures("_no_clients")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_a_code_a_place_and_a_cure(
    mistake: str, world: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe, line, exit_code, code, says = MISTAKES[mistake]
    (world / "R").write_text(recipe)
    for name in [name for name in os.environ if name.startswith("AWS_")]:  # those of a server of other tests
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.chdir(world)
    if mistake == "a disk that is too small":
        monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    (world / "R").rename(world / "R.yaml")
    ended = run(*(word.replace("R", "R.yaml") if word == "R" else word for word in line.split()))
    said = ended.err.replace("R.yaml", "R")
    assert ended.code == exit_code, said
    assert "Traceback" not in said
    message, _, explain = said.rpartition("\n  explain: svc-dist recipe explain ")
    assert explain.strip() == code
    assert code in explanations()
    assert "\n  " in message, "what to do stands below what is wrong"
    for part in says:
        assert part in said
    assert len(said) < 2500, "nobody reads more"
    assert not (world / "OUT" / "model.safetensors").exists()


def test_an_adapter_of_another_base_is_a_warning_that_names_both(world: Path, run: Run, tmp_path: Path) -> None:
    named = config(base_model_name_or_path="org/other-7b")
    adapter = write_adapter(world / "adapter", lora(llama_modules()), named)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        GOOD.replace("base_model: base", f"base_model: {world / 'base'}")
        .replace("expert0", str(world / "expert0"))
        .replace("expert1", str(adapter))
    )
    ended = run("plan", recipe)
    assert ended.code == 0
    (warning,) = [line for line in ended.out.splitlines() if line.endswith("[adapter-of-another-base]")]
    assert warning.startswith(f"warning: {adapter}: trained on org/other-7b ")
    assert f"merged over {world / 'base'}" in warning
    assert "check that they are the same" in warning
    assert explanations()["adapter-of-another-base"].do

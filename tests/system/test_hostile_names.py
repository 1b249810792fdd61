"""Names that would drive a terminal, forge a line or break a library: every command stays harmless and clear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from svc_dist.errors import ExitCode
from tests.support.checkpoints import INDEX, llama_like, write_checkpoint, write_index, write_llamas, write_recipe
from tests.support.command import Ended, Run

FORGED = "error: forged"
HOSTILE = f"x\x1b[2J\x1b]0;t\x07\x9b31m\u202e[red]{FORGED}[/red]\u2066\n{FORGED}\r{FORGED}"


def require_harmless(ended: Ended) -> None:
    said = ended.out + ended.err
    assert ended.code != ExitCode.INTERNAL, said
    assert "Traceback" not in said
    assert not {letter for letter in said if not letter.isprintable()} - {"\n", "\t"}
    assert not any(line.startswith(FORGED) for line in said.splitlines())


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return write_llamas(tmp_path)


def commands(run: Run, tmp_path: Path, models: list[Path]) -> list[Ended]:
    recipe, out, page = (
        write_recipe(tmp_path / "r.yaml", models, calibrate="svc"),
        tmp_path / "out",
        tmp_path / "p.html",
    )
    return [
        run(*command)
        for command in (
            ["plan", recipe], ["plan", recipe, "--json"], ["doctor", recipe, out], ["merge", recipe, out],
            ["status", out], ["verify", out, "--deep"], ["report", out, "--html", page], ["diff", models[0], out],
            ["inspect", recipe],
        )
    ]  # fmt: skip


def test_a_tensor_s_name(run: Run, tmp_path: Path, models: list[Path]) -> None:
    for seed, model in enumerate(models):
        tensors = llama_like(seed) | {f"{HOSTILE}$_{{.weight": torch.randn(8, 8), "y\n.weight": torch.ones(2) * seed}
        for file in model.iterdir():
            file.unlink()
        write_checkpoint(model, tensors)
    ended = commands(run, tmp_path, models)
    for one in ended:
        require_harmless(one)
    assert [one.code for one in ended] == [0] * len(ended), [one.err for one in ended]
    assert json.loads(ended[1].out)["tensors"]


def test_a_tensor_s_name_in_a_refusal(run: Run, tmp_path: Path, models: list[Path]) -> None:
    for file in models[1].iterdir():
        file.unlink()
    write_checkpoint(models[1], llama_like(1) | {HOSTILE: torch.ones(3), "other\n": torch.ones(3)})
    for one in commands(run, tmp_path, models):
        require_harmless(one)


@pytest.mark.parametrize("file", [HOSTILE, f"{HOSTILE}.safetensors", "a\0b.safetensors", "\ud800.safetensors"])
def test_a_file_s_name_in_an_index(run: Run, tmp_path: Path, models: list[Path], file: str) -> None:
    weight_map = json.loads((models[1] / INDEX).read_text())["weight_map"]
    write_index(models[1], weight_map | {"lm_head.weight": file})
    ended = commands(run, tmp_path, models)
    for one in ended:
        require_harmless(one)
    assert ended[3].code == ExitCode.INPUT


@pytest.mark.parametrize("name", [HOSTILE.replace("/", ""), "x" * 251])
@pytest.mark.parametrize("ending", [".json", ".txt", ".safetensors", ".py"])
def test_a_file_s_name_in_a_folder(run: Run, tmp_path: Path, models: list[Path], name: str, ending: str) -> None:
    file = models[0] / f"{name.replace('/', '')[: 255 - len(ending)]}{ending}"
    file.write_text("{")
    for one in commands(run, tmp_path, models):
        require_harmless(one)


def test_a_file_s_name_that_is_no_unicode(run: Run, tmp_path: Path, models: list[Path]) -> None:
    for ending in (".json", ".safetensors", ""):
        (models[0] / f"\udcff{ending}").write_text("{}")
    ended = commands(run, tmp_path, models)
    for one in ended:
        require_harmless(one)
    assert ended[3].code == ExitCode.DONE


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": [HOSTILE], "model_type": HOSTILE}, {"architectures": {"a": 1}}, {"architectures": 5},
        {"model_type": "\ud800"}, {HOSTILE: HOSTILE}, {"dtype": HOSTILE, "torch_dtype": [1]},
        {"quantization_config": {"quant_method": HOSTILE}}, {"rope_scaling": HOSTILE, "hidden_size": HOSTILE},
    ],
)  # fmt: skip
def test_a_config(run: Run, tmp_path: Path, models: list[Path], config: dict[str, object]) -> None:
    (models[0] / "config.json").write_text(json.dumps(config))
    for one in commands(run, tmp_path, models):
        require_harmless(one)


@pytest.mark.parametrize("length", [256, 5000])
def test_an_output_or_page_of_a_very_long_name(run: Run, tmp_path: Path, models: list[Path], length: int) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", models)
    long = tmp_path / ("o" * length)
    for command in (
        ["merge", recipe, long], ["merge", recipe, long / "deeper"], ["merge", recipe, long, "--restart"],
        ["status", long], ["verify", long], ["clean", long, "--yes"], ["plan", recipe, long], ["doctor", recipe, long],
        ["report", long], ["report", tmp_path / "out", "--html", long], ["diff", long, models[0]], ["smoke", long],
        ["demo", long], ["merge", long, tmp_path / "out"], ["measure-host", long], ["measure-host", "--folder", long],
    ):  # fmt: skip
        ended = run(*command)
        require_harmless(ended)
        assert ended.code in (ExitCode.USAGE, ExitCode.INPUT, ExitCode.STORAGE), (command[0], ended.err)


@pytest.mark.parametrize(
    "output", ["shell://ls", "reference://x", "github://o:r@b/x", "ftp://h/x", "a\x1b[31m", "\udcff"]
)
def test_an_output_that_nobody_can_write_to(run: Run, tmp_path: Path, models: list[Path], output: str) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", models)
    for command in (["merge", recipe], ["status"], ["verify"], ["clean", "--yes"], ["plan", recipe], ["report"]):
        ended = run(*command, output)
        require_harmless(ended)
        assert ended.code == ExitCode.USAGE, (command, ended.err)


@pytest.mark.parametrize(
    "model",
    ["a\\0b", "~nosuchuser/x", "\\e[31mx", "shell://x", "reference://x", "\\ud800", "x\\ny", "hf://", "data:x,y"],
)
def test_a_model_that_nobody_can_read(run: Run, tmp_path: Path, models: list[Path], model: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f'base_model: {models[0]}\nmodels: [{{model: "{model}"}}]\nmerge_method: task_arithmetic\n')
    ended = run("merge", recipe, tmp_path / "out")
    require_harmless(ended)
    assert ended.code in (ExitCode.USAGE, ExitCode.STORAGE), ended.err

"""The demo: what its parts promise, and a shortened run from start to end."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from svc_dist.demo import demo
from svc_dist.demo.data import TASKS, load_digits, vary
from svc_dist.demo.demo import run_demo
from svc_dist.demo.experts import Settings, Training, accuracy, expert_folder, train_base, train_experts
from svc_dist.demo.model import Config, load_model, new_model, save_model
from svc_dist.demo.recipes import MergeFailedError, write_recipes
from svc_dist.errors import ExitCode, MissingExtraError, OutputError
from svc_dist.recipe.load import load_recipe

SHORT = Settings(base=Training(steps=60, learning_rate=2e-3), expert=Training(steps=20, learning_rate=5e-4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo's folder with a base and experts of a shortened training."""
    folder = tmp_path_factory.mktemp("demo")
    train, _ = load_digits(SHORT.seed)
    train_base(folder, SHORT, train)
    train_experts(folder, SHORT, train)
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_split_is_disjoint_by_sample_and_complete() -> None:
    from sklearn import datasets

    train, test = load_digits(seed=0)
    # Every digit of the data set is a different image, so images can stand for samples.
    seen = {part: {image.numpy().tobytes() for image in samples.images} for part, samples in enumerate((train, test))}
    assert len(seen[0]) == len(train)
    assert len(seen[1]) == len(test)
    assert not seen[0] & seen[1]
    assert len(train) + len(test) == len(datasets.load_digits().target)
    assert set(test.labels.tolist()) == set(range(10))


def test_split_depends_on_the_seed_alone() -> None:
    first, again, other = load_digits(3)[1], load_digits(3)[1], load_digits(4)[1]
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_tasks_show_every_digit_differently() -> None:
    _, test = load_digits(0)
    views = [test.images, *(task.view(test.images) for task in TASKS)]
    for index, view in enumerate(views):
        assert view.shape == test.images.shape
        assert view.isfinite().all()
        assert all(not torch.equal(view, other) for other in views[:index])


def test_variety_stays_near_the_original_and_in_range() -> None:
    train, _ = load_digits(0)
    varied = vary(train.images, torch.Generator().manual_seed(0))
    assert varied.abs().max() <= 1
    likeness = torch.corrcoef(torch.cat([varied.flatten(1), train.images.flatten(1)]))[: len(train), len(train) :]
    assert likeness.diagonal().mean() > likeness.mean() + 0.15


def test_transformers_loads_the_model_and_computes_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    model = new_model(Config(), seed=5).eval()
    save_model(model, tmp_path / "model", "60KB")
    loaded, info = AutoModelForImageClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info.values()), info
    images = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(loaded(images.unsqueeze(1)).logits, model(images), atol=1e-5)


def test_smoke_and_verify_take_a_merge_of_the_demo_and_it_has_units_to_interrupt(trained: Path, tmp_path: Path) -> None:
    import svc_dist
    from svc_dist.checks.smoke import smoke
    from svc_dist.checks.verify import verify

    write_recipes(trained)
    svc_dist.merge(trained / "recipes" / "sum_svc.yaml", tmp_path / "out", executor="inline", device="cpu")
    result = verify(str(tmp_path / "out"))
    assert result.ok
    assert "every parameter of BeitForImageClassification is there with its shape" in result.checked
    assert "BeitForImageClassification" in smoke(str(tmp_path / "out")).text()
    assert len(svc_dist.make_plan(trained / "recipes" / "sum_svc.yaml", device="cpu").units) >= 8


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'svc-dist\[demo\]'") as raised:
        load_digits(0)
    assert raised.value.exit_code == ExitCode.USAGE


def test_model_comes_back_through_its_index_with_equal_logits(tmp_path: Path) -> None:
    model = new_model(Config(), seed=5).eval()
    save_model(model, tmp_path / "model", "200KB")
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    for name, shard in index["weight_map"].items():
        with safe_open(tmp_path / "model" / shard, "pt") as file:
            assert name in file.keys()  # noqa: SIM118 (a safetensors file has no __contains__)
    _, test = load_digits(0)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "model")(test.images), model(test.images))


def test_loading_refuses_a_checkpoint_that_lacks_a_tensor(tmp_path: Path) -> None:
    model = new_model(Config(), seed=5)
    save_model(model, tmp_path / "model", "200KB")
    (tmp_path / "model" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(Exception, match="00002"):
        load_model(tmp_path / "model")


def test_weights_depend_on_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, again, other = (new_model(Config(), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.usefixtures("two_threads")
def test_training_repeats_to_the_bit_and_leaves_thread_count_and_generator(trained: Path, tmp_path: Path) -> None:
    threads, generator = torch.get_num_threads(), torch.random.get_rng_state()
    train, _ = load_digits(SHORT.seed)
    train_base(tmp_path, SHORT, train)
    train_experts(tmp_path, SHORT, train)
    for name in ("base", *(expert_folder(Path(), task.name) for task in TASKS)):
        assert same(tensors(trained / name), tensors(tmp_path / name))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_experts_differ_from_the_base_everywhere_but_in_the_shared_head(trained: Path) -> None:
    base = tensors(trained / "base")
    for task in TASKS:
        expert = tensors(expert_folder(trained, task.name))
        assert expert.keys() == base.keys()
        for name, weight in expert.items():
            assert torch.equal(weight, base[name]) == name.startswith("classifier."), name


def test_each_expert_learns_its_own_task(trained: Path) -> None:
    train, _ = load_digits(SHORT.seed)
    base = load_model(trained / "base")
    for task in TASKS:
        own = train.seen_as(task.view)
        expert = load_model(expert_folder(trained, task.name))
        with torch.no_grad():
            assert cross_entropy(expert(own.images), own.labels) < cross_entropy(base(own.images), own.labels) - 0.1


def test_accuracy_is_the_share_read_correctly(trained: Path) -> None:
    train, _ = load_digits(SHORT.seed)
    model = load_model(trained / "base")
    with torch.no_grad():
        read = model(train.images).argmax(1)
    right = [int(digit) == int(label) for digit, label in zip(read, train.labels, strict=True)]
    assert accuracy(model, train) == pytest.approx(sum(right) / len(right))


def test_finished_checkpoints_are_kept_and_an_unfinished_one_is_made_anew(trained: Path) -> None:
    train, _ = load_digits(SHORT.seed)
    folder = expert_folder(trained, TASKS[2].name)
    before = tensors(folder)
    folder.rename(folder.with_name(folder.name + ".partial"))
    assert not train_base(trained, SHORT, train)
    assert train_experts(trained, SHORT, train) == 1
    assert same(tensors(folder), before)
    assert not list(trained.rglob("*.partial"))


def test_recipes_are_valid_and_an_edited_one_is_left_alone(trained: Path) -> None:
    written = write_recipes(trained)
    recipes = {path.stem: load_recipe(path).plain for path in written}
    assert list(recipes) == ["averaging", "task_arithmetic", "task_arithmetic_svc", "sum", "sum_svc", "swudi"]
    assert recipes["averaging"]["merge_method"] == "linear"
    assert recipes["swudi"]["merge_method"] == "swudi"
    assert "calibrate" not in recipes["task_arithmetic"]
    assert recipes["task_arithmetic_svc"]["calibrate"] == {"method": "svc", "alpha": 1 / len(TASKS)}
    for recipe in recipes.values():
        assert len(recipe["models"]) == len(TASKS)

    own = trained / "recipes" / "a.yaml"
    own.write_text(written[2].read_text().replace("alpha: 0.25", "alpha: 0.5"))
    written[1].write_text("# edited\n" + written[1].read_text())
    assert write_recipes(trained) == [*written, own]
    assert written[1].read_text().startswith("# edited\n")


def test_a_folder_with_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds no demo"):
        run_demo(tmp_path, Console(file=io.StringIO()), SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_demo_with_other_settings_is_refused(tmp_path: Path) -> None:
    demo._claim(tmp_path, SHORT)
    demo._claim(tmp_path, SHORT)
    with pytest.raises(OutputError, match="other settings"):
        run_demo(tmp_path, Console(file=io.StringIO()), dataclasses.replace(SHORT, seed=7))


@pytest.mark.slow
def test_a_short_demo_merges_measures_and_keeps_what_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    first, second = Console(file=io.StringIO(), width=140), Console(file=io.StringIO(), width=140)
    run_demo(folder, first, SHORT)
    merged = {name: tensors(folder / "merged" / name) for name in ("averaging", "task_arithmetic")}
    base = tensors(folder / "base")
    experts = [tensors(expert_folder(folder, task.name)) for task in TASKS]
    for name, weight in base.items():
        total = sum(expert[name].double() - weight.double() for expert in experts)
        torch.testing.assert_close(merged["averaging"][name], (weight + total / 4).float(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(
            merged["task_arithmetic"][name], (weight + 0.4 * total).float(), rtol=1e-6, atol=1e-7
        )
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}

    run_demo(folder, second, SHORT)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == times
    tables = [
        [line for line in console.file.getvalue().splitlines() if line.startswith("│")]  # type: ignore[attr-defined]
        for console in (first, second)
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 1 + len(TASKS) + 6

    # An own recipe gets a row; edited after its merge, it is reported, nothing is replaced, and the rest is shown.
    own, third, fourth = folder / "recipes" / "mine.yaml", io.StringIO(), io.StringIO()
    own.write_text((folder / "recipes" / "task_arithmetic_svc.yaml").read_text().replace("alpha: 0.25", "alpha: 0.5"))
    run_demo(folder, Console(file=third, width=140), SHORT)
    assert "│ mine " in third.getvalue()
    mine = tensors(folder / "merged" / "mine")
    own.write_text(own.read_text().replace("alpha: 0.5", "alpha: 1"))
    with pytest.raises(MergeFailedError, match=r"mine\.yaml") as raised:
        run_demo(folder, Console(file=fourth, width=140), SHORT)
    assert raised.value.exit_code == ExitCode.INPUT
    assert pickle.loads(pickle.dumps(raised.value)).exit_code == ExitCode.INPUT
    assert "│ averaging " in fourth.getvalue()
    assert "│ mine " not in fourth.getvalue()
    assert same(tensors(folder / "merged" / "mine"), mine)


def test_the_demo_package_costs_nothing_to_import() -> None:
    probe = "import sys, svc_dist.demo; print(*({'torch', 'sklearn', 'numpy'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.strip() == ""
    )

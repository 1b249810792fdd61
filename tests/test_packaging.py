"""What an installation holds: a core without what few commands need, and a README whose links work anywhere."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import svc_dist
from svc_dist.cli.app import app
from svc_dist.errors import MissingExtraError
from svc_dist.run.options import Options
from tests.support.checkpoints import recipe_data, write_llamas, write_recipe

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
OPTIONAL = {
    "ray": "cluster",
    "matplotlib": "report",
    "accelerate": "check",
    "transformers": "check",
    "sklearn": "demo",
    "optuna": "search",
    "numba": "fast",
}
#: What only svc_dist/methods/elementwise/compiled/ready.py imports, where their packages are there.
LOADED_WITH_EXTRAS = {"svc_dist/methods/elementwise/compiled/loops.py"}
#: Drivers of storages, each named in the message of the URL that needs it.
DRIVERS = {"azure"}
#: What runs a notebook. It is imported only there, where it runs already.
KERNEL = {"IPython"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(entries: list[str]) -> set[str]:
    return {normal(re.match(r"[\w.-]+", entry)[0]) for entry in entries}  # type: ignore[index]


def imports(node: ast.AST, at_start: bool = True) -> Iterator[tuple[str, bool]]:
    """The top-level modules that code imports, and whether it does so when its module is loaded."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name.split(".")[0], at_start) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module.split(".")[0], at_start
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(child, at_start and not inside)


def used() -> set[tuple[str, bool]]:
    own = {"svc_dist", "__future__", *sys.stdlib_module_names}
    found = {
        one
        for file in (ROOT / "svc_dist").rglob("*.py")
        for one in imports(ast.parse(file.read_text()), str(file.relative_to(ROOT)) not in LOADED_WITH_EXTRAS)
    }
    return {(name, at_start) for name, at_start in found if name not in own | DRIVERS | KERNEL}


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any of the extras."""
    for name in OPTIONAL:
        monkeypatch.setitem(sys.modules, name, None)


def test_every_package_that_is_imported_is_required_and_every_required_one_imported() -> None:
    of = packages_distributions()
    distributions = {name: {normal(one) for one in of.get(name, [name])} for name, _ in used()}
    core = requirements(PROJECT["project"]["dependencies"])
    extras = PROJECT["project"]["optional-dependencies"]
    undeclared = {
        name
        for name, known in distributions.items()
        if not known & (requirements(extras[OPTIONAL[name]]) if name in OPTIONAL else core)
    }
    # botocore brings urllib3, whose errors it raises.
    assert undeclared == {"urllib3"}
    assert core <= set().union(*distributions.values())


def test_the_packages_of_extras_are_imported_by_the_functions_that_need_them() -> None:
    assert {name for name, at_start in used() if at_start} & set(OPTIONAL) == set()


def test_all_brings_every_extra_for_users() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (every,) = extras["all"]
    named = set(re.search(r"\[(.*)\]", every)[1].split(","))  # type: ignore[index]
    assert named == set(extras) - {"all", "docs", "test"}
    table = (ROOT / "docs" / "install.md").read_text()
    assert [name for name in sorted(named) if f"| `{name}` |" not in table] == []


def test_the_readmes_links_work_on_an_index() -> None:
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = (ROOT / "README.md").read_text() + '\n![a](docs/a.svg)\n<img src="docs/b.svg">\n[c](docs/c.md#d) [e](#f)\n'
    for one in hook["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'\b(?:src|srcset|href)="([^"\s]+)"', text)
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    repository = PROJECT["project"]["urls"]["Repository"]
    assert f"[c]({repository}/blob/v$HFPR_VERSION/docs/c.md#d) [e](#f)" in text
    raw = repository.replace("github.com", "raw.githubusercontent.com") + "/v$HFPR_VERSION"
    assert f'![a]({raw}/docs/a.svg)\n<img src="{raw}/docs/b.svg">' in text
    pictures = re.findall(rf"{re.escape(raw)}/([^)\"\s]+)", text)
    files = re.findall(rf"{re.escape(repository)}/blob/v\$HFPR_VERSION/([^)#\s]+)", text)
    assert [
        file for file in files + pictures if file[-5:] not in ("a.svg", "b.svg", "/c.md") and not (ROOT / file).exists()
    ] == []


def test_versions_and_addresses_are_the_same_everywhere() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == svc_dist.__version__ == PROJECT["project"]["version"]
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Repository"]
    assert (ROOT / "svc_dist" / "py.typed").exists()


@pytest.mark.usefixtures("core")
def test_the_core_plans_merges_verifies_and_inspects(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", write_llamas(tmp_path / "models"), calibrate="svc")
    output = str(tmp_path / "merged")
    for command in (["plan", str(recipe)], ["doctor", str(recipe), output], ["merge", str(recipe), output],
                    ["status", output], ["inspect", str(recipe)]):  # fmt: skip
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
    verified = CliRunner().invoke(app, ["verify", output, "--deep"])
    assert verified.exit_code == 0, verified.output
    assert "accelerate and transformers are not installed (pip install 'svc-dist[check]')" in verified.output


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["merge", "RECIPE", "OUTPUT", "--executor", "ray"], "executor ray needs ray"),
        (["merge", "RECIPE", "OUTPUT", "--address", "10.0.0.1:6379"], "a merge on a cluster needs ray"),
        (["smoke", "MERGED"], "smoke needs accelerate and transformers"),
        (["demo", "FOLDER"], "the demo needs sklearn"),
    ],
)
def test_a_command_without_its_extra_names_what_to_type_before_any_work(
    tmp_path: Path, command: list[str], message: str
) -> None:
    models = write_llamas(tmp_path / "models")
    write_recipe(tmp_path / "RECIPE", models)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, [str(tmp_path / word) if word.isupper() else word for word in command])
    assert isinstance(done.exception, MissingExtraError)
    assert done.exception.exit_code == 2
    assert done.exception.code == "extra-missing"
    extra = {"merge": "cluster", "smoke": "check"}.get(command[0], command[0])
    assert str(done.exception).startswith(message)
    assert str(done.exception).endswith(f"not installed\n  pip install 'svc-dist[{extra}]'")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("core")
def test_the_page_of_a_merge_and_of_an_inspection_needs_no_extra(tmp_path: Path) -> None:
    models = write_llamas(tmp_path / "models")
    svc_dist.merge(recipe_data(models, calibrate="svc"), tmp_path / "merged")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "merged")])
    assert done.exit_code == 0, done.exception
    page = (tmp_path / "merged" / "merge_report.html").read_text()
    assert "Where the time went" in page
    assert "<svg" in page
    recipe = write_recipe(tmp_path / "recipe.yaml", models)
    done = CliRunner().invoke(app, ["inspect", str(recipe), "--html", str(tmp_path / "inspected.html")])
    assert done.exit_code == 0, done.exception
    assert "<svg" in (tmp_path / "inspected.html").read_text()


def test_without_ray_auto_runs_inline_and_says_so_where_devices_stay_idle(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert [Options().executor_for(lambda count=count: count) for count in (0, 1, 4)] == ["inline", "inline", "ray"]
    assert Options(address="10.0.0.1:6379").executor_for(lambda: 1) == "ray"
    monkeypatch.setitem(sys.modules, "ray", None)
    assert Options().executor_for(lambda: 1) == "inline"
    assert caplog.text == ""
    assert Options().executor_for(lambda: 4) == "inline"
    assert "one of 4 devices, because Ray is not installed: pip install 'svc-dist[cluster]'" in caplog.text

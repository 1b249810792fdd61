"""The files for Airflow and Argo: with the real libraries where they are installed, which the package never needs."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
import yaml

from svc_dist.cli.app import app
from svc_dist.errors import ExitCode

FOLDER = Path(__file__).parents[1] / "cluster" / "schedulers"
DAG_FILE, ARGO_FILE = FOLDER / "airflow_dag.py", FOLDER / "argo_nightly.yaml"


def workflow() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(ARGO_FILE.read_text())
    return found


def container() -> dict[str, Any]:
    found: dict[str, Any] = workflow()["spec"]["workflowSpec"]["templates"][0]["container"]
    return found


def require_command(words: list[str]) -> None:
    """Parse a command as the command line would: raises where an option or an argument is wrong."""
    assert words[0] == "svc-dist"
    command = typer.main.get_command(app)
    with command.make_context("svc-dist", words[1:], resilient_parsing=False) as context:
        name, sub, rest = command.resolve_command(context, words[1:])  # type: ignore[attr-defined]
        sub.make_context(name, rest, parent=context).close()


def test_the_command_of_the_workflow_is_one_of_ours() -> None:
    words = [re.sub(r"\{\{workflow\.parameters\.(\w+)\}\}", r"s3://b/\1", word) for word in container()["command"]]
    require_command([*words, *container()["args"]])


def test_the_commands_of_the_dag_are_ours() -> None:
    """Its constants and lists alone: Airflow need not be there."""
    values: dict[str, Any] = {}
    for node in ast.parse(DAG_FILE.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = ast.literal_eval(node.value)
    require_command(["svc-dist", "batch", values["RECIPES"], values["OUTPUT"], *values["NIGHTLY"]])
    pod = re.search(r"arguments=\[\*NIGHTLY, (.*)\],\n", DAG_FILE.read_text())
    assert pod is not None
    more = shlex.split(pod[1].replace(",", " "))
    require_command(["svc-dist", "batch", values["RECIPES"], values["OUTPUT"], *values["NIGHTLY"], *more])


def test_the_workflow_repeats_what_another_start_may_mend() -> None:
    retry = workflow()["spec"]["workflowSpec"]["templates"][0]["retryStrategy"]
    assert retry["retryPolicy"] == "Always"
    excluded = set(re.findall(r"'(\d+)'", retry["expression"]))
    assert excluded == {str(ExitCode.USAGE), str(ExitCode.INPUT), str(ExitCode.LOCKED)}
    assert workflow()["spec"]["concurrencyPolicy"] == "Forbid"


def test_the_workflow_is_one_of_argo() -> None:
    models = pytest.importorskip("hera.workflows.models", reason="Hera, which has the models of Argo, is not installed")
    parsed = models.CronWorkflow.model_validate(workflow())
    assert parsed.spec.workflow_spec.templates[0].container.command[0] == "svc-dist"
    known = models.CronWorkflow.model_validate(workflow()).model_dump(by_alias=True, exclude_none=True, mode="json")
    assert _lost(workflow(), known) == []


def _lost(given: Any, parsed: Any, path: str = "") -> list[str]:
    """The keys that the models do not know: they drop these."""
    if isinstance(given, dict) and isinstance(parsed, dict):
        missing = [f"{path}.{key}" for key in given if key not in parsed]
        return missing + [
            lost for key in given if key in parsed for lost in _lost(given[key], parsed[key], f"{path}.{key}")
        ]
    if isinstance(given, list) and isinstance(parsed, list):
        return [lost for one, other in zip(given, parsed, strict=True) for lost in _lost(one, other, f"{path}[]")]
    return []


@functools.cache
def dag_bag() -> Any:
    pytest.importorskip("airflow.providers.cncf.kubernetes", reason="Airflow and its provider are not installed")
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(FOLDER), collect_dags=True)


def test_airflow_loads_the_dag() -> None:
    bag = dag_bag()
    assert bag.import_errors == {}
    assert sorted(bag.dags["svc_dist_nightly"].task_ids) == ["in_a_pod", "on_the_worker"]


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 6, 70, 75])
def test_the_operator_tells_airflow_which_codes_a_retry_can_mend(code: int) -> None:
    task = dag_bag().dags["svc_dist_nightly"].get_task("on_the_worker")
    from airflow.sdk import exceptions

    raised: type[Exception] | None = None
    with mock.patch.object(task._hook, "run_command", return_value=mock.Mock(exit_code=code)) as run:
        try:
            task.execute({"ti": mock.Mock(try_number=2)})
        except exceptions.AirflowException as error:
            raised = type(error)
    permanent, again = exceptions.AirflowFailException, exceptions.AirflowException
    expected = {0: None, 2: permanent, 3: permanent, 5: exceptions.AirflowSkipException}
    assert raised is expected.get(code, again)
    assert run.call_args.args[0][:2] == ["svc-dist", "batch"]
    assert run.call_args.kwargs["env"]["SVC_DIST_RUN_ID"] == "on_the_worker.2"

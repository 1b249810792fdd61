"""The deployments on Kubernetes as kustomize builds them, the rights that they need, and what watches them."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from svc_dist.run.signals.metrics import METRICS, RESULTS
from tests.test_cluster_files import environment_file, pinned

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "cluster" / "kubernetes"
MONITORING = ROOT / "cluster" / "monitoring"
DEPLOYMENTS = sorted(path.parent.name for path in FOLDER.glob("*/kustomization.yaml") if path.parent.name != "settings")
#: What S3 asks for each of its client's calls: AWS's list of actions.
ACTIONS = {
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "complete_multipart_upload": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "list_objects_v2": "s3:ListBucket",
    "list_parts": "s3:ListMultipartUploadParts",
    "put_object": "s3:PutObject",
    "upload_part": "s3:PutObject",
}


def kustomization(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return found


@functools.cache
def built(name: str) -> tuple[dict[str, Any], ...]:
    """The objects of a deployment, by kustomize where it is installed, else by what these files use of it."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(FOLDER / name)], capture_output=True, text=True, check=True)
            return tuple(yaml.safe_load_all(done.stdout))
    return tuple(assembled(FOLDER / name))


def assembled(folder: Path) -> list[dict[str, Any]]:
    """What kustomize makes of resources, components, generated ConfigMaps, replacements and patches."""
    what = kustomization(folder)
    known = {"apiVersion", "kind", "resources", "components", "configMapGenerator", "generatorOptions", "images"}
    assert set(what) <= known | {"replacements", "patches"}
    objects: list[dict[str, Any]] = []
    for name in what["resources"]:
        path = folder / name
        objects += assembled(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for name in what.get("components", []):
        objects += assembled(folder / name)
    for one in what.get("configMapGenerator", []):
        data = environment_file() if "envs" in one else {file: (folder / file).read_text() for file in one["files"]}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": one["name"]}, "data": data})
    for one in what.get("replacements", []):
        (target,) = one["targets"]
        assert target["fieldPaths"] == ["spec.entrypoint"]
        job = next(entry for entry in objects if entry["kind"] == target["select"]["kind"])
        words = job["spec"]["entrypoint"].split(target["options"]["delimiter"])
        words[target["options"]["index"]] = environment_file()["OUTPUT"]
        job["spec"]["entrypoint"] = " ".join(words)
    for one in what.get("patches", []):
        target = next(entry for entry in objects if entry["kind"] == one["target"]["kind"])
        for change in yaml.safe_load(one["patch"]):
            *path, last = change["path"].strip("/").split("/")
            place = functools.reduce(lambda at, key: at[int(key)] if isinstance(at, list) else at[key], path, target)
            assert change["op"] == "add" or last in place, "kustomize replaces only what is there"
            place[last] = change["value"]
    return objects


def pod_of(entry: dict[str, Any]) -> dict[str, Any]:
    spec = entry["spec"]["jobTemplate"]["spec"] if entry["kind"] == "CronJob" else entry["spec"]
    pod: dict[str, Any] = spec["template"]["spec"]
    return pod


def one(name: str, kind: str) -> dict[str, Any]:
    (found,) = (entry for entry in built(name) if entry["kind"] == kind)
    return found


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_brings_what_its_pods_refer_to(name: str) -> None:
    names = {(entry["kind"], entry["metadata"]["name"]) for entry in built(name)}
    text = yaml.safe_dump_all(built(name))
    for account in re.findall(r"serviceAccountName: (\S+)", text):
        assert ("ServiceAccount", account) in names
    assert {("ConfigMap", "svc-dist-env"), ("ConfigMap", "svc-dist-recipe")} <= names
    assert set(re.findall(r"configMap(?:Ref)?:\s+name: (\S+)", text)) == {"svc-dist-env", "svc-dist-recipe"}
    assert "CHANGE" not in "".join(path.read_text() for path in FOLDER.rglob("*.*"))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_kubernetes_own_schemas_take_the_objects(name: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for entry in built(name):
        if entry["apiVersion"] != "ray.io/v1":  # KubeRay's: tests/test_cluster_files.py
            validator.validate(entry, "1.31", strict=True)


def test_no_environment_for_tests_is_without_the_validator() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(one.startswith("kubernetes-validate") for one in extras["test"]), "else CI skips the test above"
    assert tuple(map(int, pinned("kubernetes-validate").split("."))) >= (1, 31), (
        "it has the schemas of its version and before"
    )


def test_every_deployment_writes_to_the_output_of_the_settings() -> None:
    output = environment_file()["OUTPUT"]
    assert "{date}" in output
    assert one("rayjob", "RayJob")["spec"]["entrypoint"].split()[3] == output
    for name, kind in (("pod", "Job"), ("nightly", "CronJob")):
        assert pod_of(one(name, kind))["containers"][0]["command"][-1] == "$(OUTPUT)"


@pytest.mark.parametrize(("name", "kind"), [("pod", "Job"), ("nightly", "CronJob"), ("pod-gpu", "Job")])
def test_a_pod_has_no_rights_that_it_does_not_need(name: str, kind: str) -> None:
    pod = pod_of(one(name, kind))
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    writable = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    assert {mounted["/scratch"], mounted["/tmp"]} == writable, "the rest of the file system is read-only"
    assert one(name, "ServiceAccount")["automountServiceAccountToken"] is False


def test_the_nightly_pod_is_the_pod_with_three_more_options() -> None:
    pod, nightly = pod_of(one("pod", "Job")), pod_of(one("nightly", "CronJob"))
    plain, more = pod["containers"][0]["args"], nightly["containers"][0]["args"]
    assert more == [*plain, "--if-changed", "--latest", "--keep", "7"]
    import typer

    from svc_dist.cli.app import app

    command = typer.main.get_command(app).commands["merge"]  # type: ignore[attr-defined]
    assert {word for word in more if word.startswith("--")} <= {name for one in command.params for name in one.opts}
    nightly["containers"][0]["args"] = plain
    assert pod == nightly
    job = one("pod", "Job")["spec"] | {"template": None}
    assert job == one("nightly", "CronJob")["spec"]["jobTemplate"]["spec"] | {"template": None}


def test_the_pods_decide_by_exit_codes_as_the_driver_beside_ray_does() -> None:
    rules = json.dumps(one("pod", "Job")["spec"]["podFailurePolicy"]).replace('"merge"', '"driver"')
    beside_ray = one("raycron", "CronJob")["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]
    assert json.loads(rules) == beside_ray


def test_gpus() -> None:
    container = pod_of(one("pod-gpu", "Job"))["containers"][0]
    assert container["image"].endswith("-cu128")
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    groups = one("rayjob-gpu", "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [(group["groupName"], group["replicas"]) for group in groups] == [("workers", 0), ("gpu-workers", 4)]
    assert all(group["replicas"] == group["minReplicas"] == group["maxReplicas"] for group in groups)


def test_the_policy_allows_what_the_client_calls_and_nothing_else() -> None:
    source = "".join(path.read_text() for path in (ROOT / "svc_dist" / "storage" / "s3").glob("*.py"))
    calls = set(re.findall(r'call\(\s*"([a-z_0-9]+)"', source))
    assert calls == set(ACTIONS)
    policy = json.loads((FOLDER / "settings" / "iam-policy.json").read_text())
    allowed: dict[str, set[str]] = {}
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        for resource in statement["Resource"]:
            allowed.setdefault(resource, set()).update(statement["Action"])
    bucket = environment_file()["OUTPUT"].removeprefix("s3://").partition("/")[0]
    outputs = set().union(*(actions for name, actions in allowed.items() if f":::{bucket}" in name))
    assert outputs == set(ACTIONS.values())
    inputs = set().union(*(actions for name, actions in allowed.items() if f":::{bucket}" not in name))
    assert inputs == {"s3:GetObject", "s3:ListBucket"}
    for name, actions in allowed.items():
        of_bucket = {"s3:ListBucket", "s3:ListBucketMultipartUploads"}
        assert actions <= of_bucket if "/" not in name else not actions & of_bucket


# --- what watches a merge


def expressions() -> list[str]:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    board = json.loads((MONITORING / "dashboard.json").read_text())
    variables = [str(one["query"]) for one in board["templating"]["list"]]
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return [*alerts, *(target["expr"] for panel in board["panels"] for target in panel["targets"]), *variables]


def test_every_metric_of_the_rules_and_the_dashboard_exists() -> None:
    used = set(re.findall(r"svc_dist_\w+", " ".join(expressions())))
    assert used <= set(METRICS)
    assert len(used) > 8
    results = set(re.findall(r'result="(\w+)"', " ".join(expressions())))
    assert results <= set(RESULTS)


def test_rules_and_panels_are_whole() -> None:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
    board = json.loads((MONITORING / "dashboard.json").read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert all(target["refId"] for target in panel["targets"])
        assert panel["title"]
        assert panel["description"]
    for text in expressions():
        assert all(text.count(one) == text.count(other) for one, other in ("()", "[]", "{}"))
    if shutil.which("promtool"):
        subprocess.run(["promtool", "check", "rules", str(MONITORING / "alerts.yaml")], check=True)

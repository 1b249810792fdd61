"""The files of cluster/: well-formed, of one mind about versions, and safe by their settings."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from svc_dist.errors import ExitCode

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
SCRIPTS = sorted(path.name for path in CLUSTER.glob("*.sh"))
#: The deployments with Ray; tests/test_kubernetes_files.py is about all of them, as kustomize builds them.
KUBERNETES = ["kubernetes/raycron/cronjob.yaml", "kubernetes/rayjob/rayjob.yaml"]
CRON = KUBERNETES[0]
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_grpc_client_keepalive_time_ms": "20000",
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
    "RAY_health_check_period_ms": "3000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
}


def text(file: str) -> str:
    return (CLUSTER / file).read_text()


def documents(file: str) -> dict[str, Any]:
    return {entry["kind"]: entry for entry in yaml.safe_load_all(text(file))}


def environment_file() -> dict[str, str]:
    """The settings of all deployments on Kubernetes."""
    lines = (line for line in text("kubernetes/settings/settings.env").splitlines() if not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert found
    return found[1]


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


# --- Kubernetes: the fields that are used, by KubeRay 1.5 and Kubernetes 1.31; closed, so that a misspelt one shows


def closed(required: str, **properties: Any) -> dict[str, Any]:
    """A schema of an object that has nothing but these properties; ``required`` names some of them."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT, WHOLE, YES_NO = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}
QUANTITIES = closed(
    "cpu memory",
    cpu={"type": "string", "pattern": r"^[0-9]+$"},
    memory={"type": "string", "pattern": "^[0-9]+Gi$"},
    **{
        "ephemeral-storage": {"type": "string", "pattern": "^[0-9]+Gi$"},
        "nvidia.com/gpu": {"type": "string", "pattern": "^[1-8]$"},
    },
)
CONTAINER = closed(
    "name image resources",
    name=NAME,
    image=TEXT,
    command=many(TEXT),
    args=many(TEXT),
    env=many(closed("name value", name=TEXT, value=TEXT)),
    envFrom=many(closed("configMapRef", configMapRef=closed("name", name=NAME))),
    ports=many(closed("containerPort name", containerPort=WHOLE, name=NAME)),
    lifecycle=closed("preStop", preStop=closed("exec", exec=closed("command", command=many(TEXT)))),
    resources=closed("requests limits", requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=many(closed("name mountPath", name=NAME, mountPath=TEXT, readOnly=YES_NO)),
)
VOLUME = closed(
    "name",
    name=NAME,
    configMap=closed("name", name=NAME),
    secret=closed("secretName", secretName=NAME),
    emptyDir=closed("", medium={"const": "Memory"}, sizeLimit=TEXT),
    hostPath=closed("path type", path=TEXT, type={"const": "Directory"}),
)
POD = closed(
    "containers",
    containers=many(CONTAINER),
    volumes=many(VOLUME),
    serviceAccountName=NAME,
    restartPolicy={"const": "Never"},
    terminationGracePeriodSeconds=WHOLE,
    tolerations=many(
        closed(
            "key operator effect",
            key=TEXT,
            operator={"enum": ["Exists", "Equal"]},
            effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        )
    ),
    nodeSelector=TEXTS,
)
TEMPLATE = closed("spec", spec=POD)
RAY_CLUSTER = closed(
    "rayVersion authOptions headGroupSpec workerGroupSpecs",
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    enableInTreeAutoscaling={"const": False},
    authOptions=closed("mode", mode={"const": "token"}),
    headGroupSpec=closed("rayStartParams template", rayStartParams=TEXTS, template=TEMPLATE),
    workerGroupSpecs=many(
        closed(
            "groupName replicas minReplicas maxReplicas rayStartParams template",
            groupName=NAME,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            rayStartParams=TEXTS,
            template=TEMPLATE,
        )
    ),
)
CODES = closed(
    "operator values",
    containerName=NAME,
    operator={"enum": ["In", "NotIn"]},
    values={"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 255}, "minItems": 1},
)
JOB = closed(
    "template",
    backoffLimit=WHOLE,
    podFailurePolicy=closed(
        "rules",
        rules=many(
            closed(
                "action",
                action={"enum": ["Ignore", "FailJob", "Count"]},
                onExitCodes=CODES,
                onPodConditions=many(closed("type status", type=TEXT, status={"enum": ["True", "False"]})),
            )
        ),
    ),
    template=TEMPLATE,
)
SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "RayCluster": ("ray.io/v1", RAY_CLUSTER),
    "RayJob": (
        "ray.io/v1",
        closed(
            "entrypoint rayClusterSpec",
            entrypoint=TEXT,
            submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
            backoffLimit=WHOLE,
            activeDeadlineSeconds={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
            shutdownAfterJobFinishes=YES_NO,
            ttlSecondsAfterFinished=WHOLE,
            rayClusterSpec=RAY_CLUSTER,
        ),
    ),
    "CronJob": (
        "batch/v1",
        closed(
            "schedule jobTemplate",
            schedule={"type": "string", "pattern": r"^(\S+ ){4}\S+$"},
            concurrencyPolicy={"enum": ["Allow", "Forbid", "Replace"]},
            startingDeadlineSeconds=WHOLE,
            successfulJobsHistoryLimit=WHOLE,
            failedJobsHistoryLimit=WHOLE,
            jobTemplate=closed("spec", spec=JOB),
        ),
    ),
}


def ray_cluster(file: str) -> Any:
    found = documents(file)
    return found["RayCluster"]["spec"] if "RayCluster" in found else found["RayJob"]["spec"]["rayClusterSpec"]


def pods(file: str) -> list[Any]:
    cluster = ray_cluster(file)
    specs = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    found = documents(file)
    jobs = [found["CronJob"]["spec"]["jobTemplate"]["spec"]] if "CronJob" in found else []
    return [spec["template"]["spec"] for spec in [*specs, *jobs]]


@pytest.mark.parametrize("file", KUBERNETES)
def test_kubernetes_knows_every_field(file: str) -> None:
    found = documents(file)
    for kind, entry in found.items():
        api, spec = SPECS[kind]
        kinds = {"kind": {"const": kind}, "apiVersion": {"const": api}, "metadata": closed("name", name=NAME)}
        jsonschema.validate(entry, closed("apiVersion kind metadata spec", **kinds, spec=spec))


@pytest.mark.parametrize("file", KUBERNETES)
def test_pods_find_what_they_mount(file: str) -> None:
    for pod in pods(file):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        container = pod["containers"][0]
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes
        assert container["envFrom"] == [{"configMapRef": {"name": "svc-dist-env"}}]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["serviceAccountName"] == "svc-dist", (
            "any node may be asked to finish a shard, which takes credentials"
        )


@pytest.mark.parametrize("file", KUBERNETES)
def test_workers_are_of_a_fixed_number_and_heads_carry_no_units(file: str) -> None:
    cluster = ray_cluster(file)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


@pytest.mark.parametrize("file", KUBERNETES)
def test_workers_that_end_take_no_new_units_and_finish_those_they_run(file: str) -> None:
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason
    from ray.scripts.scripts import drain_node

    known = {option for parameter in drain_node.params for option in parameter.opts}
    for group in ray_cluster(file)["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        shell, flag, script = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert (shell, flag) == ("/bin/bash", "-c")
        subprocess.run(["bash", "-n", "-c", script], check=True)
        words = shlex.split(script)
        assert words[:2] == ["ray", "drain-node"]
        assert {word for word in words if word.startswith("--")} <= known
        assert words[words.index("--reason") + 1] in list(DrainNodeReason.keys())
        assert int(words[-1]) < pod["terminationGracePeriodSeconds"], "then Kubernetes kills"


@pytest.mark.parametrize("file", KUBERNETES)
def test_gpu_workers_go_to_gpu_nodes_with_their_disks_and_build(file: str) -> None:
    plain, gpus = ray_cluster(file)["workerGroupSpecs"]
    pod = gpus["template"]["spec"]
    container = pod["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"]
    assert "nvidia.com/gpu" not in plain["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert re.fullmatch(r".*:[\d.]+-cu\d+", container["image"])
    assert [volume["name"] for volume in pod["volumes"] if "hostPath" in volume] == ["scratch"]


def test_kubernetes_decides_by_our_exit_codes() -> None:
    job = documents(CRON)["CronJob"]["spec"]["jobTemplate"]["spec"]
    decided: dict[int, str] = {}
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {"values": []})
        assert codes["values"] == sorted(set(codes["values"])), "Kubernetes wants them in order"
        assert codes.get("containerName", "driver") == job["template"]["spec"]["containers"][0]["name"]
        decided |= dict.fromkeys(codes["values"], rule["action"])
    assert decided == {
        ExitCode.USAGE: "FailJob",
        ExitCode.INPUT: "FailJob",
        ExitCode.STORAGE: "Count",
        ExitCode.LOCKED: "Ignore",
        ExitCode.TRY_AGAIN: "Count",
    }
    assert job["template"]["spec"]["restartPolicy"] == "Never", "a failure policy works with no other"
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] > 60, "--grace is 60 seconds"


def test_the_driver_has_the_clusters_token_and_address() -> None:
    cluster = documents(CRON)["RayCluster"]
    pod = pods(CRON)[-1]
    variables = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    name = cluster["metadata"]["name"]
    assert {"name": "token", "secret": {"secretName": name}} in pod["volumes"]  # KubeRay's secret, key auth_token
    mounted = next(mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "token")
    assert variables["RAY_AUTH_TOKEN_PATH"] == f"{mounted}/auth_token"
    assert variables["RAY_ADDRESS"] == f"{name}-head-svc:6379"


# --- AWS


def test_rays_launcher_takes_the_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(text("ray-up.yaml"))
    validate_config(prepare_config(config))
    assert config["head_node_type"] in config["available_node_types"]
    worker = config["available_node_types"]["worker"]
    assert worker["min_workers"] == worker["max_workers"] == config["max_workers"]
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert worker["node_config"]["IamInstanceProfile"]["Arn"].startswith("arn:aws:iam::"), "workers read and write"


def test_a_spot_notice_drains_the_machine() -> None:
    from ray.scripts.scripts import drain_node

    command = yaml.safe_load(text("ray-up.yaml"))["worker_start_ray_commands"][-1]
    subprocess.run(["bash", "-n", "-c", command], check=True)
    _, _, drain = command.partition("ray drain-node ")
    used = set(re.findall(r"--[a-z-]+", drain.partition("'")[0]))
    assert "--reason" in used
    assert used <= {option for parameter in drain_node.params for option in parameter.opts}


# --- settings, in every file


def settings_of(file: str) -> dict[str, str]:
    """The environment that a file gives Ray."""
    if file in KUBERNETES:
        return {name: value for name, value in environment_file().items() if name.startswith("RAY_")}
    if file == "ray-up.yaml":
        return dict(
            option.removeprefix("-e ").split("=", 1)
            for option in yaml.safe_load(text(file))["docker"]["run_options"]
            if option.startswith("-e ")
        )
    return dict(re.findall(r"\b(RAY_\w+)=(\S+)", text(file)))


@pytest.mark.parametrize("file", [*KUBERNETES, "ray-up.yaml", "slurm.sh", "Dockerfile"])
def test_every_file_has_the_settings(file: str) -> None:
    found = settings_of(file)
    assert {name: found.get(name) for name in SETTINGS} == SETTINGS
    others = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"}
    assert set(found) <= set(SETTINGS) | others


@pytest.mark.parametrize("file", ["ray-up.yaml", "slurm.sh", "local.sh", "Dockerfile"])
def test_every_cluster_has_a_token(file: str) -> None:
    found = settings_of(file)
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"]


def test_the_launcher_copies_the_token_to_where_it_is_looked_for() -> None:
    mounted = yaml.safe_load(text("ray-up.yaml"))["file_mounts"]
    assert mounted[settings_of("ray-up.yaml")["RAY_AUTH_TOKEN_PATH"]] == "~/.ray/auth_token"


def test_ray_knows_the_settings() -> None:
    """Ray ignores what it does not know: a misspelled variable would have no effect."""
    names = [name.removeprefix("RAY_") for name in SETTINGS if name != "RAY_USAGE_STATS_ENABLED"]
    script = f"from ray._raylet import Config; print(*[getattr(Config, name)() for name in {names}])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=SETTINGS)
    assert done.stdout.split() == [SETTINGS[f"RAY_{name}"] for name in names]
    from ray._private import ray_constants

    assert hasattr(ray_constants, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")


# --- commands


@functools.cache
def options_of_ray_start() -> set[str]:
    from ray.scripts.scripts import start

    return {option for parameter in start.params for option in parameter.opts}


def ray_starts(file: str) -> list[str]:
    """Every `ray start` of a file, on one line."""
    return re.findall(
        r"(?:ray|ray\.scripts\.scripts) start (--.*)", re.sub(r"\s*\\\n\s*|\n {4}(?=--)", " ", text(file))
    )


@pytest.mark.parametrize("file", [CRON, "ray-up.yaml", "slurm.sh", "local.sh"])
def test_ray_start_has_the_options(file: str) -> None:
    found = ray_starts(file)
    assert found
    for line in found:
        used = {word.split("=")[0] for word in line.split() if word.startswith("--")}
        assert used <= options_of_ray_start()


@pytest.mark.parametrize("file", KUBERNETES)
def test_ray_start_has_kuberays_parameters(file: str) -> None:
    cluster = ray_cluster(file)
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert {f"--{name}" for name in group["rayStartParams"]} <= options_of_ray_start()


@pytest.mark.parametrize("file", [*KUBERNETES, "ray-up.yaml", "slurm.sh", "local.sh"])
def test_the_merge_command_has_the_options(file: str) -> None:
    import typer

    from svc_dist.cli.app import app

    command = typer.main.get_command(app).commands["merge"]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    lines = re.findall(r"(?:svc-dist|svc_dist) merge (.*)", re.sub(r"\n {4}(?=--)", " ", text(file)))
    used = {word for line in lines for word in re.findall(r"--[a-z-]+", line)}
    assert "--address" in used
    assert used <= known


@pytest.mark.parametrize("file", SCRIPTS)
def test_scripts_are_valid_bash(file: str) -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / file)], check=True)
    assert (CLUSTER / file).stat().st_mode & 0o111
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(CLUSTER / file)], check=True)


def test_the_shell_in_the_driver_is_valid_bash() -> None:
    driver = pods(CRON)[-1]["containers"][0]
    subprocess.run(["bash", "-n", "-c", driver["args"][0]], check=True)
    assert shlex.split(driver["args"][0].splitlines()[-1])[:2] == ["exec", "svc-dist"], "signals reach the merge"


def test_slurm_warns_the_script_alone_and_before_everything_else() -> None:
    head, _, _ = text("slurm.sh").partition("set -uo pipefail")  # sbatch reads no further than the first command
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", head, re.M))
    assert text("slurm.sh").count("\n#SBATCH") == len(options)
    assert options["signal"] == "B:USR1@120"
    assert "requeue" in options
    assert "no-kill" in options


# --- versions and the image


def test_versions_agree() -> None:
    assert re.findall(r"^ARG RAY=(.+)$", text("Dockerfile"), re.M) == [pinned("ray")]
    for file in KUBERNETES:
        assert ray_cluster(file)["rayVersion"] == pinned("ray")
    files = [*KUBERNETES, "ray-up.yaml", "Dockerfile", "README.md"]
    images = {name for file in files for name in re.findall(r"[\w./]+/svc-dist:[\w.-]*\w", text(file))}
    assert images == {f"registry.example/svc-dist:{version()}{build}" for build in ("", "-cu128")}


def test_the_image_has_the_builds_of_pytorch() -> None:
    found = instructions()
    assert ("ARG", "TORCH=cpu") in found
    index = next(rest for name, rest in found if name == "ARG" and rest.startswith("TORCH_INDEX="))
    assert index.endswith("/whl/${TORCH}")
    for build in ("cpu", "cu126", "cu128", "cu130"):
        assert build in text("Dockerfile")
        assert f"`{build}`" in text("README.md")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    lines = [line for line in text("Dockerfile").splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined]


def test_the_dockerfile_is_well_formed() -> None:
    found = instructions()
    assert {name for name, _ in found} <= {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV"}
    assert [name for name, _ in found[:2]] == ["ARG", "FROM"]
    assert found[1][1] == "rayproject/ray:${RAY}-py311"
    for name, rest in found:
        if name == "COPY":
            for source in rest.split()[1:-1]:
                assert (ROOT / source).exists()
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", rest], check=True)
            assert "--no-cache-dir" in rest or not rest.startswith("pip")


def test_the_readme_explains_every_file_and_code() -> None:
    readme = text("README.md")
    for path in CLUSTER.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in readme
    for code in (value for name, value in vars(ExitCode).items() if name.isupper() and value != ExitCode.INTERNAL):
        assert re.search(rf"^\| {code} \|", readme, re.M)

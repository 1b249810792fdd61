"""A nightly merge under Airflow 3.3, in two forms: on the worker itself, and in a pod of its own."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from kubernetes.client import models as k8s

RECIPES = "s3://my-bucket/recipes"
OUTPUT = "s3://my-bucket/{recipe}/{date}"  # svc-dist fills both in; Airflow's own templates have two braces
NIGHTLY = ["--if-changed", "--latest", "--keep", "7", "--executor", "inline", "--log-format", "json"]


class SvcDistOperator(BaseOperator):
    """Runs svc-dist on the worker. A start after a retry resumes what the one before it left.

    The run id in svc-dist's log lines is that of Airflow's task.
    """

    template_fields = ("arguments",)

    def __init__(self, *, arguments: list[str], **options) -> None:
        super().__init__(**options)
        self.arguments = arguments
        self._hook = SubprocessHook()

    def execute(self, context) -> None:
        environment = dict(os.environ) | {"SVC_DIST_RUN_ID": f"{self.task_id}.{context['ti'].try_number}"}
        code = self._hook.run_command(["svc-dist", *self.arguments], env=environment).exit_code
        if code in (2, 3):  # recipe or usage, damaged or changed input: a retry cannot help
            raise AirflowFailException(f"svc-dist ended with exit code {code}")
        if code == 5:  # another start merges into this output
            raise AirflowSkipException("another start is at work")
        if code:  # 4, 6, 70, 75: the next attempt resumes
            raise AirflowException(f"svc-dist ended with exit code {code}")

    def on_kill(self) -> None:
        self._hook.send_sigterm()  # running units finish; the next attempt resumes


with DAG(
    "svc_dist_nightly",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,  # two starts at the same time: the second would end with exit code 5
    default_args={"retries": 6, "retry_delay": timedelta(minutes=2), "retry_exponential_backoff": True},
):
    SvcDistOperator(task_id="on_the_worker", arguments=["batch", RECIPES, OUTPUT, *NIGHTLY])

    KubernetesPodOperator(
        task_id="in_a_pod",
        image="registry.example/svc-dist:0.1.0",
        cmds=["svc-dist", "batch", RECIPES, OUTPUT],
        arguments=[*NIGHTLY, "--report", "/tmp/report.json", "--scratch", "/scratch"],
        service_account_name="svc-dist",  # with the role that may read and write the buckets
        env_vars={"HOME": "/tmp", "SVC_DIST_RUN_ID": "{{ ti.task_id }}.{{ ti.try_number }}"},
        container_resources=k8s.V1ResourceRequirements(
            requests={"cpu": "8", "memory": "64Gi"}, limits={"cpu": "8", "memory": "64Gi"}
        ),
        volumes=[k8s.V1Volume(name="scratch", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="40Gi"))],
        volume_mounts=[k8s.V1VolumeMount(name="scratch", mount_path="/scratch")],
        termination_grace_period=120,  # more than --grace, during which running units may finish
        skip_on_exit_code=5,  # another start is at work; every other code but 0 counts as a retry
        on_finish_action="delete_succeeded_pod",
    )

"""A merge from S3 to S3 that is started over and over, and killed at some request."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.command import environment
from tests.support.dying import start
from tests.support.s3_merge import MAX_RANGE, S3Merge, Starts

COMMAND = f"""
from svc_dist.checkpoint import layout
layout.MAX_RANGE = {MAX_RANGE}
from svc_dist.cli.process import main
main()
"""


class Killer:
    """Starts a merge over and over, and kills it when the proxy has seen some number of requests."""

    def __init__(self, starts: Starts, seed: int, home: Path, executor: str = "inline") -> None:
        self.starts, self.merge = starts, starts.merge
        self.random = random.Random(seed)
        self.home = home
        self.executor = executor
        self.kills = self.rounds = 0
        self.midway = 0

    def run(self, kills: int, requests: int, first: int = 0) -> None:
        """Kill so often, at a request from the ``first`` on, starting elsewhere when a merge gets through; then let it
        finish."""
        while self.kills < kills:
            if self.strike(self.random.randrange(first, requests)):
                self.merge.require_complete()
                self.elsewhere()
        self.starts.check()
        report = self.merge.run(self.starts.proxy.endpoint)
        assert report.units_resumed >= len(self.starts.receipts)
        self.starts.check()
        self.merge.require_complete()
        assert self.midway >= kills // 3, "enough kills must hit a merge in the middle"

    def elsewhere(self) -> None:
        self.rounds += 1
        self.merge = S3Merge(self.merge.bucket, self.merge.models, f"merged{self.rounds}")
        self.starts = Starts(self.merge, self.starts.proxy)
        self.starts.proxy.forget()

    def strike(self, requests: int) -> bool:
        """One start, killed at its so many-th request; whether it was over before that."""
        proxy = self.starts.proxy
        before = len(self.starts.receipts)
        if self.executor == "inline":
            process = start(self.merge.recipe, self.merge.url, AWS_ENDPOINT_URL=proxy.endpoint)
            while len(proxy.requests) < requests and process.exitcode is None:
                time.sleep(0.002)
            process.kill()
            process.join()
            code = process.exitcode
        else:
            recipe = self.merge.write_recipe(self.home / "recipe.yaml")
            command = [sys.executable, "-c", COMMAND, "merge", recipe, self.merge.url, "--executor", self.executor]
            with subprocess.Popen(
                [*command, "--slots", "2", "--endpoint-url", proxy.endpoint],
                env=environment(self.home),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            ) as started:
                while len(proxy.requests) < requests and started.poll() is None:
                    time.sleep(0.002)
                if started.poll() is None:
                    os.killpg(started.pid, signal.SIGKILL)
                code = started.wait()
            time.sleep(1)  # until Ray's workers have noticed
        assert code in (0, -signal.SIGKILL)
        self.kills += code != 0
        self.starts.check()
        self.midway += code != 0 and len(self.starts.receipts) > before
        return code == 0

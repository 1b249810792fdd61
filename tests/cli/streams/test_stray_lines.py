"""A JSON log stays one object a line, whoever writes to standard error: C++ code, child processes, threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CODE = """
import logging, os, subprocess, sys, time
from svc_dist.cli.streams import logs, stray_lines
wrapped = stray_lines._wrapped
stray_lines._wrapped = lambda *given: time.sleep(0.2) or wrapped(*given)  # as on a busy machine
logs.set_up(logs.Format.JSON)
log = logging.getLogger("svc_dist")
log.info("before")
with logs.prints_logged():
    log.info("ours", extra={"fields": {"units": 3}})
    os.write(2, b"[2026-01-01 00:00:00,000 E 12 34] gcs_rpc_client.h:180: Failed to connect\\n\\n")
    os.write(2, b'{"not": "ours"}\\n')
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('a child')"])
log.info("after")
os.write(2, b"raw\\n")
"""


def test_every_line_is_an_object_in_its_order_and_nothing_is_lost() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env={**os.environ}, timeout=60)
    assert done.returncode == 0, done.stderr
    *lines, raw = done.stderr.splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["message"] for entry in entries] == [
        "before",
        "ours",
        "[2026-01-01 00:00:00,000 E 12 34] gcs_rpc_client.h:180: Failed to connect",
        '{"not": "ours"}',
        "a child",
        "after",
    ]
    assert [entry.get("by") for entry in entries] == [None, None, *["a library"] * 3, None]
    assert entries[1]["units"] == 3
    assert len({entry["run"] for entry in entries}) == 1
    assert raw == "raw", "afterwards standard error is as before"

"""The id of this process's run: in every line of its log, in the run folder and in the report."""

from __future__ import annotations

import os
import re
import uuid

VARIABLE = "SVC_DIST_RUN_ID"
_ALLOWED = re.compile(r"[\w.:/-]{1,64}", re.ASCII)


def _chosen() -> str:
    given = os.environ.get(VARIABLE, "")
    return given if _ALLOWED.fullmatch(given) else uuid.uuid4().hex[:8]


RUN_ID = _chosen()

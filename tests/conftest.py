"""No test talks to a hub or reports usage: set before anything imports the libraries that would."""

from __future__ import annotations

import os
import secrets

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray reads its token from HOME once per process, a node that it starts reads it anew: with tests that have homes of
# their own it would find none, and end.
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

# A busy machine is no bug: examples are bounded by number, not by time.
settings.register_profile("svc_dist", deadline=None, max_examples=60)
settings.load_profile("svc_dist")

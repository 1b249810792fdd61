"""The commands as Python functions, and the mathematics for tensors in memory."""

from svc_dist.api.outputs import diff, read_report, status, verify, write_report
from svc_dist.api.recipes import doctor, inspect, make_plan, make_plans, merge, predict
from svc_dist.api.tensors import calibrate, merge_deltas, merge_state_dicts
from svc_dist.notebook.quiet import import_without_warnings

__all__ = [
    "calibrate",
    "diff",
    "doctor",
    "inspect",
    "make_plan",
    "make_plans",
    "merge",
    "merge_deltas",
    "merge_state_dicts",
    "predict",
    "read_report",
    "status",
    "verify",
    "write_report",
]

import_without_warnings()

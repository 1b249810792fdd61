"""Loading compiled loops before a unit's seconds are counted."""

from __future__ import annotations

from svc_dist.linalg.devices.grain import on_the_cpu
from svc_dist.methods.elementwise.compiled.ready import loops
from svc_dist.methods.registry import METHODS
from svc_dist.plan.costs import takes_matrices
from svc_dist.plan.model import Plan, Unit


def load_loops(plan: Plan, unit: Unit) -> None:
    """Load the compiled loops that a unit's element-wise merges will use, if there are such loops."""
    if not on_the_cpu(plan.settings.device):
        return
    for tensor, first, last, merged in plan.spans(unit):
        if merged and tensor.dtype == "BF16":
            dispositions = plan.dispositions(tensor)
            method = dispositions[0].method
            if method and METHODS[method].family == "elementwise" and not takes_matrices(tensor, dispositions):
                loops(last - first)

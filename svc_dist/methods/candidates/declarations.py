"""The candidates: each one function, and its declaration here. Measurements move one to its family, or remove it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.candidates import costs
from svc_dist.methods.costs import with_heap_slack
from svc_dist.methods.method import Method
from svc_dist.methods.parameters import Parameter


def require_ordered_betas(values: Mapping[str, Any]) -> None:
    """Raise RecipeError where the smallest exponent is above the largest."""
    if values["beta_min"] > values["beta_max"]:
        raise RecipeError(
            f"beta_min {values['beta_min']:g} is above beta_max {values['beta_max']:g}",
            "set beta_min to at most beta_max",
            code="values-contradict",
        )


CANDIDATES = (
    Method(
        name="ace", function=".candidates.ace:ace", family="spectral", experimental=True, access="two passes",
        doc="ACE-Merging: the experts' mean, each weighted by the covariance of its own delta",
        source="arXiv 2603.02945 (ACE-Merging)",
        parameters=(
            Parameter(
                "eps", float, 1e-2, "what is added to the diagonal of each covariance", low=0, low_open=True
            ),
            Parameter(
                "heterogeneity", float, 0.3, "variance of the logarithms of the deltas' energies, over their squared "
                "mean, from which on covariances are normalised and the result is refined", low=0,
            ),
            Parameter("refined_share", float, 0.3, "share of the directions that the refinement lifts", low=0, high=1),
        ),
        work=costs.ace_work, memory=with_heap_slack(costs.ace_memory),
    ),
    Method(
        name="resmerge", function=".candidates.resmerge:resmerge", family="spectral", experimental=True, symmetric=True,
        doc="ResMerge: what experts have beside their leading directions, in their common direction; then those",
        source="Sun et al. 2026, arXiv 2606.02252",
        parameters=(
            Parameter("rank", int, 1, "leading directions of an expert that are kept apart", low=1),
            Parameter("beta_min", float, 0.7, "exponent of the coherence where experts agree", low=0),
            Parameter("beta_max", float, 1.0, "exponent of the coherence where they do not", low=0),
            Parameter("head_ratio", float, 0.2, "largest share of the leading directions in the result", low=0),
        ),
        requires=require_ordered_betas, factored=".candidates.resmerge:of_cores",
        work=costs.resmerge_work, memory=with_heap_slack(costs.resmerge_memory),
    ),
)  # fmt: skip

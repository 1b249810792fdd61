"""The merge methods and calibrations that there are: each one function, and its declaration here.

An installed package adds its own through the entry-point group ``svc_dist.methods``: each entry point names a
``Method``, a ``Calibration`` or a tuple of them.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator

from svc_dist.methods.calibration import costs as calibrating
from svc_dist.methods.candidates.declarations import CANDIDATES
from svc_dist.methods.costs import with_heap_slack
from svc_dist.methods.elementwise.declarations import ELEMENTWISE
from svc_dist.methods.method import Calibration, Method
from svc_dist.methods.parameters import INIT, LR, STEPS, ByExperts, Parameter
from svc_dist.methods.spectral import costs as spectral

GROUP = "svc_dist.methods"

_METHODS = (
    *ELEMENTWISE,
    Method(
        name="tsv_m", function=".spectral.subspaces:tsv_m", family="spectral", version=2, symmetric=True,
        doc="the experts' leading singular directions, decorrelated", source="Gargiulo et al. 2025, arXiv 2412.00081",
        factored=".spectral.factored:tsv_m", batched=".batches.forms:tsv_m",
        work=spectral.tsv_m_work, memory=with_heap_slack(spectral.polar_memory),
        calibration_advice="with eight real experts alpha 1/K lost 4.0 points at lambda 1; alpha 0.5 gained 1.6 there, "
        "and lambda 0.5 with alpha 1/K gained 2.3 (docs/choosing.md)",
    ),
    Method(
        name="iso_c", function=".spectral.subspaces:iso_c", family="spectral", version=2, symmetric=True,
        doc="the sum of the task deltas with a flat spectrum", source="Marczak et al. 2025, arXiv 2502.04959",
        factored=".spectral.factored:iso_c", batched=".batches.forms:iso_c",
        work=spectral.iso_c_work, memory=with_heap_slack(spectral.iso_c_memory),
    ),
    Method(
        name="iso_cts", function=".spectral.subspaces:iso_cts", family="spectral", version=2, access="two passes",
        doc="common and expert-specific directions with a flat spectrum",
        source="Marczak et al. 2025, arXiv 2502.04959",
        parameters=(
            Parameter(
                "common_space_fraction", float, 0.8, "share of the directions that is common to all experts",
                low=0, high=1,
            ),
        ),
        work=spectral.iso_cts_work, memory=with_heap_slack(spectral.iso_cts_memory),
    ),
    Method(
        name="star", function=".spectral.subspaces:star", family="spectral", version=2, symmetric=True,
        doc="the experts' leading directions, rescaled; averaged", source="Lee et al. 2025, NAACL (STAR)",
        parameters=(
            Parameter(
                "eta", float, 40.0, "percent of an expert's nuclear norm that is kept", low=0, low_open=True, high=100
            ),
        ),
        work=spectral.star_work, memory=with_heap_slack(spectral.star_memory),
    ),
    Method(
        name="wudi", function=".spectral.wudi:wudi", family="spectral",
        doc="least interference with every expert, by gradient descent", source="Cheng et al. 2025, arXiv 2503.08099",
        parameters=(STEPS, LR),
        work=spectral.wudi_work, memory=with_heap_slack(spectral.wudi_memory),
        calibration_advice="with eight real experts alpha 1/K lost 0.5 points, and no alpha gained any "
        "(docs/choosing.md)",
    ),
    Method(
        name="optmerge", function=".spectral.wudi:optmerge", family="spectral", version=2, access="two passes",
        doc="WUDI against denoised experts", source="Wei et al. 2025, arXiv 2505.19892",
        parameters=(STEPS, LR),
        work=spectral.optmerge_work, memory=with_heap_slack(spectral.optmerge_memory),
        calibration_advice="with eight real experts alpha 1/K lost 0.6 points, and no alpha gained any "
        "(docs/choosing.md)",
    ),
    Method(
        name="swudi", function=".spectral.swudi:swudi", family="spectral", version=2, access="two passes",
        doc="WUDI's gradient flow in closed form, on the leading directions",
        source="Wei et al. 2026, arXiv 2606.07289",
        parameters=(
            Parameter("exp_time", float, 300.0, "how long the gradient flow from M0 runs", low=0, low_open=True),
            Parameter(
                "rank_ratio", float, 0.65, "share of the input directions that is kept; the authors advise 0.85 for "
                "full fine-tunes of LLMs", low=0, low_open=True, high=1,
            ),
            INIT,
        ),
        several="exp_time", factored=".spectral.factored:swudi", batched=".batches.forms:swudi",
        work=spectral.swudi_work, memory=with_heap_slack(spectral.swudi_memory),
    ),
    Method(
        name="swudi_a", function=".spectral.swudi:swudi_a", family="spectral", version=2, access="two passes",
        doc="WUDI's minimum on the leading directions", source="Wei et al. 2026, arXiv 2606.07289",
        parameters=(
            Parameter(
                "rank_rule", str, "participation_sqrt", "how many directions are kept, from each spectrum",
                choices=("participation_sqrt", "participation", "entropy", "stable_rank", "gavish_donoho"),
                pattern=(
                    r"cumvar_(0?\.\d*[1-9]\d*|1(\.0*)?)", "cumvar_<share>, with a share above 0 and at most 1"
                ),
            ),
            INIT,
        ),
        factored=".spectral.factored:swudi_a",
        work=spectral.swudi_work, memory=with_heap_slack(spectral.swudi_a_memory),
    ),
    *CANDIDATES,
)  # fmt: skip

_CALIBRATIONS = (
    Calibration(
        name="svc", function=".calibration.svc:svc", version=2,
        doc="Singular Value Calibration", source="Li et al. 2026, arXiv 2602.05536",
        parameters=(
            Parameter(
                "alpha", float, ByExperts("1/K", lambda k: 1 / k), "floor of an expert's share; 1 only suppresses",
                low=0, low_open=True,
            ),
            Parameter(
                "side", str, "left", "compare in the column space (left) or the row space (right)",
                choices=("left", "right"),
            ),
        ),
        several="alpha", factored=True, batched=".batches.calibrated:svc",
        work=calibrating.svc_work, memory=with_heap_slack(calibrating.svc_memory),
    ),
    Calibration(
        name="magic", function=".calibration.magic:magic", experimental=True,
        doc="MAGIC's weight space calibration: each row as long as the experts' rows suggest",
        source="Li et al. 2025, arXiv 2512.19320",
        parameters=(
            Parameter(
                "limit", str, "none", "rows may only grow (amplify) or only shrink (suppress): the authors suppress "
                "in layers that data shows to be sensitive, and amplify in all others",
                choices=("none", "amplify", "suppress"),
            ),
        ),
        work=calibrating.magic_work, memory=with_heap_slack(calibrating.magic_memory),
    ),
)  # fmt: skip


def _installed() -> Iterator[Method | Calibration]:
    """What installed packages declare. One that cannot be loaded is left out, with a warning."""
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            loaded = entry.load()
        except Exception as error:  # whatever another package raises must not end commands that do not use it
            logging.getLogger("svc_dist").warning(
                f"the merge methods of {entry.value} cannot be loaded: {type(error).__name__}: {error}"
            )
            continue
        yield from loaded if isinstance(loaded, tuple) else (loaded,)


def _named() -> tuple[dict[str, Method], dict[str, Calibration]]:
    """All methods and calibrations by name. A built-in one keeps its name against an installed one."""
    methods = {method.name: method for method in _METHODS}
    calibrations = {calibration.name: calibration for calibration in _CALIBRATIONS}
    for declared in _installed():
        if declared.name in methods or declared.name in calibrations:
            logging.getLogger("svc_dist").warning(
                f"'{declared.name}' of {declared.function} is ignored: another method or calibration has that name"
            )
        elif isinstance(declared, Method):
            methods[declared.name] = declared
        else:
            calibrations[declared.name] = declared
    return methods, calibrations


METHODS, CALIBRATIONS = _named()

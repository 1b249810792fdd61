"""The scores of a model in its card, in the form that hubs read (``model-index``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svc_dist.run_folder.report import Evaluation


def with_scores(card: str, model: str, evaluations: Sequence[Evaluation]) -> str:
    """A model card with these scores in place of those that it has. ``model``: its name in the card."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    content = ModelCard(card, ignore_metadata_errors=True)
    own = {"model-index", "model_name", "eval_results"}
    written: dict[str, Any] = content.data.to_dict()  # type: ignore[no-untyped-call]
    kept = {key: value for key, value in written.items() if key not in own}
    results = [
        EvalResult(
            task_type=one.task, dataset_type=one.name, dataset_name=one.name, metric_type=name, metric_value=value
        )
        for one in evaluations
        for name, value in one.metrics.items()
    ]
    content.data = ModelCardData(model_name=model, eval_results=results, ignore_metadata_errors=True, **kept)
    return str(content)

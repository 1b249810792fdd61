"""Whether each token of a merged model's tokenizer has a row."""

from __future__ import annotations

from collections.abc import Mapping

from svc_dist.checkpoint.tokenizer import has_tokenizer
from svc_dist.checkpoint.vocabulary import read_vocabulary, tokens_of
from svc_dist.errors import DamagedInputError
from svc_dist.run_folder.report import MergeReport
from svc_dist.storage.base import Storage


def token_rows(folder: Storage, report: MergeReport) -> tuple[str, str | None] | None:
    """What was checked of a model whose rows were matched by token, and what is wrong. None for other models."""
    rows = {tensor.name: tensor.shape[0] for tensor in report.tensors if tensor.by_token}
    if not rows or not has_tokenizer(folder.names()):
        return None
    return f"every token has a row of {', '.join(rows)}", token_without_row(folder, rows)


def token_without_row(folder: Storage, rows: Mapping[str, int]) -> str | None:
    """The last token, where a tensor has no row for it. ``rows``: how many each tensor has, by name."""
    try:
        vocabulary = read_vocabulary(folder, {})
    except DamagedInputError as error:
        return error.message
    tokens = {} if vocabulary is None else tokens_of(vocabulary)
    if not tokens:
        return None
    last = max(tokens, key=lambda token: tokens[token])
    short = next((name for name, count in rows.items() if tokens[last] >= count), None)
    return None if short is None else f"{short} has no row for the token {last!r}, number {tokens[last]:,}"

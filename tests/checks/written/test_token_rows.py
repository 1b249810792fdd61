"""Each token has a row, or the one that has none is named."""

from __future__ import annotations

from pathlib import Path

from svc_dist.checks.written.token_rows import token_without_row
from svc_dist.storage.open import open_storage
from tests.plan.files.test_sidecars import write_tokenizer


def test_a_token_without_a_row_is_named(tmp_path: Path) -> None:
    folder = open_storage(str(tmp_path))
    assert token_without_row(folder, {"e": 1}) is None  # there is no tokenizer
    write_tokenizer(tmp_path, {"t0": 0, "<s>": 1, "<|im_start|>": 2})
    folder = open_storage(str(tmp_path))
    assert token_without_row(folder, {"e": 3, "h": 3}) is None
    assert token_without_row(folder, {"e": 3, "h": 2}) == "h has no row for the token '<|im_start|>', number 2"
    (tmp_path / "tokenizer.json").write_text("{")
    assert "tokenizer.json" in str(token_without_row(open_storage(str(tmp_path)), {"e": 3}))

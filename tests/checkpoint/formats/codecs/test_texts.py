"""Every codec comes back from the text that a plan records, and damaged texts are refused."""

from __future__ import annotations

import pytest

from svc_dist.checkpoint.formats.codecs.fp8_scaled import Fp8Scaled
from svc_dist.checkpoint.formats.codecs.texts import codec_of, codec_text
from tests.support.quantised import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_codecs_come_back(family: str) -> None:
    codec = FAMILIES[family].codec((70, 64))
    assert codec_of(codec_text(codec)) == codec


def test_tuples_without_items_come_back() -> None:
    assert codec_of(codec_text(Fp8Scaled((2, 4), "modelopt", ()))) == Fp8Scaled((2, 4), "modelopt", ())


@pytest.mark.parametrize("text", ["", "unknown []", "mxfp [", "mxfp [1,2,3,4,5,6,7,8,9,10,11]"])
def test_damaged_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"codec|Expecting"):
        codec_of(text)

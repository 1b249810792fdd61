"""Errors survive Ray's pickling, and what they say is harmless on a terminal, whatever names it holds."""

from __future__ import annotations

import io
import json
import logging
import pickle

import pytest

from svc_dist.errors import (
    DamagedInputError,
    PlanError,
    PrintableRecords,
    RecipeError,
    has_control,
    printable,
    printable_json,
    printable_lines,
    warned,
    warning_code,
)

#: ESC, BEL, C1's CSI, a bidi override, a zero-width joiner, a line separator, a lone surrogate.
HOSTILE = "a\x1b[31mb\x07c\x9b1Ad\u202ee\u200df\u2028g\udcffh"
HARMLESS = r"a\x1b[31mb\x07c\x9b1Ad\u202ee\u200df\u2028g\udcffh"


def test_a_name_is_one_harmless_line() -> None:
    assert printable(HOSTILE) == HARMLESS
    assert printable("two\nlines\tand\rmore") == r"two\nlines\tand\rmore"
    for name in ("model.layers.0.weight", "Größe 模型　é", "[red]x[/red]"):
        assert printable(name) == name


def test_an_endless_name_is_cut_in_the_middle() -> None:
    shown = printable("a" * 100_000 + "end")
    assert len(shown) < 600
    assert shown.startswith("aaa")
    assert shown.endswith("end")


def test_a_message_keeps_its_own_lines_and_tabs() -> None:
    assert printable_lines(f"one\n\t{HOSTILE}") == f"one\n\t{HARMLESS}"


@pytest.mark.parametrize("value", [HOSTILE, "plain", "del \x7f", "模型 😀", "\ue000"])
def test_json_keeps_its_value_and_is_ascii(value: str) -> None:
    text = printable_json(json.dumps({"name": value}, ensure_ascii=False))
    assert text.isascii()
    assert "\x7f" not in text
    assert json.loads(text) == {"name": value}


def test_an_error_is_harmless_from_its_birth_and_in_another_process() -> None:
    error = pickle.loads(pickle.dumps(DamagedInputError(f"bad {HOSTILE}", f"remove {HOSTILE}")))
    assert (error.message, error.hint) == (f"bad {HARMLESS}", f"remove {HARMLESS}")
    assert str(error) == f"bad {HARMLESS}\n  remove {HARMLESS}"


def test_an_error_keeps_its_code_in_another_process() -> None:
    assert pickle.loads(pickle.dumps(RecipeError("unknown key", code="unknown-key"))).code == "unknown-key"
    assert RecipeError("no code of its own").code == "arguments-refused"
    assert PlanError("no code").code is None


def test_a_warning_ends_with_its_code() -> None:
    warning = warned("no-effect", "recipe (fallback): has no effect")
    assert warning == "recipe (fallback): has no effect [no-effect]"
    assert warning_code(warning) == "no-effect"
    for text in ("no code", "a list [1, 2]", "one [12]", "models[0]", "a [b.c]"):
        assert warning_code(text) is None


def test_the_package_s_log_is_harmless_whoever_handles_it() -> None:
    log, text = logging.getLogger("svc_dist"), io.StringIO()
    assert any(isinstance(one, PrintableRecords) for one in log.filters)
    handler = logging.StreamHandler(text)
    log.addHandler(handler)
    try:
        log.warning("found %s", HOSTILE)
    finally:
        log.removeHandler(handler)
    assert text.getvalue() == f"found {HARMLESS}\n"


def test_control_characters_are_told_from_foreign_letters() -> None:
    assert has_control("a\nb")
    assert has_control("a\0")
    assert has_control("\udcff")
    assert not has_control("模型 é　x")

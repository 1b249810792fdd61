"""``evaluate`` in recipes: its forms, and what is refused with its line."""

from __future__ import annotations

import pytest

from tests.support.recipes import MINIMAL, refused, resolved


@pytest.mark.parametrize(
    "written",
    [
        "evaluate: score {output}\n",
        "evaluate: {command: 'score {output}'}\n",
        "evaluate: [{command: 'score {output}', name: evaluation}]\n",
    ],
)
def test_a_command_an_entry_and_a_list_are_one(written: str) -> None:
    (entry,) = resolved(MINIMAL + written).evaluate
    assert (entry.command, entry.name, entry.task, entry.timeout) == ("score {output}", "evaluation", "other", None)


def test_it_is_no_part_of_what_is_merged() -> None:
    assert resolved(MINIMAL + "evaluate: score {output}\n") == resolved(MINIMAL)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("evaluate: score model\n", "r.yaml:7 (evaluate[0].command): the command must have {output}"),
        ("evaluate:\n  - command: a {output}\n  - command: b {output}\n", "2 entries are called 'evaluation'"),
        ("evaluate:\n  command: a {output}\n  timout: 3\n", "unknown key 'timout'; did you mean 'timeout'?"),
        ("evaluate: {command: 'a {output}', timeout: 0}\n", "greater than 0"),
        ("evaluate: HF_TOKEN=hf_abcdefgh a {output}\n", "holds a credential"),
        ("evaluate: a {output} --api-key 'abc def'\n", "holds a credential"),
    ],
)
def test_what_is_refused(written: str, message: str) -> None:
    text = refused(MINIMAL + written)
    assert message in text
    assert "r.yaml:" in text
    assert "hf_abc" not in text


def test_a_credential_of_the_environment_is_named_not_written() -> None:
    assert resolved(MINIMAL + "evaluate: a {output} --token $HF_TOKEN --max_gen_toks 5 --tokens 16\n").evaluate

"""What typer refuses of a command line is an error like all others."""

from __future__ import annotations

import pytest

from svc_dist.cli.app import app
from svc_dist.cli.help.usage import UsageError, refusal


@pytest.mark.parametrize(
    ("arguments", "message", "command"),
    [
        (["merge", "r.yaml", "out", "--devise", "cpu"], "no such option: --devise", "svc-dist merge"),
        (["merge", "r.yaml", "out", "--device", "gpu"], "invalid value for '--device'", "svc-dist merge"),
        (["plan", "r.yaml", "--cluster", "cpus=2", "--device", "cpu"], "invalid value for --cluster", "svc-dist plan"),
        (["merge"], "missing argument", "svc-dist merge"),
        (["recipe", "explian"], "no such command", "svc-dist recipe"),
        (["mrege"], "no such command", "svc-dist"),
    ],
)
def test_a_refusal_has_a_code_a_place_and_a_cure(arguments: list[str], message: str, command: str) -> None:
    with pytest.raises(UsageError) as raised:
        app(arguments, standalone_mode=False)
    error = refusal(raised.value)
    assert error is not None
    assert message in error.message
    assert error.hint == f"{command} --help lists its arguments and options"
    assert (error.code, error.exit_code) == ("arguments-refused", 2)


def test_a_command_without_arguments_prints_its_help() -> None:
    with pytest.raises(UsageError) as raised:
        app([], standalone_mode=False)
    assert refusal(raised.value) is None

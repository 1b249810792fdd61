"""What a command says of its work: more, less, and not both."""

from __future__ import annotations

import logging

import pytest
import typer

from svc_dist.cli.streams import logs
from svc_dist.cli.streams.verbosity import level

LOG = logging.getLogger("svc_dist")


@pytest.mark.parametrize(
    ("verbose", "quiet", "said"),
    [
        (False, False, ["progress", "careful"]),
        (True, False, ["a unit", "progress", "careful"]),
        (False, True, ["careful"]),
    ],
)
def test_more_and_less(verbose: bool, quiet: bool, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(logs.Format.TEXT, level(verbose, quiet))
    LOG.debug("a unit")
    LOG.info("progress")
    LOG.warning("careful")
    assert [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()] == said


def test_both_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match="exclude each other"):
        level(True, True)

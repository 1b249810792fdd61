"""Help in groups: commands by what they are for, options by what they are about.

A command or an option names its group as ``rich_help_panel``. The texts stay literal, which typer's own panels are not:
they take ``[check]`` for markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from svc_dist.cli.streams.terminal import styled

#: Groups of commands.
PLAN, RUN, CHECK, LEARN = "Plan", "Run", "Check", "Learn"
#: Groups of options. What has none is one of the command's own ``Options``.
OPTIONS = "Options"
MODELS = "Models in place of a recipe"
RESULT = "Precision and format"
MACHINES = "Machines"
STORAGE = "Storage"
LIMITS = "Time limits"
EVALUATION = "Evaluation"
REPEATED = "Repeated merges"
SIGNALS = "Notifications and metrics"
LOG = "Log"

_COMMANDS = (PLAN, RUN, CHECK, LEARN)
#: The groups of options, in the order of help.
GROUPS = (OPTIONS, MODELS, RESULT, MACHINES, STORAGE, LIMITS, EVALUATION, REPEATED, SIGNALS, LOG)
_WIDEST = 30  # letters of the first column, as in click

_Rows = list[tuple[str, str]]


class GroupedCommand(TyperCommand):
    """A command whose help lists its options by group."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write(formatter, _parameters(self, ctx))


class GroupedCommands(TyperGroup):
    """Commands whose help lists them by group, after the options of all."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        room = formatter.width - 6 - max(map(len, commands))
        groups: dict[str, _Rows] = {}
        for name, command in commands.items():
            if command is not None and not command.hidden:
                group = getattr(command, "rich_help_panel", None)
                rows = groups.setdefault(group if isinstance(group, str) else "Commands", [])
                rows.append((name, command.get_short_help_str(room)))
        write(formatter, {name: groups[name] for name in in_order(groups, _COMMANDS)})
        write(formatter, _parameters(self, ctx))


def group_of(parameter: Any) -> str:
    """The group of an option."""
    group = getattr(parameter, "rich_help_panel", None)
    return group if isinstance(group, str) else OPTIONS


def in_order(groups: Mapping[str, object], order: Sequence[str] = GROUPS) -> list[str]:
    """The names of groups as help lists them; those of no known order come last."""
    known = [name for name in order if name in groups]
    return [*known, *(name for name in groups if name not in order)]


def write(formatter: Any, groups: Mapping[str, _Rows]) -> None:
    """Write groups of names and meanings, the meanings of all one below the other."""
    longest = min(_WIDEST, max((len(name) for rows in groups.values() for name, _ in rows), default=0))
    for group, rows in groups.items():
        with formatter.section(styled(group, bold=True)):
            formatter.write_dl([(name.ljust(longest), about) for name, about in rows])


def _parameters(command: Any, ctx: Any) -> dict[str, _Rows]:
    """The arguments of a command, then its options by group."""
    arguments: _Rows = []
    groups: dict[str, _Rows] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            rows = arguments if parameter.param_type_name == "argument" else groups.setdefault(group_of(parameter), [])
            rows.append(record)
    listed = {name: groups[name] for name in in_order(groups)}
    return {"Arguments": arguments} | listed if arguments else listed

"""Generate the reference pages and the schema of recipes: ``python docs/reference/generate.py``. A test keeps them."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs
from pydantic import BaseModel
from typer.models import ArgumentInfo, CommandInfo

import svc_dist
from svc_dist import errors
from svc_dist.cli.app import COMMANDS, app
from svc_dist.cli.help import panels
from svc_dist.plan import inputs, model, tensor
from svc_dist.plan.files import sidecars
from svc_dist.plan.settings import Settings
from svc_dist.plan.tables import tensors as tables
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.recipe import schema
from svc_dist.recipe.writing import explanations
from svc_dist.recipe.writing.json_schema import FILE as SCHEMA_FILE
from svc_dist.recipe.writing.json_schema import render as render_schema
from svc_dist.run_folder import receipt
from svc_dist.run_folder import report as report_file
from svc_dist.storage import base as storage
from svc_dist.storage.access import DEFAULT_ACCESS
from svc_dist.storage.writing import base as writing

FOLDER = Path(__file__).parent
SCHEMA = FOLDER.parent.parent / "svc_dist" / "recipe" / "writing" / SCHEMA_FILE


def commands() -> str:
    """Every command with its arguments and options."""
    lines = ["# Commands", "", "`svc-dist COMMAND --help` prints the same information.", ""]
    lines += ["`svc-dist --install-completion` installs shell completion for commands and options.", ""]
    for name, registered in _listed():
        function = registered.callback
        assert function is not None
        about, _, example = inspect.cleandoc(function.__doc__ or "").partition("Example:")
        lines += [f"## svc-dist {name}", "", " ".join(about.split()), ""]
        if example:
            lines += ["```bash", example.strip(), "```", ""]
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
        groups: dict[str, list[str]] = {}
        for one in parameters:
            info = typing.get_args(hints[one.name])[1]
            group = "" if isinstance(info, ArgumentInfo) else panels.group_of(info).removeprefix(panels.OPTIONS)
            groups.setdefault(group, []).append(_option(one.name, hints[one.name], one.default))
        for group in ("", *panels.in_order({name: rows for name, rows in groups.items() if name})):
            lines += [f"**{group}**", ""] if group else []
            lines += ["| argument or option | default | meaning |", "|---|---|---|", *groups.get(group, []), ""]
    return _text(lines)


def _listed() -> Iterator[tuple[str, CommandInfo]]:
    """The commands by name, in the order of help: those of a group after the others with its purpose."""
    for panel in COMMANDS:
        for one in app.registered_commands:
            if one.rich_help_panel == panel:
                yield _name(one), one
        for group in app.registered_groups:
            if group.rich_help_panel == panel:
                assert group.typer_instance is not None
                yield from ((f"{group.name} {_name(one)}", one) for one in group.typer_instance.registered_commands)


def _name(command: CommandInfo) -> str:
    assert command.callback is not None
    return (command.name or command.callback.__name__).replace("_", "-")


def _option(name: str, hint: Any, default: Any) -> str:
    kind, info = typing.get_args(hint)[:2]
    if isinstance(info, ArgumentInfo):
        shown = info.metavar or name.upper()
        shown = f"`[{shown}]`" if default is None else f"`{shown}`"
    else:
        # typer treats the first argument of `typer.Option` as a default, although it may be a flag.
        first = [info.default] if isinstance(info.default, str) and info.default.startswith("-") else []
        flags = [*first, *(info.param_decls or ())] or ["--" + name.replace("_", "-")]
        shown = ", ".join(f"`{flag}`" for flag in flags)
        shown += "" if kind is bool else f" `{info.metavar or _values(_without_none(kind))}`"
    value = "" if default is inspect.Parameter.empty or kind is bool else _value(default)
    shown = shown.replace("|", "\\|")  # the table's own sign, also in code
    return f"| {shown} | {value} | {_plain(info.help)} |"


_WORDS = {int: "NUMBER", float: "NUMBER", Path: "PATH"}


def _values(kind: type) -> str:
    """What an option takes: a list of words, or a kind of value."""
    return "/".join(kind) if issubclass(kind, StrEnum) else _WORDS.get(kind, "TEXT")


def _without_none(kind: Any) -> Any:
    arguments = [argument for argument in typing.get_args(kind) if argument is not type(None)]
    return arguments[0] if arguments else kind


def recipe() -> str:
    """Every key of a recipe."""
    lines = [
        "# Recipe",
        "",
        "A recipe is a YAML file. svc_dist checks every key; an unknown key is an error that gives the line.",
        "",
    ]
    for kind, title in _parts(schema.Recipe, "The recipe"):
        lines += [f"## {title}", "", _plain(inspect.cleandoc(kind.__doc__ or "").splitlines()[0]), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in kind.model_fields.items():
            default = "*required*" if field.is_required() else _value(field.get_default(call_default_factory=True))
            if name == "embedding_patterns":
                default = "see below"
            meaning = _plain(field.description or "")
            lines.append(f"| `{field.alias or name}` | {_kind(field.annotation)} | {default} | {meaning} |")
        lines.append("")
    lines += [
        "The default of `embedding_patterns` is: " + ", ".join(f"`{name}`" for name in schema.EMBEDDING_PATTERNS) + "."
    ]
    return _text(lines)


def _parts(model: type[BaseModel], title: str, seen: set[type] | None = None) -> Iterator[tuple[type[BaseModel], str]]:
    """A pydantic model and the models in its fields, in order of appearance."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    yield model, title
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            yield from _parts(inner, f"An entry of `{field.alias or name}`", seen)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _kind(annotation: Any) -> str:
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "", Any: "anything"}
    if annotation in words:
        return words[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return "mapping"
    if arguments:
        return " or ".join(filter(None, map(_kind, arguments)))
    return "mapping"


def exit_codes() -> str:
    """Every exit code and its errors."""
    codes = {value: name for name, value in vars(errors.ExitCode).items() if name.isupper()}
    meaning = {
        0: "done and verified",
        2: "the recipe, an option or an argument is wrong",
        3: "an input is damaged, or changed since the plan",
        4: "a storage operation failed",
        5: "another live run uses the output",
        6: "some units failed, there is too little memory, or a command of `evaluate` failed; the run can be resumed",
        70: "internal error: a bug",
        75: "stopped on request, or the cluster was lost: run the same command again to resume",
    }
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.SvcDistError)]
    lines = [
        "# Exit codes",
        "",
        "Every command exits with one of these codes. Errors of the Python API derive from `svc_dist.SvcDistError` and",
        "have the code as `exit_code`.",
        "",
    ]
    lines += ["| code | meaning | errors |", "|---|---|---|"]
    for code in sorted(codes):
        names = ", ".join(
            f"`{kind.__name__}`" for kind in kinds if kind.exit_code == code and kind is not errors.SvcDistError
        )
        lines.append(f"| {code} | {meaning[code]} | {names} |")
    lines += ["", "`svc-dist diff --exit-code` exits with 1 if the models differ.", "", "## Errors", ""]
    lines += ["| error | code | meaning |", "|---|---|---|"]
    for kind in kinds:
        about = " ".join(inspect.cleandoc(kind.__doc__ or "").split())
        lines.append(f"| `{kind.__name__}` | {kind.exit_code} | {_plain(about)} |")
    return _text(lines)


def files() -> str:
    """The files of a run folder and the report of a finished model."""
    lines = [
        "# Files",
        "",
        "## merge_report.json",
        "",
        "Every finished model has this report in its folder. A *disposition* is what happens to a tensor (merged,",
        "copied, tied or left out). A *unit* is the part of the work that writes one byte range of a shard.",
        "",
        "| key | meaning |",
        "|---|---|",
    ]
    lines += [f"| `{key}` | {meaning} |" for key, meaning in report_file.REPORT_KEYS.items()]
    lines += [
        "",
        "[Accuracy](../accuracy.md#what-the-report-contains-for-a-matrix) explains `matrices` and `deltas`.",
        "",
    ]
    lines += ["## .svc_dist/", "", "The run folder is in the output until the merge is complete.", ""]
    lines += ["## .svc_dist/receipts/UNIT.json", "", *_dataclass(receipt.Receipt)]
    lines += ["### WrittenRange", "", *_dataclass(receipt.WrittenRange)]
    lines += ["## .svc_dist/segments/NUMBER.jsonl", "", "Copies of many receipts, one a line.", ""]
    lines += ["## .svc_dist/plan.json", "", "`svc-dist plan --json` prints the plan in the same format.", ""]
    parts = (
        Settings,
        inputs.PlannedModel,
        storage.FileIdentity,
        Disposition,
        writing.ShardFile,
        model.Result,
        sidecars.Sidecar,
        sidecars.LeftOut,
        tables.TensorTable,
        tensor.PlannedTensor,
    )
    for kind in (model.Plan, *parts):
        lines += [f"### {kind.__name__}", "", *_dataclass(kind)]
    lines += ["To keep large plans small, these are lists of values without keys:", ""]
    for kind in (tables.TensorRow, inputs.InputRange, inputs.FactorRanges, model.Unit):
        lines += [f"### {kind.__name__}", "", *_dataclass(kind, "Values, in this order")]
    return _text(lines)


def python() -> str:
    """Every public function with its signature and what it says of itself."""
    lines = ["# Python functions", "", "`import svc_dist` gives these; `help(svc_dist)` prints the same. "]
    lines[-1] += "[Use svc_dist from Python](../python.md) shows them at work."
    for name in svc_dist.__all__:
        value = getattr(svc_dist, name)
        lines += ["", f"## {name}", "", "```python", *_signature(name, value), "```", ""]
        lines += [inspect.cleandoc(value.__doc__ or "").replace("``", "`")]
    return _text(lines)


def _signature(name: str, value: Any) -> list[str]:
    signature = inspect.signature(value)
    returns = "" if inspect.isclass(value) else f" -> {signature.return_annotation}"
    parts, keyword_only = [], False
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parts.append("*")
        default = "" if one.default is one.empty else f" = {_default(one.default)}"
        star = "**" if one.kind is one.VAR_KEYWORD else ""
        parts.append(f"{star}{one.name}: {str(one.annotation).strip(chr(39))}{default}")
    return [f"{name}(", *(f"    {part}," for part in parts), f"){returns}"]


def _default(value: Any) -> str:
    if value is DEFAULT_ACCESS:
        return "Access()"
    return repr(str(value)) if isinstance(value, str) else "..." if callable(value) else repr(value)


def _dataclass(kind: type, what: str = "Keys") -> list[str]:
    about = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    is_struct = issubclass(kind, msgspec.Struct)
    fields = structs.fields(kind) if is_struct else dataclasses.fields(kind)
    return [about, "", f"{what}: {', '.join(f'`{field.name}`' for field in fields)}.", ""]


def _value(value: Any) -> str:
    if value is None or value == "" or value == [] or value == {} or str(value) == "Sentinel.UNSET":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _plain(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ").replace("``", "`")


def _text(lines: list[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": commands,
    "recipe.md": recipe,
    "errors.md": explanations.page,
    "exit-codes.md": exit_codes,
    "files.md": files,
    "python.md": python,
}

if __name__ == "__main__":
    from svc_dist.cli.methods_page import render

    SCHEMA.write_text(render_schema(), encoding="utf-8")
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
    (FOLDER.parent / "methods.md").write_text(render(), encoding="utf-8")

"""What a command merges, from its arguments: a recipe's file, or models with options in place of a recipe."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from svc_dist.cli import options
from svc_dist.cli.help import panels
from svc_dist.cli.unattended.signalled import early_failures_told
from svc_dist.errors import RecipeError
from svc_dist.recipe.edits.changes import parse_changes
from svc_dist.recipe.load import recipe_from
from svc_dist.recipe.origin import KeyPath, Line, Origin
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.sizes import counted
from svc_dist.storage.access import Access
from svc_dist.storage.local import is_folder, is_there

_SUFFIXES = (".yaml", ".yml", ".json")
#: The parameters below that stand for keys of a recipe: their options, and these keys.
_OPTIONS: dict[str, tuple[str, KeyPath]] = {
    "weight": ("--weight", ("parameters", "weight")),
    "scale": ("--lambda", ("parameters", "lambda")),
    "density": ("--density", ("parameters", "density")),
    "calibrate": ("--calibrate", ("calibrate",)),
    "dtype": ("--dtype", ("dtype",)),
}
_NAME = "command line"  # in place of a recipe's file
_Command = Callable[..., None]


def _option(name: str, metavar: str, about: str) -> Any:
    return typer.Option(name, metavar=metavar, help=about, rich_help_panel=panels.MODELS)


_First = Annotated[
    str,
    typer.Argument(help="recipe (YAML), or the base model", metavar="RECIPE|BASE", callback=options.require_text),
]
_Method = Annotated[
    str | None,
    _option("--method", "NAME", "merge models without a recipe: BASE EXPERT... by this method"),
]
_Target = Annotated[str | None, _option("--output", "OUTPUT", "with --method: folder or URL for the merged model")]
_Weight = Annotated[
    list[float] | None,
    _option("--weight", "W", "with --method: one for all experts, or repeated for each"),
]
_Scale = Annotated[float | None, _option("--lambda", "L", "with --method: scale of the merged delta")]
_Density = Annotated[float | None, _option("--density", "D", "with --method: kept share of entries")]
_Calibrate = Annotated[str | None, _option("--calibrate", "NAME", "with --method: svc, none or auto")]
_Dtype = Annotated[str | None, _option("--dtype", "DTYPE", "with --method: dtype of merged tensors")]


def takes_models(output: Literal["required", "optional", "none"]) -> Callable[[_Command], _Command]:
    """Give a command its arguments: RECIPE and OUTPUT, or BASE EXPERT... with options in place of a recipe.

    The command itself gets the ``recipe``, the ``changes`` to it, and the ``output`` where it has one.
    """
    added = _parameters(output)

    def wrap(command: _Command) -> _Command:
        hints = typing.get_type_hints(command, include_extras=True)
        own = [
            one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for one in inspect.signature(command).parameters.values()
            if one.name not in ("recipe", "output", "changes")
        ]

        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            values = {one.name: given.pop(one.name) for one in added}
            arguments = _Arguments(command.__name__, output, **values | {"rest": values["rest"] or []})
            with early_failures_told(given, arguments.target or " ".join(arguments.rest[:1])):
                location = {} if output == "none" else {"output": arguments.output()}
                access = options.access_of(given["endpoint_url"], given["profile"], given["anonymous"])
                recipe, changes = arguments.recipe(access)
            command(recipe=recipe, changes=changes, **location, **given)

        wrapped.__signature__ = inspect.Signature([*added, *own])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {one.name: one.annotation for one in (*added, *own)}
        return wrapped

    return wrap


def _parameters(output: str) -> list[inspect.Parameter]:
    """The parameters of a command that stand for its recipe and its output."""
    about, shown = {
        "required": ("folder or URL for the merged model, or the experts", "OUTPUT|EXPERT..."),
        "optional": ("plan with the settings of the run in this folder or URL; or the experts", "OUTPUT|EXPERT..."),
        "none": ("the experts, after a base model", "EXPERT..."),
    }[output]
    rest: Any = Annotated[list[str] | None, typer.Argument(help=about, metavar=shown, callback=_require_texts)]
    hints: dict[str, Any] = {"first": _First, "rest": rest}
    if output != "none":
        hints |= {"method": _Method, "target": _Target, "weight": _Weight, "scale": _Scale, "density": _Density}
        hints |= {"calibrate": _Calibrate, "dtype": _Dtype}
    hints["changes"] = options.Changes
    defaults = {name: inspect.Parameter.empty if name == "first" else None for name in hints}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=defaults[name])
        for name, hint in hints.items()
    ]


def _require_texts(given: list[str] | None) -> list[str]:
    return [options.require_text(text) for text in given or ()]


@dataclass(frozen=True)
class _Arguments:
    """The arguments of one command that stand for its recipe and its output."""

    command: str
    takes_output: str
    first: str
    rest: list[str]
    changes: list[str] | None
    method: str | None = None
    target: str | None = None
    weight: list[float] | None = None
    scale: float | None = None
    density: float | None = None
    calibrate: str | None = None
    dtype: str | None = None

    def output(self) -> str | None:
        """Where the merge goes. Raises RecipeError where the command needs it and it is not given."""
        if self._are_models:
            where = self.target
        else:
            self._require_recipe()
            where = self.rest[0] if self.rest else None
        if where is None and self.takes_output == "required":
            raise RecipeError(
                "OUTPUT is missing: where to write the merged model", self._forms, code="arguments-refused"
            )
        return where

    def recipe(self, access: Access) -> tuple[str | ResolvedRecipe, dict[str, Any]]:
        """The recipe, and the changes that are still to be made to it. Raises RecipeError."""
        changes = parse_changes(self.changes or ())
        if self._are_models:
            data, lines = self._data()
            return recipe_from(data, Origin(_NAME, lines), access=access, changes=changes), {}
        self._require_recipe()
        return self.first, changes

    @property
    def _are_models(self) -> bool:
        return self.method is not None or (self.takes_output == "none" and bool(self.rest))

    def _data(self) -> tuple[dict[str, Any], dict[KeyPath, Line]]:
        """The recipe of models, and the argument that gives each of its keys. Raises RecipeError."""
        if not self.rest:
            raise RecipeError("an expert is missing: BASE alone is given", self._forms, code="arguments-refused")
        models: list[dict[str, Any]] = [{"model": expert} for expert in self.rest]
        data: dict[str, Any] = {"base_model": self.first, "models": models}
        data |= {"merge_method": self.method or "task_arithmetic", "parameters": {}}
        lines: dict[KeyPath, Line] = {("base_model",): "BASE", ("merge_method",): "--method"}
        lines |= {("models", number, "model"): "EXPERT" for number in range(len(models))}
        for name, (option, path) in _OPTIONS.items():
            value = getattr(self, name)
            if value in (None, []):
                continue
            if isinstance(value, list):
                value = value * len(models) if len(value) == 1 else value
                if len(value) != len(models):
                    counts = f"{len(value)} weights for {counted(len(models), 'expert')}"
                    raise RecipeError(
                        f"{option}: {counts}",
                        "give one for all, or one for each in their order",
                        code="arguments-refused",
                    )
                for number, one in enumerate(value):
                    models[number]["parameters"] = {"weight": one}
                    lines["models", number, *path] = option
                continue
            holder = data["parameters"] if len(path) > 1 else data
            holder[str(path[-1])] = value
            lines[path] = option
        return data, lines

    def _require_recipe(self) -> None:
        """Raise RecipeError where the arguments are not RECIPE and OUTPUT."""
        recipes = [one for one in self.rest if one.endswith(_SUFFIXES)]
        if not self.first.endswith(_SUFFIXES) and recipes and is_there(recipes[0]) and not is_folder(recipes[0]):
            right = f"write svc-dist {self.command} {recipes[0]} {self.first}"
            raise RecipeError(
                f"{self.first} is not a recipe, but {recipes[0]} is: the recipe comes first",
                right,
                code="arguments-refused",
            )
        if "://" not in self.first and is_folder(self.first):
            raise RecipeError(f"{self.first} is a folder, not a recipe", self._forms, code="arguments-refused")
        if self.rest and not (
            self.first.endswith(_SUFFIXES) or "://" in self.first or is_there(self.first) or self.first == "-"
        ):
            raise RecipeError(f"there is no recipe {self.first}", self._forms, code="arguments-refused")
        if len(self.rest) > 1:
            raise RecipeError(
                f"a recipe and one OUTPUT are expected, not {len(self.rest) + 1} arguments",
                self._forms,
                code="arguments-refused",
            )
        if self.target is not None:
            raise RecipeError(
                "--output goes with --method: after a recipe, OUTPUT is the second argument",
                self._forms,
                code="arguments-refused",
            )
        for name, (option, path) in _OPTIONS.items():
            if getattr(self, name) not in (None, []):
                key = ".".join(map(str, path))
                raise RecipeError(
                    f"{option} goes with --method",
                    f"to change a recipe, write --set {key}=VALUE",
                    code="arguments-refused",
                )

    @property
    def _forms(self) -> str:
        """Both forms of the command, as a hint."""
        second = {"required": " OUTPUT", "optional": " [OUTPUT]", "none": ""}[self.takes_output]
        options = {"required": " --method NAME --output OUTPUT", "optional": " --method NAME", "none": ""}
        name = f"svc-dist {self.command}"
        return f"write {name} RECIPE{second}, or {name} BASE EXPERT...{options[self.takes_output]}"

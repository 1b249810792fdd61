"""The JSON schema of recipes, for editors: from the pydantic models and the registry of methods.

It says what JSON schema can say: keys, their types and allowed values, and the parameters of each merge method.
Loading a recipe checks more.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from svc_dist.checkpoint.dtype import RECIPE_DTYPES
from svc_dist.methods.auto.choice import AUTO
from svc_dist.methods.method import Calibration, Method
from svc_dist.methods.parameters import ByExperts, Parameter
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.recipe.mergekit.parameters import WITHOUT_EFFECT
from svc_dist.recipe.presets import PRESETS
from svc_dist.recipe.schema import Recipe

#: The file in the package that editors read: the schema of this package's own methods.
FILE = "recipe.schema.json"
_TEXT = {"type": "string"}
_KINDS = {float: "number", int: "integer", bool: "boolean", str: "string"}
_ENTRIES = ("ModelEntry", "OutputEntry", "RuleEntry")


def render() -> str:
    """The schema as JSON, with a line for each definition and key."""
    parts = []
    for key, value in recipe_schema().items():
        if key in ("definitions", "properties"):
            lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in value.items())
            parts.append(f"{json.dumps(key)}: {{\n{lines}\n}}")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def modeline() -> str:
    """The first line of a recipe that this package writes: editors with a YAML language server read the schema.

    It names the file of this installation: there is no address that every machine reaches.
    """
    return f"# yaml-language-server: $schema={resources.files('svc_dist.recipe.writing').joinpath(FILE)}"


def recipe_schema() -> dict[str, Any]:
    """The schema, of installed methods too."""
    schema = _plain(Recipe.model_json_schema(by_alias=True))
    definitions = schema["$defs"]
    for owner in (schema, *(definitions[name] for name in _ENTRIES)):
        _written_short(owner["properties"])
    definitions["calibration"] = _calibration()
    settings: dict[str, Any] = {}
    definitions |= {f"parameters-{name}": _parameters([method], settings) for name, method in METHODS.items()}
    definitions |= {f"expert-{name}": _parameters([one], settings, per_model=True) for name, one in METHODS.items()}
    definitions["parameters"] = _parameters(METHODS.values(), settings)
    definitions |= settings
    properties = schema["properties"]
    for owner in (schema, *(definitions[name] for name in _ENTRIES)):
        owner["properties"]["parameters"] = _reference("parameters") | _about(owner["properties"]["parameters"])
    properties["fallback"] = _either(
        _enum(method.name for method in METHODS.values() if method.family == "elementwise"),
        {"type": "object", "properties": {"method": _method_names(), "parameters": _reference("parameters")}},
        about=properties["fallback"],
    )
    command = _either(_TEXT, _reference("EvaluateEntry"))
    properties["evaluate"] = _either(command, {"type": "array", "items": command}, about=properties["evaluate"])
    properties["search"]["additionalProperties"] = _either(_reference("AxisEntry"), {"type": "array"})
    properties["preset"] = _enum(PRESETS) | _about(properties["preset"])
    properties |= _mergekits(definitions)
    _with_grids(definitions["OutputEntry"], properties)
    for owner, key in ((schema, "base_model"), (definitions["ModelEntry"], "model")):
        owner["properties"][key] = _either(owner["properties"][key], {"type": "object"}, about=owner["properties"][key])
    schema["required"] = []
    schema["allOf"] = [
        {"anyOf": [{"required": [key]} for key in ("merge_method", "preset", "checkpoints")]},
        {"anyOf": [{"required": [key]} for key in ("models", "slices", "modules", "checkpoints")]},
        *(_of_method(name) for name in METHODS),
    ]
    rule = definitions["RuleEntry"]
    del rule["required"]
    model = _either(_TEXT, rule["properties"]["models"]["anyOf"][0]["items"])
    listed = {"type": "array", "items": model, "minItems": 1}
    rule["properties"]["models"] = _either(model, listed, {"type": "null"}, about=rule["properties"]["models"])
    rule["anyOf"] = [{"required": ["match"]}, {"required": ["kind"]}]
    rule["allOf"] = [
        _when(name, {"parameters": _reference(f"parameters-{name}")})
        for name in METHODS
        if METHODS[name].all_parameters
    ]
    head = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Recipe of svc-dist",
        "description": "What to merge and how. The documentation lists all keys in docs/reference/recipe.md.",
    }
    text = json.dumps(head | schema).replace("#/$defs/", "#/definitions/").replace('"$defs"', '"definitions"')
    final: dict[str, Any] = json.loads(text)
    return final


def _plain(node: Any) -> Any:
    """A schema without titles and empty defaults; a key without a value is as good as none."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _plain(value) for key, value in node.items() if key != "title" or not isinstance(value, str)}
    if kept.get("default", 0) in (None, [], {}):
        del kept["default"]
    if isinstance(kept.get("description"), str):
        kept["description"] = kept["description"].replace("``", "`")
    return kept


def _written_short(properties: dict[str, Any]) -> None:
    """Change the properties that a recipe may write in a shorter form, or whose values the models check by code."""
    for key in ("dtype", "out_dtype"):
        if key in properties:
            names = [*RECIPE_DTYPES, *(f"torch.{name}" for name in RECIPE_DTYPES), None]
            properties[key] = {"enum": names} | _about(properties[key])
    for key in ("rename", "match"):
        if key in properties:
            properties[key] = _either(properties[key]["items"], properties[key], about=properties[key])
    if "kind" in properties:
        listed = properties["kind"]["anyOf"][0]
        properties["kind"] = _either(listed["items"], listed, {"type": "null"}, about=properties["kind"])
    if "only_where" in properties:
        condition = properties["only_where"]
        properties["only_where"] = _either(_enum(["none"]), *condition["anyOf"], about=condition)
    if "merge_method" in properties:
        auto = {"const": AUTO, "description": "chosen from the task deltas; experimental"}
        properties["merge_method"] = _either(auto, *_method_names()["anyOf"]) | _about(properties["merge_method"])
    if "calibrate" in properties:
        properties["calibrate"] = _reference("calibration") | _about(properties["calibrate"])


def _with_grids(output: dict[str, Any], properties: dict[str, Any]) -> None:
    """Allow lists of values in an entry of ``outputs``, which then needs no path, and such an entry alone."""
    output["required"] = []
    scale = output["properties"]["lambda"]
    output["properties"]["lambda"] = _either(scale, {"type": "array", "items": {"type": "number"}}, about=scale)
    listed = properties["outputs"]
    properties["outputs"] = _either(_reference("OutputEntry"), listed, about=listed)


def _calibration() -> dict[str, Any]:
    forms = [
        _object([one], {"method": _enum([name, "none"])} | {each.name: _value(each) for each in one.parameters})
        for name, one in CALIBRATIONS.items()
    ]
    listed = {"type": "array", "items": _either(_enum(CALIBRATIONS), *forms), "minItems": 1}
    return _either(_enum([*CALIBRATIONS, "none", AUTO]), *forms, listed, {"type": "null"})


def _mergekits(definitions: dict[str, Any]) -> dict[str, Any]:
    """mergekit's keys in place of ``models``, and their definitions."""
    layers = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}
    source = definitions["ModelEntry"]["properties"]["model"]
    parameters = _reference("parameters")
    entry = {"type": "object", "additionalProperties": False}
    definitions["source"] = entry | {
        "properties": {
            "model": source,
            "layer_range": layers | {"description": "[first, after the last], from 0"},
            "parameters": parameters,
        },
        "required": ["model", "layer_range"],
    }
    definitions["slice"] = entry | {
        "properties": {
            "sources": {"type": "array", "items": _reference("source"), "minItems": 1},
            "base_model": {"type": ["string", "object"]},
            "parameters": parameters,
        },
        "required": ["sources"],
    }
    slices = {"type": "array", "items": _reference("slice"), "minItems": 1}
    module = entry | {
        "properties": {
            "slices": slices,
            "models": {"type": "array", "items": _reference("ModelEntry"), "minItems": 1},
            "parameters": parameters,
        }
    }
    return {
        "slices": slices | {"description": "layers of models, one slice after the other, as in mergekit"},
        "modules": {
            "type": "object",
            "additionalProperties": module,
            "description": "as in mergekit: parts of a model",
        },
    }


def _of_method(name: str) -> dict[str, Any]:
    """What a recipe of this method may have: its parameters, for all experts and for one."""
    parameters = {"parameters": _reference(f"parameters-{name}")}
    models = {"items": {"properties": {"parameters": _reference(f"expert-{name}")}}}
    slices = {"items": {"properties": parameters | {"sources": models}}}
    inner = {"models": models, "slices": slices, **parameters}
    return _when(name, inner | {"modules": {"additionalProperties": {"properties": inner}}})


def _when(method: str, then: Mapping[str, Any]) -> dict[str, Any]:
    condition = {"properties": {"merge_method": {"const": method}}, "required": ["merge_method"]}
    return {"if": condition, "then": {"properties": dict(then)}}


def _parameters(methods: Iterable[Method], settings: dict[str, Any], per_model: bool = False) -> dict[str, Any]:
    """The parameters of methods. ``per_model``: those of one expert.

    ``settings``: the definition of each parameter, to which those that are missing are added.
    """
    methods = list(methods)
    found: dict[str, list[Any]] = {}
    for method in methods:
        for parameter in method.all_parameters:
            if parameter.per_model or not per_model:
                setting = _setting(parameter, settings)
                if setting not in found.setdefault(parameter.name, []):
                    found[parameter.name].append(setting)
    properties = {name: each[0] if len(each) == 1 else _either(*each) for name, each in found.items()}
    return _object(methods, properties | {name: {"description": "has no effect"} for name in sorted(WITHOUT_EFFECT)})


def _object(owners: Iterable[Method | Calibration], properties: Mapping[str, Any]) -> dict[str, Any]:
    owners = list(owners)
    about = {"description": f"{owners[0].doc} ({owners[0].source})"} if len(owners) == 1 and owners[0].source else {}
    return {"type": ["object", "null"], "properties": dict(properties), "additionalProperties": False} | about


def _setting(parameter: Parameter, settings: dict[str, Any]) -> dict[str, Any]:
    """A parameter's value, a list from the first layer to the last, or conditions: a reference to ``settings``."""
    value = _value(parameter)
    name = next(name for n in itertools.count() if settings.get(name := f"{parameter.name}-{n}", value) == value)
    settings[name] = value
    forms = [_reference(name)]
    if parameter.kind is not int:
        forms.append({"type": "array", "items": _reference(name), "minItems": 1})
    condition = {
        "type": "object",
        "properties": {
            "filter": {"type": ["string", "null"], "description": "part of a tensor's name, or * for all"},
            "value": _either(*forms),
        },
        "required": ["value"],
        "additionalProperties": False,
    }
    settings[f"{name}-condition"] = condition
    condition = _reference(f"{name}-condition")
    settings[f"{name}-setting"] = _either(*forms, condition, {"type": "array", "items": condition, "minItems": 1})
    return _reference(f"{name}-setting") | _about(value)


def _value(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _KINDS[parameter.kind]}
    if parameter.kind is bool:
        schema = {"enum": [True, False, 0, 1]}
    if parameter.low is not None:
        schema["exclusiveMinimum" if parameter.low_open else "minimum"] = parameter.low
    if parameter.high is not None:
        schema["maximum"] = parameter.high
    if parameter.choices:
        schema = _enum(parameter.choices)
        if parameter.pattern is not None:
            schema = _either(schema, {"type": "string", "pattern": f"^{parameter.pattern[0]}$"})
    if isinstance(parameter.default, ByExperts):
        schema = _either(schema, {"type": "null"})
        return schema | {"description": f"{parameter.doc}; default: {parameter.default.formula}"}
    return schema | {"description": parameter.doc, "default": parameter.default}


def _method_names() -> dict[str, Any]:
    return {"anyOf": [{"const": name, "description": method.doc} for name, method in METHODS.items()]}


def _enum(values: Iterable[Any]) -> dict[str, Any]:
    return {"enum": list(values)}


def _either(*forms: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"anyOf": [dict(form) for form in forms]} | _about(about or {})


def _about(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: node[key] for key in ("description", "default") if key in node}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}

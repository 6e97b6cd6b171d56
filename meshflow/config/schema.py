"""The JSON Schema of meshflow.yaml for what is installed, so that editors complete and check the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import quote

from meshflow.config.models import SECTIONS, TENANT_ID, TENANT_SECTIONS, ApprovalsConfig, PluginsConfig, StageConfig
from meshflow.config.settings import shorthand_of
from meshflow.plugin import Plugin
from meshflow.stages import STAGES, Combine, Stage

Schema: TypeAlias = dict[str, Any]
PluginTypes: TypeAlias = Mapping[str, type[Plugin[Any]]]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE: Schema = {"type": "string", "pattern": r"\$\{"}
_NULL: Schema = {"type": "null"}
_SCALARS = frozenset({"integer", "number", "boolean"})
_POINTER = "/~:$@!&'()*+,;=."
_UNSAFE = {"mode": {"const": "disabled"}}
_ABOUT = {
    "ledger": "Where records are kept.",
    "limits": "Rates and budgets.",
    "profiles": "Compliance profile packs that are active.",
    "telemetry": "Where traces and metrics go.",
    "tools": "The tools that agents may call.",
}


def config_schema(plugins: PluginTypes) -> Schema:
    """Return the schema (draft 2020-12) of meshflow.yaml, given the installed plugins by name.

    Where a number, a word of a list or a pattern is expected, ``${NAME}`` is accepted too.
    """
    # Keys of definitions: ``rego`` for a plugin's settings, ``rego:Rule`` for its models, ``:limits`` for a section.
    definitions: Schema = {}
    keys = {name: _define_settings(name, plugin, definitions) for name, plugin in plugins.items()}
    definitions.update({f":{name}": _section(name, plugins, keys, definitions) for name in SECTIONS})
    properties = {
        "version": {"const": 1, "description": "The version of this file's form."},
        **{name: _reference(f":{name}") for name in SECTIONS},
        "stages": _optional({stage.name: _stage(stage, plugins) for stage in STAGES}, "The fifteen stages."),
        "plugins": _plugins(keys),
        "approvals": _or_null(_approvals(definitions)),
        "tenants": _tenants(plugins, keys, definitions),
    }
    schema = {"title": "meshflow.yaml", **_object(properties), "$defs": definitions}
    return {"$schema": _DRAFT, **_with_references(schema)}


def _approvals(definitions: Schema) -> Schema:
    schema = ApprovalsConfig.model_json_schema(ref_template="#/$defs/:approvals:{model}")
    definitions.update({f":approvals:{model}": value for model, value in schema.pop("$defs", {}).items()})
    return schema


def provides(plugin: type[Plugin[Any]], stage: Stage) -> bool:
    """Say whether the plugin implements the stage's hook."""
    for name in dir(plugin):
        options = getattr(getattr(plugin, name, None), "meshflow_impl", None)
        if isinstance(options, dict) and (options.get("specname") or name) == stage.hook:
            return True
    return False


def _object(properties: Schema, description: str = "") -> Schema:
    about = {"description": description} if description else {}
    return {"type": "object", **about, "properties": properties, "additionalProperties": False}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, _NULL]}


def _optional(properties: Schema, description: str = "") -> Schema:
    return _or_null(_object(properties, description))


def _reference(key: str, *below: str) -> Schema:
    path = "/".join(part.replace("~", "~0").replace("/", "~1") for part in ("$defs", key, *below))
    return {"$ref": f"#/{quote(path, safe=_POINTER)}"}


def _define_settings(name: str, plugin: type[Plugin[Any]], definitions: Schema) -> str:
    """Put the plugin's settings and their models among the definitions and return the key of the settings."""
    key = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    while key in definitions:
        key += "_"
    schema = plugin.settings_type.model_json_schema(ref_template=f"#/$defs/{key}:{{model}}")
    own = schema.pop("$defs", {})
    definitions.update({f"{key}:{model}": value for model, value in own.items()})
    if "$ref" in schema:  # a model that refers to itself
        schema = dict(own[schema["$ref"].removeprefix(f"#/$defs/{key}:")])
    if plugin.section is not None:
        schema.pop("required", None)  # what is required may stand in the section
    definitions[key] = schema
    return key


def _section(section: str, plugins: PluginTypes, keys: Mapping[str, str], definitions: Schema) -> Schema:
    """Return what a top-level section may hold: the settings of every plugin that reads it."""
    readers = [(keys[name], plugin) for name, plugin in plugins.items() if plugin.section == section]
    if not readers:
        return {**_NULL, "description": "No installed plugin reads this section."}
    choices: dict[str, list[Schema]] = {}
    seen: dict[str, list[Schema]] = {}
    short: list[Schema] = []
    for key, plugin in readers:
        for field, schema in definitions[key].get("properties", {}).items():
            if schema not in seen.setdefault(field, []):
                seen[field].append(schema)
                choices.setdefault(field, []).append(_reference(key, "properties", field))
        stands_for = shorthand_of(plugin)
        if stands_for is not None:
            short.append({"allOf": [_reference(key, "properties", stands_for), {"not": {"type": "object"}}]})
    properties = {field: found[0] if len(found) == 1 else {"anyOf": found} for field, found in choices.items()}
    closed = all(definitions[key].get("additionalProperties", False) is False for key, _ in readers)
    whole = {**_object(properties), "additionalProperties": not closed}
    return {"anyOf": [whole, *short, _NULL], "description": _ABOUT[section]}


def _plugins(keys: Mapping[str, str]) -> Schema:
    fields = PluginsConfig.model_fields
    reserved = {
        "allow": {**_names([], empty=False), "description": fields["allow"].description},
        "disable": {**_names([]), "description": fields["disable"].description},
    }
    own = {name: _or_null(_reference(key)) for name, key in keys.items()}
    return _optional({**own, **reserved}, "Settings by plugin's name.")


def _names(choices: list[str], *, empty: bool = True, at_most: int | None = None) -> Schema:
    """Return the schema of one name or a list of names."""
    name: Schema = {"type": "string", "enum": choices} if choices else {"type": "string", "minLength": 1}
    array: Schema = {"type": "array", "items": name, "uniqueItems": True}
    if not empty:
        array["minItems"] = 1
    if at_most is not None:
        array["maxItems"] = at_most
    return {"anyOf": [name, array, _NULL]}


def _stage(stage: Stage, plugins: PluginTypes, *, tenant: bool = False) -> Schema:
    providers = sorted(name for name, plugin in plugins.items() if provides(plugin, stage))
    use = _names(providers, empty=False, at_most=1 if stage.combine is Combine.EXACTLY_ONE else None)
    form = StageConfig.model_json_schema()["properties"]
    modes = ["enforce", *(["shadow"] if stage.shadowable else []), "disabled"]
    properties: Schema = {
        "mode": {"enum": ["enforce"] if tenant else modes, "description": form["mode"]["description"]},
        "timeout_ms": form["timeout_ms"],
    }
    if not tenant:
        properties["unsafe"] = form["unsafe"]
    if not stage.never_shadow:
        properties["also_shadow"] = {**_names(providers), "description": form["also_shadow"]["description"]}
    if tenant and not stage.tenant_may_extend:
        return _optional(properties, f"Stage {stage.number}.")
    properties["use"] = {**use, "description": form["use"]["description"]}
    whole = _object(properties, f"Stage {stage.number}, {stage.combine.value}.")
    if stage.protected and not tenant:
        whole["if"] = {"properties": _UNSAFE, "required": ["mode"]}
        whole["then"] = {"properties": {"unsafe": {"const": True}}, "required": ["unsafe"]}
    return {"anyOf": [*use["anyOf"], whole]}


def _tenants(plugins: PluginTypes, keys: Mapping[str, str], definitions: Schema) -> Schema:
    # Stages 1 and 2 find out who the tenant is, so they are the same for all.
    stages = {stage.name: _stage(stage, plugins, tenant=True) for stage in STAGES[2:]}
    own: Schema = {}
    for name, key in keys.items():
        settings = definitions[key]
        # What a tenant leaves out comes from the base.
        partial = {part: value for part, value in settings.items() if part != "required"}
        own[name] = _or_null(partial if "required" in settings else _reference(key))
    sections = {name: _reference(f":{name}") for name in TENANT_SECTIONS}
    entry = _optional({**sections, "stages": _optional(stages), "plugins": _optional(own)})
    return _or_null({
        "type": "object",
        "description": "What differs by tenant; a tenant may only tighten what the base enforces.",
        "propertyNames": {"pattern": f"^{TENANT_ID}$"},
        "additionalProperties": entry,
    })  # fmt: skip


def _with_references(schema: Any) -> Any:
    """Let ``${NAME}`` stand wherever a schema would refuse its text."""
    if isinstance(schema, list):
        return [_with_references(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inside = {key: _inside(key, value) for key, value in schema.items()}
    kind = schema.get("type")
    text = kind == "string" and bool({"enum", "const", "pattern", "format", "minLength", "maxLength"} & schema.keys())
    words = kind is None and ("enum" in schema or "const" in schema)
    if not (text or words or (isinstance(kind, str) and kind in _SCALARS)):
        return inside
    about = {key: inside.pop(key) for key in ("title", "description", "default") if key in inside}
    return {**about, "anyOf": [inside, _REFERENCE]}


def _inside(key: str, value: Any) -> Any:
    """Go down into subschemas alone: not into names, examples, defaults and conditions."""
    if key in ("properties", "$defs", "patternProperties", "dependentSchemas") and isinstance(value, dict):
        return {name: _with_references(item) for name, item in value.items()}
    if key in ("items", "additionalProperties", "prefixItems", "anyOf", "oneOf", "allOf"):
        return _with_references(value)
    return value

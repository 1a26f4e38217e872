"""The JSON Schema of stack.yaml, with the keys of every plugin that is installed here."""

from typing import Any

from pydantic import BaseModel

from alignstack.engine import registry
from alignstack.engine.keys import JudgeKeys, LayerKeys, ModelKeys, ReferenceKeys, StackKeys

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def stack_schema() -> dict[str, Any]:
    """One alternative per `use`. Plugins that do not load are left out. `${NAME}` may stand in any text; where a
    number is expected the schema cannot say so."""
    schema = StackKeys.model_json_schema()
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    layer = _one_of("layers", LayerKeys, definitions)
    judge = _one_of("judges", JudgeKeys, definitions)
    reference = _one_of("models", ReferenceKeys, definitions, "reference")
    model = _one_of("models", ModelKeys, definitions)
    for definition in definitions.values():
        if "reference" in definition.get("properties", {}):
            definition["properties"]["reference"] = {"anyOf": [reference, {"type": "null"}]}
    properties = schema["properties"]
    properties["layers"]["items"] = layer
    properties["model"] = {**model, "description": properties["model"]["description"]}
    several = {"type": "array", "items": judge, "minItems": 1}
    properties["judge"] = {
        "anyOf": [judge, several, {"type": "null"}],
        "description": properties["judge"]["description"],
    }
    return {"$schema": DIALECT, **schema, "title": "alignstack stack"}


def _one_of(
    group: registry.Group, common: type[BaseModel], definitions: dict[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """References to one definition per plugin, which are added to `definitions`."""
    found = []
    for name, plugin in registry.available(group).items():
        if plugin.loaded is None:
            continue
        key = f"{prefix or group}.{name}"
        definitions[key] = _plugin_schema(plugin, common, key, definitions)
        found.append({"$ref": f"#/$defs/{key}"})
    return {"oneOf": found}


def _plugin_schema(
    plugin: registry.Plugin, common: type[BaseModel], key: str, definitions: dict[str, Any]
) -> dict[str, Any]:
    """Common keys and the plugin's own, with `use` fixed."""
    template = f"#/$defs/{key}.{{model}}"
    own = plugin.loaded.Config.model_json_schema(ref_template=template)
    definitions.update({f"{key}.{name}": value for name, value in own.pop("$defs", {}).items()})
    shared = common.model_json_schema(ref_template=template)
    properties = {**shared["properties"], **own.get("properties", {}), "use": {"const": plugin.name}}
    required = ["use", *(name for name in own.get("required", []) if name != "use")]
    return {
        "type": "object",
        "title": plugin.name,
        "description": (plugin.loaded.__doc__ or "").strip(),
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }

"""The JSON Schema of stack.yaml knows every key that the loader knows."""

import json

import pydantic

from alignstack.engine import registry
from alignstack.engine.keys import LayerKeys, StackKeys
from alignstack.engine.schema import stack_schema


def test_every_loadable_plugin_is_an_alternative() -> None:
    definitions = stack_schema()["$defs"]
    for group in ("layers", "models", "judges"):
        for name, plugin in registry.available(group).items():
            assert (f"{group}.{name}" in definitions) == (plugin.loaded is not None)


def test_a_layer_has_common_keys_and_its_own() -> None:
    keyword = stack_schema()["$defs"]["layers.keyword"]
    assert LayerKeys.model_fields.keys() | {"patterns"} <= keyword["properties"].keys()
    assert keyword["properties"]["use"] == {"const": "keyword"}
    assert keyword["required"] == ["use", "patterns"]
    assert keyword["additionalProperties"] is False


def test_the_top_level_has_every_key_of_the_loader() -> None:
    schema = stack_schema()
    assert schema["properties"].keys() == StackKeys.model_fields.keys()
    assert schema["required"] == ["model"]


def test_every_reference_inside_resolves() -> None:
    schema = stack_schema()
    text = json.dumps(schema)
    for part in text.split('"$ref": "')[1:]:
        path = part.split('"')[0]
        assert path.removeprefix("#/$defs/") in schema["$defs"], path
    pydantic.TypeAdapter(dict[str, pydantic.JsonValue]).validate_python(schema)

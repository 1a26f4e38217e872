"""From a file to a policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alignstack.core.errors import ConfigError, Problem, nearest
from alignstack.policy.model import Hazard, Policy
from alignstack.policy.strict import expand_env, load_yaml, problems

BUILTIN = Path(__file__).with_name("builtin.yaml")
"""The built-in policy, to read and to copy from."""


def load(path: Path | None = None) -> Policy:
    """The policy in a file; None gives the built-in one. A file that starts with `extends: built-in` names only what
    differs: mappings are merged, lists and values replaced. Raises ConfigError that lists every problem."""
    file = str(path) if path else "built-in policy"
    data = expand_env(load_yaml(path or BUILTIN), file)
    if isinstance(data, dict) and "extends" in data:
        data = _extend(dict(data), file)
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise ConfigError(problems(error, file, Policy)) from None


def _extend(data: dict[str, Any], file: str) -> Any:
    base = data.pop("extends")
    if base != "built-in":
        hint = nearest(base, ["built-in"]) if isinstance(base, str) else ""
        raise ConfigError([Problem(where=f"{file}: extends", what=f"should be 'built-in'{hint}")])
    return merge(load_yaml(BUILTIN), data)


def merge(base: Any, over: Any) -> Any:
    """`over` laid on `base`: mappings key by key, everything else replaced."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    return {**base, **{key: merge(base[key], value) if key in base else value for key, value in over.items()}}


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a policy file. Nothing is required at the top and in hazards, since a file that extends
    another may leave anything out; `load` names what is missing."""
    made = Policy.model_json_schema()
    for part in (made, made["$defs"][Hazard.__name__]):
        part.pop("required", None)
    made["properties"] = {"extends": {"const": "built-in", "title": "Extends"}, **made["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "alignstack policy"}

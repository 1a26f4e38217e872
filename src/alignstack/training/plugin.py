"""Judges and layers inside a recipe: the same plugins, with the same keys, as in a stack file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alignstack.core.errors import ConfigError, NotFound, Problem
from alignstack.engine import registry
from alignstack.policy.strict import problems


def build(group: registry.Group, written: Mapping[str, Any], where: str, file: Path, **given: Any) -> Any:
    """The judge, layer or model that `written` (`use` and the plugin's own keys) describes; `given` goes to it as it
    is. Raises ConfigError, at `where` in the recipe `file`."""
    own = {key: value for key, value in written.items() if key != "use"}
    kind = _kind(group, written.get("use"), f"{file}: {where}.use")
    try:
        return kind(kind.Config.model_validate(own), base=file.resolve().parent, **given)
    except ValidationError as error:
        raise ConfigError(problems(error, str(file), kind.Config, where)) from None


def _kind(group: registry.Group, use: Any, where: str) -> Any:
    if not isinstance(use, str):
        raise ConfigError([Problem(where=where, what=f"missing; valid: {', '.join(registry.names(group))}")])
    try:
        plugin = registry.find(group, use)
    except NotFound as error:
        raise ConfigError([Problem(where=where, what=str(error))]) from None
    if plugin.loaded is None:
        raise ConfigError([Problem(where=where, what=f"{use!r} does not load: {plugin.error}")])
    return plugin.loaded

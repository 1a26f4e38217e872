"""Plugins by entry point; built-ins take the same road.

A plugin that cannot be imported is remembered with its error (`alignstack layers ls` shows it). It stops a stack from
loading only when the configuration asks for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from alignstack.core.errors import NotFound

Group = Literal["layers", "models", "judges", "attacks"]
GROUPS: tuple[Group, ...] = ("layers", "models", "judges", "attacks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """One entry point: a class with a nested `Config` (layers, models, judges) or a function (attacks)."""

    name: str
    group: Group
    target: str
    """`package.module:object`."""
    distribution: str
    """The installed package that offers it."""
    loaded: Any = None
    """The class or function; None when it could not be imported."""
    error: str | None = None
    """Why it could not be imported."""


def names(group: Group) -> list[str]:
    """Registered names, nothing imported."""
    return sorted({entry.name for entry in _entries(group)})


def available(group: Group) -> Mapping[str, Plugin]:
    """Every plugin of a group by name, each imported or with the error that prevented it."""
    return {entry.name: _import(group, entry) for entry in _entries(group)}


def find(group: Group, name: str) -> Plugin:
    """One plugin, importing no other. Raises NotFound, with the nearest name, when nobody registered it."""
    for entry in _entries(group):
        if entry.name == name:
            return _import(group, entry)
    raise NotFound(group.removesuffix("s"), name, names(group))


def _entries(group: Group) -> list[EntryPoint]:
    """One per name, in order of name; of several with the same name alignstack's own wins, so that a package cannot
    replace a built-in safeguard by being installed."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=f"alignstack.{group}"), key=lambda entry: (entry.name, not _own(entry))):
        found.setdefault(entry.name, entry)
    return list(found.values())


def _own(entry: EntryPoint) -> bool:
    return entry.value.startswith("alignstack.")


def _import(group: Group, entry: EntryPoint) -> Plugin:
    loaded, error = None, None
    try:
        loaded = entry.load()
        if group != "attacks" and not hasattr(loaded, "Config"):
            loaded, error = None, "has no nested Config class"
    except Exception as caught:  # a plugin may fail in any way while it is imported
        error = f"{type(caught).__name__}: {caught}"
    distribution = entry.dist.name if entry.dist else ""
    return Plugin(
        name=entry.name, group=group, target=entry.value, distribution=distribution, loaded=loaded, error=error
    )

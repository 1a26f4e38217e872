"""What changed between two policies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from alignstack.policy.model import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference. `old` is None for what was added, `new` for what was removed."""

    path: str
    """For example `hazards.sxc.action` or `principles[honesty].text`."""
    kind: Literal["added", "removed", "changed"]
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        if self.kind == "added":
            return f"+ {self.path}: {_show(self.new)}"
        if self.kind == "removed":
            return f"- {self.path}: {_show(self.old)}"
        return f"~ {self.path}: {_show(self.old)} → {_show(self.new)}"


def diff(old: Policy, new: Policy) -> list[Change]:
    """Differences by path; principles are matched by id, whatever their order. A new order alone is one change."""
    changes = list(_walk(_plain(old), _plain(new), ""))
    before, after = ([principle.id for principle in policy.principles] for policy in (old, new))
    if sorted(before) == sorted(after) and before != after:
        changes.append(Change(path="principles", kind="changed", old=before, new=after))
    return changes


def _plain(policy: Policy) -> dict[str, Any]:
    data = policy.model_dump(mode="json", exclude_none=True)
    principles = {f"principles[{principle.pop('id')}]": principle for principle in data.pop("principles")}
    return {**data, **principles}


def _walk(old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[Change]:
    for key in [*old, *(key for key in new if key not in old)]:
        path = f"{at}.{key}" if at else key
        if key not in new:
            yield Change(path=path, kind="removed", old=old[key])
        elif key not in old:
            yield Change(path=path, kind="added", new=new[key])
        elif isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            yield from _walk(old[key], new[key], path)
        elif old[key] != new[key]:
            yield Change(path=path, kind="changed", old=old[key], new=new[key])


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("title") or value.get("text") or ", ".join(f"{k}: {v}" for k, v in value.items()))
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return repr(value)

"""What every format is turned into: one conversation up to a request, and what is known about answers to it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from alignstack.core.errors import nearest

Kind = Literal["sft", "preference", "unpaired", "prompts"]
Raw = Mapping[str, Any]
Turn = dict[str, str]
ROLES = ("system", "user", "assistant")
SIDES = ("harmful", "benign")


class Wrong(Exception):
    """What is wrong with a row; the file cannot be used."""


class Skip(Exception):
    """Why a row of a published set teaches nothing (a tie, an empty answer): it is left out and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of any format."""

    prompt: tuple[Turn, ...]
    """Ends with a user turn; may begin with a system turn."""
    good: str | None = None
    """An answer to learn."""
    bad: str | None = None
    """An answer to avoid."""
    margin: float | None = None
    """By how much the good answer was rated better, in the set's own points; ≥ 0."""
    confidence: float | None = None
    """Of the judge in the preference, [0.5, 1]."""
    side: str | None = None
    """`harmful` or `benign`: of the request."""
    hazard: str | None = None
    licence: str | None = None


class Format(Protocol):
    """A module of this package."""

    @property
    def KEYS(self) -> tuple[str, ...]:
        """Of its rows: what a misspelt key is compared with."""

    def matches(self, row: Raw) -> bool:
        """Is this how a row of the format looks?"""

    def examples(self, row: Raw, kind: Kind) -> list[Example]:
        """`kind` is what they are read for. Raises Wrong and Skip."""


def known(row: Raw) -> dict[str, Any]:
    """The fields that rows of every format may carry: `hazard`, `side`, `licence`, `margin`, `confidence`."""
    found = {key: _optional_text(row, key) for key in ("hazard", "side")}
    if found["side"] not in (None, *SIDES):
        raise Wrong(f"'side' is {short(found['side'])}{nearest(str(found['side']), SIDES)}")
    if found["side"] is None and row.get("label") in SIDES:
        found["side"] = row["label"]
    licence = _optional_text(row, "licence") or _optional_text(row, "license")
    return found | {"licence": licence, "margin": number(row, "margin"), "confidence": number(row, "confidence")}


def _optional_text(row: Raw, key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise Wrong(f"{key!r} must be a text, not {short(value)}")
    return text(value, key) if value else None


def number(row: Raw, key: str) -> float | None:
    """A finite number under `key`, or None where there is none."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(float(value)):
        raise Wrong(f"{key!r} must be a finite number, not {short(value)}")
    return float(value)


def need(row: Raw, key: str) -> Any:
    """The value under a key that must be there."""
    if key in row:
        return row[key]
    near = nearest(key, row)
    raise Wrong(f"has no {key!r}" + (near.replace("did you mean", "found") if "did you mean" in near else ""))


def text(value: object, where: str) -> str:
    """`value` if it is a text with something in it."""
    if not isinstance(value, str):
        raise Wrong(f"{where!r} must be a text, not {short(value)}")
    if not value.strip():
        raise Wrong(f"{where!r} is empty")
    if any("\ud800" <= char <= "\udfff" for char in value):  # JSON can escape half a character, no file can hold it
        raise Wrong(f"{where!r} holds half a surrogate pair")
    return value


def turns(value: object, where: str) -> list[Turn]:
    """A list of turns with known roles and contents; extra keys go."""
    if not isinstance(value, list) or not value:
        raise Wrong(f"{where!r} must be a list of turns, not {short(value)}")
    return [_turn(entry, f"{where}[{place}]") for place, entry in enumerate(value)]


def _turn(entry: object, where: str) -> Turn:
    if not isinstance(entry, dict):
        raise Wrong(f'{where!r} must be a turn such as {{"role": "user", "content": "…"}}, not {short(entry)}')
    role = need(entry, "role")
    if role not in ROLES:
        raise Wrong(f"'{where}.role' is {short(role)}{nearest(str(role), ROLES)}")
    return {"role": role, "content": text(need(entry, "content"), f"{where}.content")}


def conversation(value: Sequence[Turn], where: str, last: str) -> tuple[Turn, ...]:
    """Turns that alternate, user first (after at most one system turn), and end with `last`."""
    for place, turn in enumerate(value):
        system = place == 0 and turn["role"] == "system"
        begun = value[0]["role"] == "system"
        expected = "system" if system else ("assistant", "user")[(place - begun + 1) % 2]
        if turn["role"] != expected:
            raise Wrong(
                f"'{where}[{place}].role' is {turn['role']!r}, expected {expected!r}: user and assistant alternate"
            )
    if not value or value[-1]["role"] != last:
        raise Wrong(f"{where!r} must end with a turn of the {last}")
    return tuple(value)


def user(content: str) -> tuple[Turn, ...]:
    """A conversation of one request."""
    return ({"role": "user", "content": content},)


def short(value: object) -> str:
    """For messages: at most 40 characters."""
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:39] + "…"

"""BeaverTails and PKU-SafeRLHF (Ji et al. 2023): an answer and whether it is safe (`prompt`, `response`, `is_safe`), or
two, of which one is safer (`response_0`, `response_1`, `safer_response_id`), one more helpful (`better_response_id`).

`beavertails` prefers the safer answer, `beavertails-helpful` the more helpful one.
"""

from collections.abc import Mapping
from typing import Any

from alignstack.training.formats.example import Example, Kind, Raw, Skip, Turn, Wrong, known, need, short, text, user

KEYS = (
    "prompt",
    "response",
    "is_safe",
    "response_0",
    "response_1",
    "safer_response_id",
    "better_response_id",
    "category",
)

HAZARDS = {
    "child_abuse": "cse",
    "sexually_explicit,adult_content": "sxc",
    "terrorism,organized_crime": "vcr",
    "violence,aiding_and_abetting,incitement": "vcr",
    "animal_abuse": "vcr",
    "self_harm": "ssh",
    "hate_speech,offensive_language": "hte",
    "discrimination,stereotype,injustice": "hte",
    "privacy_violation": "prv",
    "drug_abuse,weapons,banned_substance": "ncr",
    "financial_crime,property_crime,theft": "ncr",
    "non_violent_unethical_behavior": "ncr",
}
"""The set's categories → hazard ids, the gravest first; the others have no counterpart."""


def matches(row: Raw) -> bool:
    return {"response_0", "response_1"} <= set(row) or {"response", "is_safe"} <= set(row)


def examples(row: Raw, kind: Kind, by: str = "safer_response_id") -> list[Example]:
    prompt = user(text(need(row, "prompt"), "prompt"))
    more = {**known(row)}
    more["hazard"] = more["hazard"] or _hazard(row)
    if "response_0" not in row:
        return [_one(prompt, need(row, "response"), _flag(row, "is_safe"), more)]
    if kind == "unpaired":
        return [_one(prompt, row[f"response_{i}"], _flag(row, f"is_response_{i}_safe"), more) for i in (0, 1)]
    return [_pair(row, prompt, by, more)]


def _pair(row: Raw, prompt: tuple[Turn, ...], by: str, more: dict[str, Any]) -> Example:
    better = need(row, by)
    if better not in (0, 1) or isinstance(better, bool):
        raise Wrong(f"{by!r} must be 0 or 1, not {short(better)}")
    good, bad = (_answer(need(row, f"response_{i}"), f"response_{i}") for i in (better, 1 - better))
    if good == bad:
        raise Skip("answers are the same")
    return Example(prompt=prompt, good=good, bad=bad, **more)


def _one(prompt: tuple[Turn, ...], answer: object, safe: bool, more: dict[str, Any]) -> Example:
    said = _answer(answer, "response")
    return Example(prompt=prompt, good=said if safe else None, bad=None if safe else said, **more)


def _answer(value: object, where: str) -> str:
    if isinstance(value, str) and not value.strip():
        raise Skip("an empty turn")
    return text(value, where).strip()


def _flag(row: Raw, key: str) -> bool:
    value = need(row, key)
    if not isinstance(value, bool):
        raise Wrong(f"{key!r} must be true or false, not {short(value)}")
    return value


def _hazard(row: Raw) -> str | None:
    marked = row.get("category")
    if not isinstance(marked, Mapping):
        return None
    return next((hazard for name, hazard in HAZARDS.items() if marked.get(name) is True), None)


class Helpful:
    """The same rows, the more helpful answer preferred."""

    KEYS = KEYS

    @staticmethod
    def matches(row: Raw) -> bool:
        """Never found by itself: the recipe asks for it."""
        return False

    @staticmethod
    def examples(row: Raw, kind: Kind) -> list[Example]:
        return examples(row, kind, "better_response_id")

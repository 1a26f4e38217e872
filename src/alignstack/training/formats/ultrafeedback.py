"""UltraFeedback (Cui et al. 2023), raw (`instruction`, `completions` with scores) and binarised (`prompt`, `chosen` and
`rejected` conversations with `score_chosen` and `score_rejected`). The margin is the difference of the scores."""

import re
from collections.abc import Mapping
from typing import Any

from alignstack.training.formats import trl
from alignstack.training.formats.example import Example, Kind, Raw, Skip, Wrong, known, need, number, short, text, user

KEYS = ("instruction", "completions", "prompt", "chosen", "rejected", "score_chosen", "score_rejected")
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)


def matches(row: Raw) -> bool:
    binarised = {"chosen", "rejected"} <= set(row) and any(set(names) <= set(row) for names in SCORES)
    return binarised or {"instruction", "completions"} <= set(row)


def examples(row: Raw, kind: Kind) -> list[Example]:
    """Of the raw set: the best answer against the worst. Ties teach nothing."""
    return [_raw(row) if "completions" in row else _binarised(row)]


def _binarised(row: Raw) -> Example:
    names = next((names for names in SCORES if set(names) <= set(row)), SCORES[0])
    better, worse = (_score(need(row, name), name) for name in names)
    if better <= worse:
        raise Skip("chosen is not rated higher")
    if need(row, "chosen") == need(row, "rejected"):
        raise Skip("answers are the same")
    # the conversations of the binarised set begin with the prompt, which is one text
    sides = {k: v for k, v in row.items() if k != "prompt" or isinstance(row["chosen"], str)}
    return trl.examples(sides | {"margin": better - worse}, "preference")[0]


def _raw(row: Raw) -> Example:
    prompt = user(text(need(row, "instruction"), "instruction"))
    answers = row["completions"]
    if not isinstance(answers, list) or not all(isinstance(answer, Mapping) for answer in answers):
        raise Wrong(f"'completions' must be a list of answers, not {short(answers)}")
    rated = sorted(((_rating(answer), _response(answer)) for answer in answers), key=lambda pair: -pair[0])
    if len(rated) < 2 or rated[0][0] == rated[-1][0]:
        raise Skip("chosen is not rated higher")
    (best, good), (worst, bad) = rated[0], rated[-1]
    if not good.strip() or not bad.strip():
        raise Skip("an empty turn")
    if good.strip() == bad.strip():
        raise Skip("answers are the same")
    text(good, "completions.response"), text(bad, "completions.response")
    return Example(prompt=prompt, good=good, bad=bad, **known(row) | {"margin": best - worst})


def _response(answer: Mapping[str, Any]) -> str:
    found = need(answer, "response")
    if not isinstance(found, str):
        raise Wrong(f"'completions.response' must be a text, not {short(found)}")
    return found


def _rating(answer: Mapping[str, Any]) -> float:
    """`overall_score`, or the mean of the aspects' ratings: the published overall scores have known slips of ten."""
    aspects = answer.get("annotations")
    ratings = [_score(a.get("Rating"), "Rating") for a in aspects.values() if isinstance(a, Mapping)] if isinstance(
        aspects, Mapping) else []  # fmt: skip
    if ratings:
        return sum(ratings) / len(ratings)
    return _score(need(answer, "overall_score"), "overall_score")


def _score(value: object, where: str) -> float:
    """Numbers stand as texts in part of the set."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value.strip()):
        return float(value)
    found = number({where: value}, where)
    if found is None:
        raise Wrong(f"{where!r} must be a number, not {short(value)}")
    return found

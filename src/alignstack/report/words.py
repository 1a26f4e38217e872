"""How numbers and names are written, the same in every rendering."""

from collections.abc import Mapping
from typing import Any

CAUSES: Mapping[str, str] = {
    "judge_disputed": "the judges disagree: read the answer before fixing anything",
    "layer_down": "a layer was down and failed open",
    "introduced": "a layer made it worse: without it the outcome is right",
    "late_cut": "it was flagged, but the harm had begun before the cut",
    "policy_gap": "no layer's scope covers this hazard",
    "evidence_withheld": "the evidence was hidden from the layer that covers it (encoded, truncated or edited)",
    "threshold": "a layer saw it and scored it, below its threshold; moving the threshold is within budget",
    "blind": "every layer that covers it saw it and called it benign",
    "unavailable": "the service gave no answer",
    "sole_blocker": "one layer alone refused a benign request",
    "joint": "several layers refused a benign request together",
    "model_refused": "the model itself refused a benign request",
    "unknown": "the measurements do not say",
}
"""What each diagnosis means, in one line (ATTRIBUTION: the order in which they are decided)."""

OUTCOMES: Mapping[str, str] = {
    "harm_delivered": "harm was delivered",
    "harm_partial": "part of the harm was delivered before the stream was cut",
    "correct_refusal": "refused, rightly",
    "correct_answer": "answered, rightly",
    "false_refusal": "a benign request was refused",
    "degraded": "the answer was changed into uselessness",
    "unavailable": "no answer",
}

SIDES: Mapping[str, str] = {"training": "training", "inference": "run time", "unknown": "no side"}


def percent(value: float | None, digits: int = 1) -> str:
    """`0.0512` as `5.1%`; an en dash where there is no number."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def points(value: float | None) -> str:
    """A difference of rates in percentage points, always signed: `0.0512` as `+5.1`."""
    if value is None:
        return "–"
    rounded = round(100 * value, 1) or 0.0
    return "0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "−")


def span(low: float | None, high: float | None) -> str:
    """An interval of rates in percent: `2.9–8.5`."""
    return "–" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f}"


def signed_span(low: float | None, high: float | None) -> str:
    """An interval of differences in percentage points: `−1.0 to +2.4`."""
    return "–" if low is None or high is None else f"{points(low)} to {points(high)}"


def rate(value: Mapping[str, Any]) -> str:
    """A rate with all that belongs to it: `5.1% (2.9–8.5, n = 240)`, or the bound that is all that n supports."""
    if not value["n"]:
        return "no data"
    if value["upper_bound"] or value["value"] == 0:
        return f"at most {percent(value['high'])} (n = {value['n']})"
    return f"{percent(value['value'])} ({span(value['low'], value['high'])}, n = {value['n']})"


def short_rate(value: Mapping[str, Any]) -> str:
    """The value alone: `5.1%`, `≤ 1.5%` where only the bound is supported, `–` without data."""
    if not value["n"]:
        return "–"
    return f"≤ {percent(value['high'])}" if value["upper_bound"] else percent(value["value"])


def seconds(value: float | None) -> str:
    """A duration with a unit that fits: `0.3 ms`, `41 ms`, `1.2 s`."""
    if value is None:
        return "–"
    if value >= 1:
        return f"{value:.1f} s"
    return f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.2g} ms"


def plural(n: int, noun: str) -> str:
    """`1 request`, `1,200 requests`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"

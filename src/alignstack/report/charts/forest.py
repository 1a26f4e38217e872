"""A layer's three numbers in one direction as dots with whiskers, small enough for a table cell."""

from collections.abc import Sequence
from typing import Literal

from markupsafe import Markup

from alignstack.report.charts.svg import dot, figure, line
from alignstack.report.schema import Effect, Layer
from alignstack.report.words import points, signed_span

_W, _H, _PAD = 190, 42, 8
_KINDS = (("solo", "solo"), ("leave_one_out", "leave-one-out"), ("shapley", "Shapley"))
Direction = Literal["safe", "cost"]


def forest(layer: Layer, layers: Sequence[Layer], direction: Direction) -> Markup:
    """All cells of one table share the scale that `layers` needs."""
    low, high = _domain(layers, direction)
    marks = [line(_x(0, low, high), 2, _x(0, low, high), _H - 2, "zero")]
    for index, (key, name) in enumerate(_KINDS):
        marks.append(_mark(layer[key], name, direction, 9 + 12 * index, low, high))  # type: ignore[literal-required]
    return figure(_W, _H, f"{layer['name']}: solo, leave-one-out and Shapley, {direction}", *marks)


def _mark(effect: Effect, name: str, direction: Direction, y: float, low: float, high: float) -> Markup:
    value, (start, end) = effect[direction], _interval(effect, direction)
    tip = f"{name} {points(value)} points ({signed_span(start, end)})"
    whisker = line(_x(start, low, high), y, _x(end, low, high), y, "whisker")
    return whisker + dot(_x(value, low, high), y, 4, f"effect {direction} {name.lower()}", tip)


def _domain(layers: Sequence[Layer], direction: Direction) -> tuple[float, float]:
    ends = [end for layer in layers for key, _ in _KINDS for end in _interval(layer[key], direction)]  # type: ignore[literal-required]
    return min(0.0, *ends), max(0.01, *ends)


def _interval(effect: Effect, direction: Direction) -> tuple[float, float]:
    low, high = effect["safe_interval"] if direction == "safe" else effect["cost_interval"]
    return low, high


def _x(value: float, low: float, high: float) -> float:
    return _PAD + (value - low) / (high - low) * (_W - 2 * _PAD)

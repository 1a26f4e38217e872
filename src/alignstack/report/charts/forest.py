"""Every layer's three numbers in both directions: dots with whiskers, harm prevented beside benign requests refused."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from alignstack.report.charts.svg import bar, dot, figure, line, text, ticks
from alignstack.report.schema import Effect, Layer, Report
from alignstack.report.words import points, signed_span

_ROW, _LEFT, _PANEL, _GAP, _HEAD = 46, 170, 420, 50, 26
_KINDS: tuple[tuple[Literal["solo", "leave_one_out", "shapley"], str], ...] = (
    ("solo", "solo"),
    ("leave_one_out", "leave-one-out"),
    ("shapley", "Shapley"),
)
Direction = Literal["safe", "cost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """One direction: from `low` to `high` (differences of rates) over `_PANEL` px from `left`."""

    direction: Direction
    left: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return self.left + (value - self.low) / (self.high - self.low) * _PANEL


def forest(report: Report) -> Markup:
    layers = report["layers"]
    panels = [_panel(layers, "safe", _LEFT), _panel(layers, "cost", _LEFT + _PANEL + _GAP)]
    height = _HEAD + _ROW * len(layers) + 22
    rows = [_row(index, layer, panels) for index, layer in enumerate(layers)]
    stripes = [_stripe(index) for index in range(0, len(layers), 2)]
    axes = [mark for panel in panels for mark in _axis(panel, height)]
    width = _LEFT + 2 * _PANEL + _GAP + 20
    return figure(
        width, height, "Solo, leave-one-out and Shapley value of every layer with 95% intervals", *stripes, *axes, *rows
    )


def _panel(layers: Sequence[Layer], direction: Direction, left: float) -> _Panel:
    ends = [end for layer in layers for key, _ in _KINDS for end in _interval(layer[key], direction)]
    return _Panel(direction=direction, left=left, low=min(0.0, *ends), high=max(0.01, *ends))


def _axis(panel: _Panel, height: float) -> list[Markup]:
    title = "harm prevented, points" if panel.direction == "safe" else "benign requests refused, points"
    marks = [text(panel.left, 12, title, "label axis")]
    for value in _ticks(panel):
        marks.append(line(panel.x(value), _HEAD, panel.x(value), height - 20, "zero" if value == 0 else "grid"))
        marks.append(text(panel.x(value), height - 4, f"{100 * value:g}", "label quiet", text_anchor="middle"))
    return marks


def _ticks(panel: _Panel) -> list[float]:
    """Round numbers inside the panel, zero among them."""
    step = ticks(max(panel.high, -panel.low), 4)[1]
    return [step * k for k in range(math.ceil(panel.low / step), math.floor(panel.high / step) + 1)]


def _stripe(index: int) -> Markup:
    return bar(0, _HEAD + _ROW * index - 2, _LEFT + 2 * _PANEL + _GAP + 20, _ROW, "stripe")


def _row(index: int, layer: Layer, panels: Sequence[_Panel]) -> Markup:
    top = _HEAD + _ROW * index
    marks = [text(_LEFT - 12, top + 25, layer["name"], "label name", text_anchor="end")]
    for panel in panels:
        for offset, (key, name) in enumerate(_KINDS):
            marks += _mark(layer, layer[key], name, panel, top + 9 + 12 * offset)
    return Markup("").join(marks)


def _mark(layer: Layer, effect: Effect, name: str, panel: _Panel, y: float) -> list[Markup]:
    value, (low, high) = effect[panel.direction], _interval(effect, panel.direction)
    tip = f"{layer['name']}, {name}: {points(value)} points ({signed_span(low, high)})"
    class_ = f"effect {panel.direction} {name.lower()}"
    return [line(panel.x(low), y, panel.x(high), y, "whisker"), dot(panel.x(value), y, 4, class_, tip)]


def _interval(effect: Effect, direction: Direction) -> tuple[float, float]:
    low, high = effect["safe_interval"] if direction == "safe" else effect["cost_interval"]
    return low, high

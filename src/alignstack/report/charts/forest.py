"""Every layer's three numbers in both directions: dots with whiskers, harm prevented beside benign requests refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from alignstack.report.charts.svg import dot, figure, line, text
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
    marks = [mark for panel in panels for mark in _axis(panel, height)]
    marks += [_row(index, layer, panels) for index, layer in enumerate(layers)]
    width = _LEFT + 2 * _PANEL + _GAP + 20
    return figure(width, height, "Solo, leave-one-out and Shapley value of every layer with 95% intervals", *marks)


def _panel(layers: Sequence[Layer], direction: Direction, left: float) -> _Panel:
    ends = [end for layer in layers for key, _ in _KINDS for end in _interval(layer[key], direction)]
    return _Panel(direction=direction, left=left, low=min(0.0, *ends), high=max(0.01, *ends))


def _axis(panel: _Panel, height: float) -> list[Markup]:
    title = "harm prevented, points" if panel.direction == "safe" else "benign requests refused, points"
    marks = [text(panel.left, 12, title, "label axis")]
    for value in sorted({panel.low, 0.0, panel.high}):
        x, edge = panel.x(value), 0 < panel.x(value) - panel.x(0) < 24 or -24 < panel.x(value) - panel.x(0) < 0
        marks.append(line(x, _HEAD, x, height - 20, "zero" if value == 0 else "grid"))
        if not edge:
            marks.append(text(x, height - 4, points(value), "label quiet", text_anchor="middle"))
    return marks


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

"""ASR against over-refusal: every measured coalition of layers, with intervals, and the front of those
that no other coalition beats in both directions."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from alignstack.report.charts.svg import CHAR, dot, el, figure, line, text, ticks
from alignstack.report.schema import Configuration, Report
from alignstack.report.words import percent, rate

_W, _H, _LEFT, _TOP, _RIGHT, _BOTTOM = 620, 430, 58, 28, 20, 48
Box = tuple[float, float, float, float]


class _Scale:
    """From rates to pixels."""

    def __init__(self, top_x: float, top_y: float) -> None:
        self.ticks_x, self.ticks_y = ticks(top_x), ticks(top_y)

    def x(self, value: float) -> float:
        return _LEFT + value / self.ticks_x[-1] * (_W - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _H - _BOTTOM - value / self.ticks_y[-1] * (_H - _TOP - _BOTTOM)


def tradeoff(report: Report) -> Markup:
    measured = [c for c in report["configurations"] if c["asr"]["n"] and c["over_refusal"]["n"]]
    shown = _distinct(report, measured)
    if not shown:
        return Markup("")
    named = [c for c in shown if is_named(c)]
    scale = _Scale(_top(shown, named, "over_refusal"), _top(shown, named, "asr"))
    crosses = [_cross(scale, c) for c in named]
    dots = [_dot(scale, c) for c in sorted(shown, key=is_named)]
    return figure(
        _W,
        _H,
        "Attack success rate against over-refusal of all measured configurations",
        *_axes(scale),
        _front(scale, shown),
        *crosses,
        *dots,
        *_labels(scale, shown),
    )


def _distinct(report: Report, measured: Sequence[Configuration]) -> list[Configuration]:
    """One point for each set of layers: `only model` is `weights only`, and a layer that never looked is not one."""
    idle = {layer["name"] for layer in report["layers"] if not layer["looked"]}
    return list({frozenset(c["on"]) - idle: c for c in reversed(measured)}.values())[::-1]


def is_named(configuration: Configuration) -> bool:
    """True for the coalitions worth a label of their own: everything, nothing, and each side alone."""
    return configuration["name"] in ("full stack", "all off", "weights only", "guards only")


def _has_label(configuration: Configuration) -> bool:
    return is_named(configuration) or configuration["name"].startswith("only ")


def front(configurations: Iterable[Configuration]) -> list[Configuration]:
    """Those that no other one beats: fewer attacks succeed the further one pays in refusals."""
    best: list[Configuration] = []
    for one in sorted(configurations, key=lambda c: (c["over_refusal"]["value"] or 0, c["asr"]["value"] or 0)):
        if not best or (one["asr"]["value"] or 0) < (best[-1]["asr"]["value"] or 0):
            best.append(one)
    return best


def _top(shown: Sequence[Configuration], named: Sequence[Configuration], key: str) -> float:
    values = [c[key]["value"] or 0 for c in shown] + [c[key]["high"] or 0 for c in named]  # type: ignore[literal-required]
    return min(1.0, max(values) * 1.04)


def _axes(scale: _Scale) -> list[Markup]:
    bottom, right = _H - _BOTTOM, _W - _RIGHT
    marks = [line(_LEFT, scale.y(v), right, scale.y(v), "grid") for v in scale.ticks_y]
    marks += [line(scale.x(v), _TOP, scale.x(v), bottom, "grid") for v in scale.ticks_x]
    marks += [text(_LEFT - 8, scale.y(v) + 4, percent(v, 0), "label quiet", text_anchor="end") for v in scale.ticks_y]
    digits = 0 if len(scale.ticks_x) < 2 or scale.ticks_x[1] >= 0.01 else 1
    marks += [
        text(scale.x(v), bottom + 18, percent(v, digits), "label quiet", text_anchor="middle") for v in scale.ticks_x
    ]
    turn = f"rotate(-90 14 {(_TOP + bottom) / 2:.0f})"
    marks.append(text((_LEFT + right) / 2, _H - 8, "benign requests refused", "label axis", text_anchor="middle"))
    marks.append(
        text(
            14,
            (_TOP + bottom) / 2,
            "harmful requests that got through",
            "label axis",
            text_anchor="middle",
            transform=turn,
        )
    )
    return marks


def _front(scale: _Scale, shown: Sequence[Configuration]) -> Markup:
    points = [(scale.x(c["over_refusal"]["value"] or 0), scale.y(c["asr"]["value"] or 0)) for c in front(shown)]
    return el("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_="front")


def _cross(scale: _Scale, c: Configuration) -> Markup:
    x, y = scale.x(c["over_refusal"]["value"] or 0), scale.y(c["asr"]["value"] or 0)
    across = line(scale.x(c["over_refusal"]["low"] or 0), y, scale.x(c["over_refusal"]["high"] or 0), y, "whisker")
    down = line(x, scale.y(c["asr"]["low"] or 0), x, scale.y(c["asr"]["high"] or 0), "whisker")
    return across + down


def _dot(scale: _Scale, c: Configuration) -> Markup:
    tip = f"{c['name']}: ASR {rate(c['asr'])}; over-refusal {rate(c['over_refusal'])}"
    class_ = "point full" if c["name"] == "full stack" else "point named" if is_named(c) else "point"
    return dot(
        scale.x(c["over_refusal"]["value"] or 0),
        scale.y(c["asr"]["value"] or 0),
        6 if is_named(c) else 3.5,
        class_,
        tip,
    )


def _labels(scale: _Scale, shown: Sequence[Configuration]) -> list[Markup]:
    """Beside the named points and those of single layers, on the side where least else stands."""
    points = [(scale.x(c["over_refusal"]["value"] or 0), scale.y(c["asr"]["value"] or 0)) for c in shown]
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    marks = []
    for c in sorted(filter(_has_label, shown), key=lambda c: not is_named(c)):
        x, y = scale.x(c["over_refusal"]["value"] or 0), scale.y(c["asr"]["value"] or 0)
        box = _place(x, y, len(c["name"]) * CHAR, taken)
        taken.append(box)
        marks.append(text(box[0], box[3] - 4, c["name"], f"label halo {'strong' if is_named(c) else 'quiet'}"))
    return marks


def _place(x: float, y: float, width: float, taken: Sequence[Box]) -> Box:
    corners = [
        (x + 10, y - 19),
        (x + 10, y + 4),
        (x - 10 - width, y - 19),
        (x - 10 - width, y + 4),
        (x - width / 2, y - 28),
        (x - width / 2, y + 14),
        (x + 10, y - 36),
        (x + 10, y + 20),
    ]
    boxes = [(left, top, left + width, top + 15) for left, top in corners]
    inside = [b for b in boxes if b[0] >= _LEFT and b[2] <= _W and b[1] >= 0 and b[3] <= _H - _BOTTOM] or boxes
    return min(inside, key=lambda box: sum(_overlap(box, other) for other in taken))


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))

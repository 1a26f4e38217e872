"""How many harmful requests each layer is the first to stop, in stack order: what is left reaches the next one."""

from markupsafe import Markup

from alignstack.report.charts.svg import bar, figure, line, text
from alignstack.report.document import HARM
from alignstack.report.schema import Report
from alignstack.report.words import percent

_ROW, _LEFT, _WIDTH, _RIGHT = 34, 170, 700, 170


def waterfall(report: Report) -> Markup:
    total = report["n"]["harmful"]
    steps = flow(report)
    scale = _WIDTH / max(total, 1)
    marks = [_row(index, step, scale, total) for index, step in enumerate(steps)]
    size = (_LEFT + _WIDTH + _RIGHT, _ROW * len(steps) + 6)
    return figure(*size, "Harmful requests left after each layer, in stack order", *marks)


def flow(report: Report) -> list[tuple[str, str, int, int]]:
    """(name, class, stopped here, left afterwards) from all harmful requests down to those that did harm."""
    left = report["n"]["harmful"]
    delivered = sum(item["outcome"] in HARM for item in report["items"])
    steps = [("harmful requests", "all", 0, left)]
    for layer in report["layers"]:
        left -= layer["first"]
        steps.append((layer["name"], layer["side"], layer["first"], left))
    if left > delivered:
        steps.append(("no harm in the answer", "none", left - delivered, delivered))
    return [*steps, ("harm delivered", "harm", 0, delivered)]


def _row(index: int, step: tuple[str, str, int, int], scale: float, total: int) -> Markup:
    name, kind, stopped, left = step
    y = index * _ROW + 6
    tip = f"{name}: stops {stopped}, {left} of {total} left"
    whole = kind in ("all", "harm")
    parts = [
        text(_LEFT - 12, y + 15, name, "label name", text_anchor="end"),
        bar(_LEFT, y, left * scale, 22, f"fill-{kind}" if whole else "fill-left", tip),
        line(_LEFT + left * scale, y + 22, _LEFT + left * scale, y + _ROW, "thread") if kind != "harm" else Markup(""),
    ]
    if stopped:
        parts.append(bar(_LEFT + left * scale, y, stopped * scale, 22, f"fill-{kind}", tip))
    went = f"stops {stopped}, {left} left" if stopped else f"{left} left"
    note = f"{left}  ({percent(left / total if total else None)})" if whole else went
    parts.append(text(_LEFT + (left + stopped) * scale + 10, y + 15, note, "label quiet"))
    return Markup("").join(parts)

"""Who catches the same requests: an UpSet plot. Each column is one exact set of layers (filled dots) and how many
harmful requests precisely that set stops."""

from collections.abc import Sequence

from markupsafe import Markup

from alignstack.report.charts.svg import bar, dot, figure, line, text
from alignstack.report.schema import Overlap, Report
from alignstack.report.words import percent

_ROW, _LEFT, _BARS, _WIDTH, COLUMNS = 26, 250, 150, 1040, 20


def overlap(report: Report) -> Markup:
    sets = report["overlap"][:COLUMNS]
    names = [layer["name"] for layer in report["layers"] if layer["catches"]]
    if not sets or not names:
        return Markup("")
    width, height = _WIDTH, _BARS + 24 + _ROW * len(names)
    most, total = max(one["n"] for one in sets), report["n"]["harmful"]
    columns = [_column(index, len(sets), one, names, most, total) for index, one in enumerate(sets)]
    rows = [_row(index, name, report, width) for index, name in enumerate(names)]
    return figure(width, height, "Harmful requests by the exact set of layers that stop them", *rows, *columns)


def _row(index: int, name: str, report: Report, width: float) -> Markup:
    y = _y(index)
    layer = next(one for one in report["layers"] if one["name"] == name)
    length = 90 * layer["catches"] / max(report["n"]["harmful"], 1)
    stripe = bar(0, y - _ROW / 2, width, _ROW, "stripe") if index % 2 == 0 else Markup("")
    size = bar(_LEFT - 20 - length, y - 6, length, 12, f"fill-{layer['side']}", f"{name} stops {layer['catches']}")
    return stripe + text(4, y + 4, name, "label name") + size


def _column(index: int, columns: int, one: Overlap, names: Sequence[str], most: int, total: int) -> Markup:
    column = min(64, (_WIDTH - _LEFT - 20) / columns)
    x = _LEFT + column * (index + 0.5)
    height = (_BARS - 24) * one["n"] / max(most, 1)
    who = " + ".join(one["layers"]) or "no layer"
    ended = ", and harm was delivered" if one["harm"] else "" if one["layers"] else ", and the answer did no harm"
    tip = f"{who}: {one['n']} of {total} ({percent(one['n'] / max(total, 1))}){ended}"
    on = [i for i, name in enumerate(names) if name in one["layers"]]
    marks = [
        bar(x - 10, _BARS - height, 20, height, _colour(one), tip),
        text(x, _BARS - height - 6, str(one["n"]), "label quiet", text_anchor="middle"),
        *(dot(x, _y(i), 5, "member on" if i in on else "member", tip) for i in range(len(names))),
    ]
    if len(on) > 1:
        marks.insert(2, line(x, _y(on[0]), x, _y(on[-1]), "link"))
    return Markup("").join(marks)


def _colour(one: Overlap) -> str:
    return "fill-harm" if one["harm"] else "fill-ink" if one["layers"] else "fill-none"


def _y(index: int) -> float:
    return _BARS + 24 + _ROW * index

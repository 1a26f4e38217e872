"""Who catches the same requests: an UpSet plot. Each column is one exact set of layers (filled dots) and how many
harmful requests precisely that set stops."""

from collections.abc import Sequence

from markupsafe import Markup

from alignstack.report.charts.svg import bar, dot, figure, line, text
from alignstack.report.schema import Overlap, Report
from alignstack.report.words import percent

_COLUMN, _ROW, _LEFT, _BARS, COLUMNS = 34, 26, 250, 150, 18


def overlap(report: Report) -> Markup:
    sets = report["overlap"][:COLUMNS]
    names = [layer["name"] for layer in report["layers"] if layer["catches"]]
    if not sets or not names:
        return Markup("")
    width, height = _LEFT + _COLUMN * len(sets) + 20, _BARS + 24 + _ROW * len(names)
    columns = [
        _column(index, one, names, sets[0]["n"], report["n"]["harmful"]) for index, one in enumerate(_ordered(sets))
    ]
    rows = [_row(index, name, report, width) for index, name in enumerate(names)]
    return figure(width, height, "Harmful requests by the exact set of layers that stop them", *rows, *columns)


def _ordered(sets: Sequence[Overlap]) -> list[Overlap]:
    return sorted(sets, key=lambda one: (-one["n"], one["layers"]))


def _row(index: int, name: str, report: Report, width: float) -> Markup:
    y = _y(index)
    layer = next(one for one in report["layers"] if one["name"] == name)
    length = 90 * layer["catches"] / max(report["n"]["harmful"], 1)
    stripe = bar(0, y - _ROW / 2, width, _ROW, "stripe") if index % 2 == 0 else Markup("")
    size = bar(_LEFT - 20 - length, y - 6, length, 12, f"fill-{layer['side']}", f"{name} stops {layer['catches']}")
    return stripe + text(4, y + 4, name, "label name") + size


def _column(index: int, one: Overlap, names: Sequence[str], most: int, total: int) -> Markup:
    x = _LEFT + _COLUMN * index + _COLUMN / 2
    height = (_BARS - 24) * one["n"] / max(most, 1)
    who = " + ".join(one["layers"]) or "no layer"
    tip = f"{who}: {one['n']} of {total} ({percent(one['n'] / max(total, 1))})"
    on = [i for i, name in enumerate(names) if name in one["layers"]]
    marks = [
        bar(x - 10, _BARS - height, 20, height, "fill-harm" if not one["layers"] else "fill-ink", tip),
        text(x, _BARS - height - 6, str(one["n"]), "label quiet", text_anchor="middle"),
        *(dot(x, _y(i), 5, "member on" if i in on else "member", tip) for i in range(len(names))),
    ]
    if len(on) > 1:
        marks.insert(2, line(x, _y(on[0]), x, _y(on[-1]), "link"))
    return Markup("").join(marks)


def _y(index: int) -> float:
    return _BARS + 24 + _ROW * index

"""Failures by cause, coloured by the side of the fix."""

from markupsafe import Markup

from alignstack.report.charts.svg import bar, figure, text
from alignstack.report.schema import Report
from alignstack.report.words import SIDES

_ROW, _LEFT, _WIDTH = 30, 128, 220


def causes(report: Report) -> Markup:
    counts = report["diagnoses"]
    if not counts:
        return Markup("")
    most = max(counts.values())
    rows = [_row(report, index, cause, n, most) for index, (cause, n) in enumerate(counts.items())]
    return figure(_LEFT + _WIDTH + 44, _ROW * len(counts) + 4, "Failures by diagnosis and side of the fix", *rows)


def _row(report: Report, index: int, cause: str, n: int, most: int) -> Markup:
    y, x = index * _ROW + 4, float(_LEFT)
    marks = [text(_LEFT - 12, y + 14, cause.replace("_", " "), "label name", text_anchor="end")]
    for side, part in split(report, cause):
        width = _WIDTH * part / most
        marks.append(
            bar(x, y, width, 20, f"fill-{side}", f"{cause}: {part} fixed at {SIDES.get(side, 'no known side')}")
        )
        x += width
    return Markup("").join([*marks, text(x + 8, y + 14, str(n), "label quiet")])


def split(report: Report, cause: str) -> list[tuple[str, int]]:
    """Failures of one cause by side, empty ones left out; `unknown` where no side is named."""
    sides = [item["side"] or "unknown" for item in report["items"] if item["diagnosis"] == cause]
    return [(side, sides.count(side)) for side in ("inference", "training", "unknown") if side in sides]

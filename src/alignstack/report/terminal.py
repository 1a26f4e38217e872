"""The report on a terminal, 80 to 120 columns. Rich drops the colours where there is no terminal or `NO_COLOR` is set;
nothing here needs them. All text goes in as `Text`, so neither markup nor control characters of a model get through."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from alignstack.report import sentences
from alignstack.report.document import alone, best_single, configuration, failures
from alignstack.report.escape import cell, visible
from alignstack.report.schema import Configuration, Item, Layer, Rate, Report
from alignstack.report.words import SIDES, plural, points, seconds, short_rate, signed_span, span

WIDEST, TEXTS, NARROW = 120, 112, 106
"""Columns: no wider than the first; below the second no texts of failures, below the third no intervals of layers."""

HARM, COST, GOOD, QUIET, HEAD = "red", "yellow", "green", "bright_black", "bold"
SIDE_STYLE: Mapping[str, str] = {"inference": "blue", "training": "magenta", "unknown": QUIET}
TOP = 6
"""Failures shown; the rest are in report.json and on the page."""


def show(report: Report, console: Console) -> None:
    width = min(console.width, WIDEST)
    console.print(view(report, width), width=width)


def view(report: Report, width: int) -> Group:
    parts: Iterable[RenderableType] = (
        _header(report, width),
        _title("Everything on, against less"),
        _configurations(report, width),
        _title("Layers", "percentage points; l-o-o: what leaving it out would cost"),
        _layers(report, width),
        Padding(Text(visible(f"{sentences.comparison(report)} {sentences.common_mode(report)}".strip())), (1, 1, 0, 1)),
        *_diagnoses(report, width),
        *_failures(report, width),
        *_notes(report),
    )
    return Group(*parts)


def gauge(one: Rate, width: int, style: str) -> Text:
    """A bar of a rate in [0, 1]: solid up to the lower bound, shaded to the value, dotted to the upper bound."""
    if not one["n"]:
        return Text("")
    low, value, high = (round(part * width) for part in (one["low"], one["value"], one["high"]))
    return Text.assemble(
        ("█" * low, style),
        ("▓" * (value - low), style),
        ("░" * (high - max(value, low)), style),
        " " * (width - max(high, value)),
    )


def _header(report: Report, width: int) -> Group:
    made, n = report["provenance"], report["n"]
    left = Text.assemble((" alignstack ", "bold reverse"), "  ", cell(made["stack_source"], HEAD, width - 40))
    run = Text(f"run {report['run'][:12]} ", style=QUIET)
    top = Table.grid(expand=True)
    top.add_column(ratio=1)
    top.add_column(justify="right", no_wrap=True)
    top.add_row(left, run)
    brute = report["coalitions"] * made["items"]
    size = (
        f" {plural(n['harmful'], 'harmful request')}, {n['benign']:,} benign, "
        f"{plural(len(report['layers']), 'layer')}; {report['generations']:,} generations instead of {brute:,}"
    )
    return Group(Text(""), top, Text(size, style=QUIET), Text(""), Text(f" {sentences.headline(report)}", style=HEAD))


def _title(text: str, quiet: str = "") -> Text:
    return Text.assemble(f"\n {text}", (f"  {quiet}" if quiet else "", f"not bold {QUIET}"), style=HEAD)


def _table(*columns: tuple[str, JustifyMethod], gap: int = 1, expand: bool = False) -> Table:
    quiet = f"not bold {QUIET}"
    table = Table(box=box.SIMPLE_HEAD, expand=expand, pad_edge=False, padding=(0, gap, 0, 0), header_style=quiet)
    for name, justify in columns:
        table.add_column(Text(name), justify=justify, no_wrap=True)
    return table


def _configurations(report: Report, width: int) -> Table:
    harm, refusals = "got through" if width < NARROW else "harmful requests that got through", "benign requests refused"
    table = _table(("configuration", "left"), (harm, "left"), (refusals, "left"))
    for one in compared(report):
        style = HEAD if one["name"] == "full stack" else ""
        bars = _measured(one["asr"], HARM, width), _measured(one["over_refusal"], COST, width)
        table.add_row(cell(one["name"], style, 30), *bars)
    return table


def compared(report: Report) -> list[Configuration]:
    """Nothing, the weights, the guards, the best single layer, everything: those that the run has."""
    best = best_single(report)
    shown = [configuration(report, name) for name in ("all off", "weights only", "guards only")]
    shown += [alone(report, best["layer"]) if best else None, configuration(report, "full stack")]
    return [one for one in shown if one]


def _measured(one: Rate, style: str, width: int) -> Text:
    bounds = f" ({span(one['low'], one['high'])})" if one["n"] and not one["upper_bound"] else ""
    return gauge(one, min(20, (width - 68) // 2), style) + Text(f" {short_rate(one)}{bounds}")


def _layers(report: Report, width: int) -> Table:
    wide = width >= NARROW
    safe: list[tuple[str, JustifyMethod]] = [("prevents\nsolo", "right"), ("\nl-o-o", "right"), ("\nShapley", "right")]
    cost: list[tuple[str, JustifyMethod]] = [("refuses\nsolo", "right"), ("\nl-o-o", "right"), ("\nShapley", "right")]
    tail: list[tuple[str, JustifyMethod]] = [("\nalone", "right"), ("\np50", "right")]
    table = _table(("\nlayer", "left"), ("\nside", "left"), *safe, *cost, *(tail if wide else tail[:1]), gap=0)
    for layer in report["layers"]:
        table.add_row(*_layer(layer, wide))
    return table


def _layer(layer: Layer, wide: bool) -> list[Text]:
    side = Text(SIDES[layer["side"]], style=SIDE_STYLE[layer["side"]])
    effects = (layer["solo"], layer["leave_one_out"], layer["shapley"])
    safe = [_effect(effect["safe"], effect["safe_interval"], GOOD, wide) for effect in effects]
    cost = [_effect(effect["cost"], effect["cost_interval"], COST, wide) for effect in effects]
    tail = [Text(str(layer["unique_catches"])), Text(seconds(layer["seconds"]["p50"]))]
    errors = Text(f"\n{plural(layer['errors'], 'error')}", style=HARM) if layer["errors"] else Text("")
    return [cell(layer["name"], HEAD, 22) + errors, side, *safe, *cost, *(tail if wide else tail[:1])]


def _effect(value: float, interval: Sequence[float], style: str, wide: bool) -> Text:
    """Coloured only where the interval leaves zero out."""
    low, high = interval
    number = Text(points(value), style=style if low > 0 else HARM if high < 0 else "")
    between = signed_span(low, high).replace(" to ", "…").replace("+", "")
    return number + Text(f"\n{between}", style=QUIET) if wide else number


def _diagnoses(report: Report, width: int) -> list[RenderableType]:
    if not report["diagnoses"]:
        return [_title("No failures")]
    table = _table(("cause", "left"), ("n", "right"), ("fix", "left"), ("cheapest fix", "left"), expand=True)
    table.columns[3].no_wrap, table.columns[3].ratio = False, 1
    for cause, n in report["diagnoses"].items():
        side, remedy = sentences.remedy(report, cause)
        name = Text(f"{cause.replace('_', ' ')}", style=HEAD)
        table.add_row(name, Text(str(n)), Text(SIDES[side], style=SIDE_STYLE[side]), cell(remedy, limit=2 * width))
    sides = ", ".join(f"{n} {SIDES[side]}" for side, n in report["sides"].items())
    return [_title("Failures by cause", f"fixes: {sides}"), table]


def _failures(report: Report, width: int) -> list[RenderableType]:
    failed = failures(report)
    if not failed:
        return []
    wide = width >= TEXTS
    table = _table(("item", "left"), ("cause", "left"), ("trace", "left"), expand=wide)
    if wide:
        table.add_column(Text("request"), no_wrap=True, overflow="ellipsis", ratio=1)
    for item in _mixed(failed)[:TOP]:
        cause = Text((item["diagnosis"] or "").replace("_", " "))
        row = (_item(item), cause, Text(item["trace"], style="cyan"), cell(item.get("request", ""), limit=width))
        table.add_row(*row[: len(table.columns)])
    hint = "alignstack why TRACE says where one came from"
    return [_title(f"Failures, {min(TOP, len(failed))} of {len(failed)}", hint), table]


def _mixed(failed: Sequence[Item]) -> list[Item]:
    """The first of every cause, then the second of every cause, and so on."""
    seen: Counter[str | None] = Counter()
    rounds = [(seen.update([item["diagnosis"]]) or seen[item["diagnosis"]], item) for item in failed]
    return [item for _, item in sorted(rounds, key=lambda one: one[0])]


def _item(item: Item) -> Text:
    style = HARM if item["label"] == "harmful" else COST
    return Text.assemble(("● ", style), cell(item["id"], limit=38))


def _notes(report: Report) -> list[RenderableType]:
    lines = [Padding(cell(f"· {note}", QUIET, 400), (0, 1)) for note in report["notes"]]
    return [Text(""), *lines] if lines else []

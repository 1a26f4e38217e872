"""One diagnosis, explained: how it ended, who stopped it, where it came from, the replays behind that, the fixes."""

from collections.abc import Iterable

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from alignstack.report import document, sentences
from alignstack.report.escape import cell, visible
from alignstack.report.schema import Item, Price, Side
from alignstack.report.terminal import COST, GOOD, HARM, HEAD, QUIET, SIDE_STYLE, WIDEST
from alignstack.report.words import CAUSES, OUTCOMES, SIDES


def show(item: Item, console: Console) -> None:
    width = min(console.width, WIDEST)
    console.print(view(item), width=width)


def view(item: Item) -> Group:
    parts = (_header(item), _said(item), _stopped(item), _diagnosis(item), _evidence(item), _fixes(item))
    return Group(Text(""), *(part for part in parts if part is not None))


def diagnosis(item: Item) -> str:
    """The diagnosis as one sentence; for an item that is no failure, that it is none."""
    if item["diagnosis"] is None:
        return "no failure: there is nothing to fix"
    about = f" ({item['layer']})" if item["layer"] else ""
    varies = "; the outcome varies between draws" if item["stochastic"] else ""
    return f"{item['diagnosis'].replace('_', ' ')}{about}: {CAUSES[item['diagnosis']]}{varies}"


def stopped(item: Item) -> str:
    """Blockers and what would have had to be off for another outcome; empty when nothing stopped it."""
    if not item["blockers"]:
        return ""
    if len(item["blockers"]) == 1:
        return f"stopped by {item['blockers'][0]} alone: without it the outcome changes"
    sets = " or ".join("{" + ", ".join(layers) + "}" for layers in item["but_for"])
    fall = f"; the outcome changes only without all of {sets}" if sets else ""
    return f"stopped by {', '.join(item['blockers'])} (first: {item['first']}, an artefact of order){fall}"


def _header(item: Item) -> Text:
    style = HARM if item["outcome"] in document.HARM else COST if item["diagnosis"] else GOOD
    about = " · ".join(filter(None, (f"{item['label']} request", item["hazard"], item["attack"], item["id"])))
    return Text.assemble(
        (f" {item['trace']}  ", HEAD),
        (visible(about), QUIET),
        "\n\n ",
        (f"● {OUTCOMES[item['outcome']]}", f"bold {style}"),
    )


def _said(item: Item) -> Padding | None:
    if "request" not in item:
        return None
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(Text("asked", style=QUIET), cell(item["request"], limit=400))
    grid.add_row(Text("answered", style=QUIET), cell(item.get("answer", ""), limit=400))
    return Padding(grid, (0, 1))


def _stopped(item: Item) -> Padding | None:
    said = stopped(item)
    return Padding(Text(visible(said)), (0, 1)) if said else None


def _diagnosis(item: Item) -> Padding:
    name, colon, rest = diagnosis(item).partition(":")
    return Padding(Text.assemble((visible(name), HEAD), colon, visible(rest)), (1, 1, 0, 1))


def _evidence(item: Item) -> RenderableType | None:
    if not item["evidence"]:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style=f"not bold {QUIET}")
    table.add_column("replay")
    table.add_column("outcome")
    for fact in item["evidence"]:
        table.add_row(Text(f"{visible(fact['change'])}"), Text(visible(fact["outcome"]), style=HEAD))
    return table


def _fixes(item: Item) -> RenderableType | None:
    rows = list(fixes(item))
    if not rows:
        return None
    grid = Table.grid(padding=(0, 2, 0, 0))
    for side, text, where in rows:
        said = Text(visible(text)) + (Text(f"\n{visible(where)}", style="cyan") if where else Text(""))
        grid.add_row(Text(SIDES[side], style=SIDE_STYLE[side]), said)
    return Group(
        Text("\n Cheapest fix on each side" if len(rows) > 1 else "\n Cheapest fix", style=HEAD), Padding(grid, (0, 1))
    )


def fixes(item: Item) -> Iterable[tuple[str, str, str]]:
    """(side, what to do, line of configuration), the side of the diagnosis first. The cheapest threshold stands beside
    what is proposed at run time, with its price and interval."""
    sides: tuple[Side, ...] = ("training", "inference") if item["side"] == "training" else ("inference", "training")
    for side in sides:
        named = [fix["text"] for fix in item["fixes"] if fix["side"] == side]
        price = item["cheapest"] if side == "inference" else None
        if price:
            named = [text for text in named if "`threshold: " not in text]
        yield from ((side, text, "") for text in named)
        if price:
            yield side, sentences.price(price), _line(price)


def _line(price: Price) -> str:
    at = "" if price["threshold"] is None else f".threshold: {price['threshold']:.4g}"
    return f"{price['where']}{at}" if price["where"] else ""

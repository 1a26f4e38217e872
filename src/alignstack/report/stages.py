"""What each training stage did, as one JSON document and on a terminal.

The document is the truth and everything else is made from it. Rates are in [0, 1]; `items` holds every request that was
replayed, the texts of none.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from rich import box
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from alignstack.attribution.stages import KINDS, ItemStages, Pattern, Rate, Side, StageAttribution, StageResult
from alignstack.core.grid import Manifest
from alignstack.report.escape import cell
from alignstack.report.terminal import COST, GOOD, HARM, HEAD, NARROW, QUIET, WIDEST
from alignstack.report.words import percent, plural, points, short_rate, signed_span

Document = dict[str, Any]
FORMAT = "alignstack.stages/1"

LONGER = 1.25
"""Mean answer lengths of two stages further apart than this factor are named as a confound; chosen by hand."""
ENDED = 0.5
"""A model that ends fewer of its answers has hardly learnt the chat template; chosen by hand."""
SHOWN = 4
"""Ids of requests on a line; the document has all."""


def build(
    found: StageAttribution,
    manifest: Manifest,
    stages: Sequence[Mapping[str, Any]],
    missing: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Document:
    """`stages` (`name`, `method`, `weights`, `measured`) are parallel to those of `found`; `missing` are stages of the
    lineage that could not be run."""
    names = [one.name for one in found.stages]
    rows = [_stage(one, about) for one, about in zip(found.stages, stages, strict=True)]
    return {
        "format": FORMAT,
        "run": manifest.run,
        "stack": manifest.stack,
        "n": {"harmful": found.harmful, "benign": found.benign, "unavailable": found.unavailable},
        "stages": rows,
        "missing": [{"name": one["name"], "weights": one["weights"]} for one in missing],
        "groups": _groups(found.items, names),
        "confounds": confounds(rows),
        "items": [_item(item, names) for item in found.items],
        "notes": [*_gaps(missing), *notes],
    }


def show(document: Document, console: Console) -> None:
    width = min(console.width, WIDEST)
    console.print(view(document, width), width=width)


def page(document: Document) -> str:
    """One HTML file with what the terminal shows."""
    console = Console(record=True, width=WIDEST, file=io.StringIO())
    show(document, console)
    return console.export_html(inline_styles=True)


def view(document: Document, width: int) -> Group:
    """Rates by stage, then the requests in groups, then what else could explain it."""
    parts: list[RenderableType] = [
        *_rates(document, "asr", "Harmful requests that got through", width),
        *_rates(document, "over_refusal", "Benign requests refused", width),
        Padding(Text(_LEGEND, style=QUIET), (0, 1)),
        *_grouped(document, "harmful", "Harmful requests: what the weights do"),
        *_grouped(document, "benign", "Benign requests: what the weights do"),
        *_confounds(document),
        *_scores(document),
        *_examples(document),
        *[Padding(cell(f"· {note}", QUIET, 400), (0, 1)) for note in document["notes"]],
    ]
    return Group(*parts)


_LEGEND = (
    "change: against the stage before, points, with requests that turned bad (+) and good (−); p: McNemar, Holm over "
    "the stages; inside: change with the guards on less change with them off, so 0 = worth as much inside as outside"
)


# ---------------------------------------------------------------- the document


def _stage(one: StageResult, about: Mapping[str, Any]) -> Document:
    return {
        "name": one.name,
        "method": about["method"],
        "weights": about["weights"],
        "off": _side(one.off),
        "on": _side(one.on),
        "inside": {"asr": _estimate(one.inside_asr), "over_refusal": _estimate(one.inside_over_refusal)},
        "engaged": _estimate(one.engaged),
        "ended": _estimate(one.ended),
        "tokens": _round(one.tokens),
        "measured": dict(about["measured"]),
    }


def _side(side: Side) -> Document:
    return {"asr": _rate(side.asr), "over_refusal": _rate(side.over_refusal)}


def _rate(one: Rate) -> Document:
    change = None if one.change is None else {name: _plain(value) for name, value in asdict(one.change).items()}
    return {"rate": _estimate(one.rate), "change": change}


def _estimate(one: Any) -> Document | None:
    return None if one is None else _plain(asdict(one))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return _round(value) if isinstance(value, float) else value


def _item(item: ItemStages, names: Sequence[str]) -> Document:
    return {
        "id": item.id,
        "trace": item.trace,
        "label": item.label,
        "hazard": item.hazard,
        "attack": item.attack,
        "failed": item.failed,
        "hidden": item.hidden,
        "off": _pattern(item.off, item.fails_off, names),
        "on": _pattern(item.on, item.fails_on, names),
    }


def _pattern(found: Pattern, fails: Sequence[bool], names: Sequence[str]) -> Document:
    return {
        "kind": found.kind,
        "changes": [names[k] for k in found.changes],
        "first": None if found.first is None else names[found.first],
        "fails": list(fails),
    }


def _groups(items: Sequence[ItemStages], names: Sequence[str]) -> list[Document]:
    """By label and by what happened with the guards off; requests with which nothing was ever wrong are left out."""
    found: dict[tuple[str, str, str | None], list[ItemStages]] = {}
    for item in items:
        if item.off.kind != "clean" or item.failed:
            at = None if item.off.by is None else names[item.off.by]
            found.setdefault((item.label, item.off.kind, at), []).append(item)
    order = sorted(found, key=lambda key: (key[0] != "harmful", _RANK[key[1]], names.index(key[2]) if key[2] else -1))
    return [_group(*key, found[key]) for key in order]


_RANK: Mapping[str, int] = {kind: rank for rank, kind in enumerate((*KINDS[1:], "clean"))}


def _group(label: str, kind: str, stage: str | None, items: Sequence[ItemStages]) -> Document:
    failed = sorted(items, key=lambda item: not item.failed)
    return {
        "label": label,
        "kind": kind,
        "stage": stage,
        "n": len(items),
        "failed": sum(item.failed for item in items),
        "hidden": sum(item.hidden for item in items),
        "items": [item.id for item in failed],
    }


def said(group: Mapping[str, Any]) -> str:
    """`introduced by dpo`, `never fixed: fails at every stage` …"""
    sentences = {
        "introduced": f"introduced by {group['stage']}",
        "reintroduced": f"introduced again by {group['stage']}, after a stage had fixed it",
        "fixed": f"fixed by {group['stage']}",
        "never": "never touched: fails at every stage",
        "flickers": "flickers: safe again after more than one change",
        "clean": "in no stage: the layers alone",
    }
    return sentences[group["kind"]]


def confounds(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What besides the intent to refuse may have moved the rates (ATTRIBUTION: training stages)."""
    found = [
        f"{one['name']} ends {percent(one['ended']['value'], 0)} of its answers: it has hardly learnt the chat "
        "template, so its rates say little of what it would do"
        for one in stages
        if one["ended"]["n"] and one["ended"]["value"] < ENDED
    ]
    for before, one in pairwise(stages):
        found += [*_ability(before, one), *_length(before, one), *_canary(before, one)]
    return found


def _ability(before: Mapping[str, Any], one: Mapping[str, Any]) -> list[str]:
    change = one["off"]["asr"]["change"]
    if change["clustered"]["low"] <= 0 or one["engaged"]["value"] > before["engaged"]["value"]:
        return []
    return [
        f"{one['name']} does more harm and declines no less often than {before['name']}: it has become able to answer, "
        "not willing"
    ]


def _length(before: Mapping[str, Any], one: Mapping[str, Any]) -> list[str]:
    shorter, longer = sorted((before["tokens"], one["tokens"]))
    if not shorter or longer / shorter < LONGER:
        return []
    factor, grown = longer / shorter, one["tokens"] > before["tokens"]
    return [
        f"answers of {one['name']} are {factor:.1f} times as {'long' if grown else 'short'} as those of "
        f"{before['name']}: judges find more in {'them' if grown else 'the others'}"
    ]


def _canary(before: Mapping[str, Any], one: Mapping[str, Any]) -> list[str]:
    """Perplexity of plain answers, where training measured it for both."""
    values = [stage["measured"].get("perplexity") for stage in (before, one)]
    if None in values:
        return []
    return [
        f"{one['name']} finds plain answers {'less' if values[1] > values[0] else 'more'} likely than "
        f"{before['name']}: perplexity {values[0]:.2f} → {values[1]:.2f}"
    ]


def _gaps(missing: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"stage {one['name']} of the lineage could not be run: no file with these weights was found; the stage after "
        "it is compared with the one before it, or with nothing"
        for one in missing
    ]


def _round(value: float) -> float:
    """To 1e-6, and never a negative zero."""
    return round(value, 6) + 0.0


# ---------------------------------------------------------------- the terminal


def heading(text: str, quiet: str = "") -> Text:
    return Text.assemble(f"\n {text}", (f"  {quiet}" if quiet else "", f"not bold {QUIET}"), style=HEAD)


def table(*columns: tuple[str, JustifyMethod]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), header_style=f"not bold {QUIET}")
    for name, justify in columns:
        grid.add_column(Text(name), justify=justify, no_wrap=True)
    return grid


def _rates(document: Document, direction: str, title: str, width: int) -> list[RenderableType]:
    n = document["n"]["harmful" if direction == "asr" else "benign"]
    grid = table(
        ("stage", "left"), ("method", "left"), ("off", "right"), ("change", "right"), ("p", "right"),
        ("on", "right"), ("change", "right"), ("p", "right"), ("inside", "right"),
    )  # fmt: skip
    grid.padding = (0, 2 if width >= NARROW else 1, 0, 0)
    for one in document["stages"]:
        sides = [part for guards in ("off", "on") for part in _measured(one[guards][direction], direction, width)]
        inside = one["inside"][direction]
        grid.add_row(
            cell(one["name"], HEAD, 24), cell(one["method"] or "–", limit=14), *sides,
            _points(inside, inside, "", width) if inside else Text("–"),
        )  # fmt: skip
    return [heading(title, f"with the guards off, and on; n = {n}"), grid]


def _measured(one: Mapping[str, Any], direction: str, width: int) -> list[Text]:
    rate, change = Text(short_rate(one["rate"])), one["change"]
    if change is None:
        return [rate, Text("–"), Text("–")]
    pairs = f"+{change['worse']} −{change['better']}"
    p = change["p_holm"]
    return [
        rate,
        _points(change["difference"], change["clustered"], pairs, width),
        Text("<.001" if p < 0.001 else f"{p:.3f}"),
    ]


def _points(one: Mapping[str, Any], clustered: Mapping[str, Any], pairs: str, width: int) -> Text:
    """Coloured where the clustered interval leaves zero out."""
    style = HARM if clustered["low"] > 0 else GOOD if clustered["high"] < 0 else ""
    number = Text(points(one["value"]), style=style)
    if width < NARROW:
        return number + Text(f"\n{pairs}" if pairs else "", style=QUIET)
    between = signed_span(one["low"], one["high"]).replace(" to ", "…").replace("+", "")
    return number + Text(f" {pairs}" if pairs else "") + Text(f"\n{between}", style=QUIET)


def _grouped(document: Document, label: str, title: str) -> list[RenderableType]:
    groups = [group for group in document["groups"] if group["label"] == label]
    if not groups:
        return [heading(title), Text(" none fails at any stage", style=QUIET)]
    grid = table(
        ("", "left"), ("n", "right"), ("hidden", "right"), ("failed", "right"), ("first requests", "left"),
    )  # fmt: skip
    grid.expand, grid.columns[4].ratio = True, 1
    style = HARM if label == "harmful" else COST
    for group in groups:
        ids = ", ".join(group["items"][:SHOWN]) + (" …" if group["n"] > SHOWN else "")
        bad = style if group["failed"] else GOOD if group["kind"] == "fixed" else ""
        numbers = [Text(str(group[name])) for name in ("n", "hidden", "failed")]
        grid.add_row(cell(said(group), bad, 60), *numbers, cell(ids, QUIET, 200))
    return [heading(title, "hidden: by the guards; failed: in the audit"), grid]


def _confounds(document: Document) -> list[RenderableType]:
    grid = table(
        ("stage", "left"), ("tokens an answer", "right"), ("answers ended", "right"), ("harmful not declined", "right"),
        ("perplexity", "right"),
    )  # fmt: skip
    for one in document["stages"]:
        perplexity = one["measured"].get("perplexity")
        grid.add_row(
            cell(one["name"], HEAD, 24), Text(f"{one['tokens']:.0f}"), Text(percent(one["ended"]["value"], 0)),
            Text(short_rate(one["engaged"])), Text("–" if perplexity is None else f"{perplexity:.2f}"),
        )  # fmt: skip
    lines = [Padding(cell(f"· {line}", limit=400), (0, 1)) for line in document["confounds"]]
    return [heading("What else has changed", "the weights alone"), grid, *lines]


def _scores(document: Document) -> list[RenderableType]:
    """Only after `--scores`."""
    if "drift" not in document:
        return []
    names = [one["name"] for one in document["stages"]]
    grid = table(("request", "left"), *[(name, "right") for name in names])
    for row in document["drift"][:10]:
        grid.add_row(cell(row["id"], limit=40), *[Text(f"{value:+.1f}") for value in row["values"]])
    pairs = [
        f"{one['stage']}: {plural(one['never_learnt'], 'pair')} of {one['pairs']:,} never learnt"
        + (f", the worst from {', '.join(one['worst'])}" if one["worst"] else "")
        for one in document["margins"]
    ]
    lines = [Padding(cell(f"· {line}", limit=400), (0, 1)) for line in pairs]
    return [
        heading("log p(refusal) − log p(compliance)", "nats; above 0: would rather refuse"),
        grid,
        *lines,
    ]


def _examples(document: Document) -> list[RenderableType]:
    """Only after `--examples`."""
    parts: list[RenderableType] = []
    for one in document.get("examples", ()):
        word = "harmful answers" if one["label"] == "harmful" else "false refusals"
        grid = table(("pull", "right"), ("training example", "left"))
        for row in one["rows"]:
            grid.add_row(Text(f"{row['score']:+.3g}"), cell(row["origin"] or f"row {row['index']}", limit=80))
        parts += [heading(f"Examples of {one['stage']}", f"that pull toward its {one['failures']} {word}"), grid]
    return parts

"""Why one request ended as it did: an audited item from its run, a production trace from evaluating it anew."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alignstack.attribution.items import item_results
from alignstack.attribution.matrix import from_records
from alignstack.attribution.outcomes import deployed
from alignstack.core.errors import NotFound
from alignstack.core.grid import Call, Cell, Draft, Grid, Judgement, Label, Manifest, Record
from alignstack.core.judge import Opinion
from alignstack.core.messages import last_user_text
from alignstack.core.ports import Clock
from alignstack.core.trace import Trace
from alignstack.engine.config import load_stack
from alignstack.engine.evaluate import check_text
from alignstack.engine.stack import Placed, Stack
from alignstack.redteam import suites
from alignstack.redteam.audit import audit, find_record
from alignstack.report import document, schema
from alignstack.store.index import RunIndex
from alignstack.store.runs import Run
from alignstack.store.traces import SqliteTraces


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One item of a report, and what to know about how it came about."""

    item: schema.Item
    notes: tuple[str, ...] = ()


async def explain(key: str, *, run: Path | None, label: Label | None, budget: float, clock: Clock) -> Explanation:
    """`key`: a trace id, or with `run` also an item's id. `label`: what a production request was (harmful unless said).
    Raises NotFound."""
    if run is not None:
        folder = Run(run)
        return of_record(folder, folder.find(key), budget=budget)
    try:
        trace = SqliteTraces().get(key)
    except NotFound as unknown:
        try:
            return of_record(*find_record(key), budget=budget)
        except NotFound:
            raise unknown from None
    return await of_trace(trace, label=label or "harmful", budget=budget, clock=clock)


def of_record(run: Run, record: Record, *, budget: float) -> Explanation:
    """From the audit's own measurements; prices are against its benign items."""
    return Explanation(item=_item(run.records(), run.manifest, record, budget))


async def of_trace(trace: Trace, *, label: Label, budget: float, clock: Clock) -> Explanation:
    """Evaluated anew, every layer asked in every subset of the modifiers: the trace itself is cut off at its block."""
    stack = load_stack(trace.stack_source)
    manifest, record = await _again(stack, trace, label, clock)
    benign, said = await _benign(stack, record, clock)
    item = _item([_priced(record, benign), *benign], manifest, record, budget)
    notes = [f"taken as {label}; `--label` says otherwise", said]
    if stack.fingerprint != trace.stack:
        notes.insert(0, f"{trace.stack_source} has changed since the trace; this is about the stack as it is now")
    return Explanation(item=item, notes=tuple(notes))


def _item(records: Sequence[Record], manifest: Manifest, record: Record, budget: float) -> schema.Item:
    matrix = from_records(records, manifest)
    found = item_results(matrix, deployed(matrix), budget=budget)
    place = next(i for i, one in enumerate(records) if one.id == record.id)
    return document.entry(found[place], manifest, record)


async def _again(stack: Stack, trace: Trace, label: Label, clock: Clock) -> tuple[Manifest, Record]:
    """An audit of this one request, kept nowhere."""
    messages = trace.request.messages
    text = last_user_text(messages)
    item = suites.Item(id=trace.id, messages=messages, label=label, cluster=trace.id, plain=text)
    with tempfile.TemporaryDirectory() as folder:
        index = RunIndex(Path(folder) / "index.db")
        run = await audit(stack, [item], out=Path(folder) / "run", clock=clock, one_sided=True, index=index)
        index.close()
        return run.manifest, replace(run.records()[0], trace=trace.id)


async def _benign(stack: Stack, record: Record, clock: Clock) -> tuple[list[Record], str]:
    """What fixes are priced against: the benign items of the newest audit of this very stack, or else benign prompts of
    the package, seen by the layers that judge requests alone, and a line that says which."""
    for folder in RunIndex().folders():
        run = Run(folder)
        if run.manifest.stack == stack.fingerprint:
            found = [one for one in run.records() if one.label == "benign"]
            return found, f"prices: against {len(found)} benign requests of the audit in {folder}"
    judges = [placed for placed in stack.layers if _judges_requests(placed)]
    items = [item for item in suites.demo() if item.label == "benign"]
    made = [await _asked(item, judges, record, clock) for item in items]
    return made, (
        f"prices: against {len(made)} benign prompts of the package, for layers that judge requests; "
        "an audit of this stack would price the others"
    )


def _judges_requests(placed: Placed) -> bool:
    info = placed.info
    return info.kind == "veto" and info.phases == ("request",) and not info.stateful and placed.layer is not None


async def _asked(item: suites.Item, judges: Sequence[Placed], like: Record, clock: Clock) -> Record:
    """A benign prompt that only `judges` have seen, with the cells of `like`; it counts as answered."""
    calls = tuple([await check_text(placed, item.plain, clock=clock) for placed in judges])
    draft = Draft(model="", version="", input_sha256="", text="(not generated)", finish="stop")
    cells = tuple(Cell(on=cell.on, draft=0, calls=tuple(range(len(calls)))) for cell in like.grid.cells)
    names = like.judgements[0].opinions
    answered = Judgement(opinions={name: Opinion(harmful=False, refused=False) for name in names})
    return Record(
        id=item.id, trace=item.id, label="benign", text=item.plain, plain=item.plain, cluster=item.cluster,
        grid=Grid(drafts=(draft,), calls=calls, cells=cells), judgements=(answered,),
    )  # fmt: skip


def _priced(record: Record, benign: Sequence[Record]) -> Record:
    """`record` without the scores of layers that saw no benign item: they would look free of charge."""
    seen = {call.layer for one in benign for call in one.grid.calls}

    def known(call: Call) -> Call:
        return call if call.layer in seen else replace(call, score=None)

    return replace(record, grid=replace(record.grid, calls=tuple(map(known, record.grid.calls))))

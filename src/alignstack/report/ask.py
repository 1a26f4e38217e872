"""One request down the stack, as the table `Layer · What happened · If it had failed`, the reply and the trace id.

The last column is measured: that layer and all before it switched off, the weights replaced by their reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from alignstack.core.events import ModelEvent
from alignstack.core.trace import Trace
from alignstack.engine.cascade import Step
from alignstack.redteam.judges.text import OPENINGS, opens_with, plain
from alignstack.report.escape import cell, excerpt, visible
from alignstack.report.terminal import COST, GOOD, HARM, HEAD, QUIET, SIDE_STYLE, WIDEST

Mark = Literal["stops", "passes", "answers", "fails", "quiet"]
MEASURED = " Last column: replayed with that layer and all above it off; weights off = the reference checkpoint."
SAID = 90
"""Characters of an answer shown in the table; chosen by hand: two lines of a column at 120."""

_STYLES: dict[Mark, str] = {
    "stops": GOOD,
    "passes": "",
    "answers": SIDE_STYLE["training"],
    "fails": HARM,
    "quiet": QUIET,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table, as text with nothing unprintable in it."""

    layer: str
    happened: str
    if_failed: str
    mark: Mark = "passes"
    """What kind of thing happened."""


def rows(steps: Sequence[Step]) -> list[Row]:
    """One row per step. After the first enforced block the layers only say what they would have done."""
    found, stopped = [], False
    for step in steps:
        found.append(
            Row(layer=visible(step.layer), happened=_happened(step, stopped), if_failed=_then(step), mark=_mark(step))
        )
        stopped = stopped or (step.action == "block" and step.mode == "enforce")
    return found


def show(steps: Sequence[Step], trace: Trace, console: Console) -> None:
    console.print(view(rows(steps), trace), width=min(console.width, WIDEST))


def view(table: Sequence[Row], trace: Trace) -> Group:
    return Group(
        Text(""),
        _table(table),
        Text(MEASURED, style=QUIET),
        _reply(trace),
        Text.assemble(" trace ", (visible(trace.id), HEAD), style=QUIET),
    )


def _table(table: Sequence[Row]) -> Table:
    grid = Table(
        box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1, 0, 0), header_style=f"not bold {QUIET}"
    )
    grid.add_column("Layer", no_wrap=True)
    grid.add_column("What happened", ratio=1)
    grid.add_column("If it had failed", ratio=1)
    for row in table:
        grid.add_row(cell(row.layer, HEAD, 30), Text(row.happened, style=_STYLES[row.mark]), Text(row.if_failed))
    return grid


def _reply(trace: Trace) -> Padding:
    end = trace.outcome
    if end is None:
        return Padding(Text("The request did not finish.", style=HARM), (0, 1, 1, 1))
    style = {"delivered": HEAD, "blocked": GOOD, "cut": COST, "unavailable": HARM}[end.status]
    said = excerpt(end.delivered, 2000) or _why_nothing(trace)
    return Padding(Text.assemble((f"{end.status}: ", style), said), (0, 1, 1, 1))


def _happened(step: Step, stopped: bool) -> str:
    would = stopped or step.mode == "shadow"
    shadow = "in shadow: " if step.mode == "shadow" else ""
    if step.text is not None or (step.side == "training" and step.action is None):
        return _spoke(step, would)
    verb = _verb(step, would)
    scored = step.score is not None and f"{step.score:.2f}" in step.reason
    details = "" if scored else ", ".join(filter(None, (step.hazard, _score(step))))
    reason = f": {excerpt(step.reason, SAID)}" if step.reason else ""
    return f"{shadow}{verb}{f' ({details})' if details else ''}{reason}"


def _spoke(step: Step, would: bool) -> str:
    if not step.text:
        return f"gives no answer: {excerpt(step.reason, SAID)}" if step.reason else "gives no answer"
    return f"{'would say' if would else 'says'}: “{excerpt(step.text, SAID)}”"


def _why_nothing(trace: Trace) -> str:
    """The table has room for the beginning of a fault only."""
    silent = [e for e in trace.events if isinstance(e, ModelEvent) and e.finish == "unavailable"]
    return excerpt(silent[-1].message, 2000) if silent else "(nothing)"


def _verb(step: Step, would: bool) -> str:
    if step.fault:
        return "is down (timeout)" if step.fault == "timeout" else "is down (error)"
    verbs = {
        "allow": ("lets it pass", "would let it pass"),
        "block": ("blocks", "would block"),
        "modify": ("changes what the next ones see", "would change what the next ones see"),
        "escalate": ("asks a later layer", "would ask a later layer"),
        "abstain": ("has nothing to say", "would have nothing to say"),
    }
    return verbs[step.action][would] if step.action else "has nothing to look at"


def _score(step: Step) -> str:
    if step.score is None:
        return ""
    if step.threshold is None:
        return f"{step.score:.2f}"
    return f"{step.score:.2f} {'≥' if step.score >= step.threshold else '<'} {step.threshold:.2f}"


def _then(step: Step) -> str:
    then = step.then
    if then.status == "blocked":
        return f"{visible(then.blockers[0])} stops it"
    if then.status == "unavailable":
        return "no answer"
    said = f"“{excerpt(then.delivered, SAID)}”"
    if then.status == "cut":
        return f"{visible(then.blockers[0])} cuts it, too late: {said}"
    refuses = opens_with(plain(then.delivered), OPENINGS)
    return f"the model refuses: {said}" if refuses else f"the user receives: {said}"


def _mark(step: Step) -> Mark:
    if step.fault:
        return "fails"
    if step.text is not None:
        return "answers"
    if step.action == "block":
        return "stops"
    return "quiet" if step.action in (None, "abstain") else "passes"

"""One request down the stack, layer by layer: what each of them said, and what would have followed had it failed."""

from dataclasses import dataclass

from alignstack.core.events import Fault, LayerError, LayerEvent, Mode
from alignstack.core.grid import Call, Grid
from alignstack.core.layer import Kind, Phase, Side
from alignstack.core.messages import Conversation
from alignstack.core.ports import Clock
from alignstack.core.trace import Trace
from alignstack.core.verdict import Action
from alignstack.engine.evaluate import evaluate
from alignstack.engine.memo import Memo
from alignstack.engine.outcomes import Outcome, cell_of, outcome
from alignstack.engine.stack import WEIGHTS, Placed, Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One layer's row of the table `Layer · What happened · If it had failed`."""

    layer: str
    kind: Kind
    side: Side
    phase: Phase
    mode: Mode
    action: Action | None
    """None for the weights, for a fault, and for a layer that had nothing to look at."""
    fault: Fault | None = None
    reason: str = ""
    score: float | None = None
    threshold: float | None = None
    hazard: str | None = None
    seconds: float = 0.0
    text: str | None = None
    """The weights: what the model said, or would have said had nobody blocked before."""
    then: Outcome
    """How the request ends with this layer and all before it switched off (the weights replaced by the reference)."""

    @property
    def next_stop(self) -> str | None:
        """Who stops it next; None when nobody does."""
        return self.then.blockers[0] if self.then.blockers else None

    @property
    def delivered(self) -> str | None:
        """What the user receives when nobody stops it, or before somebody does."""
        return None if self.then.status == "blocked" else self.then.delivered


async def cascade(
    stack: Stack,
    messages: Conversation,
    *,
    clock: Clock,
    memo: Memo | None = None,
    seed: int | None = None,
    trace: Trace | None = None,
) -> list[Step]:
    """One step per layer in order, measured by evaluate-all. `trace` is the production run of the same request: of
    layers that abstain in audits (limits) it knows the verdict."""
    grid = await evaluate(stack, messages, clock=clock, memo=memo, seed=seed)
    return steps(stack, grid, trace)


def steps(stack: Stack, grid: Grid, trace: Trace | None = None) -> list[Step]:
    """The same from a grid that is there already."""
    full = cell_of(grid, stack.enforced)
    calls = {grid.calls[index].layer: grid.calls[index] for index in full.calls}
    calls |= _stateful(stack, trace)
    on = set(stack.enforced)
    found: list[Step] = []
    for placed in stack.layers:
        on.discard(placed.name)
        then = outcome(grid, on, stack.refusal)
        if placed.name == WEIGHTS:
            draft = grid.drafts[full.draft]
            found.append(_step(placed, None, then, text=draft.text, seconds=draft.seconds, reason=draft.message))
        else:
            found.append(_step(placed, calls.get(placed.name), then))
    return found


def _step(
    placed: Placed, call: Call | None, then: Outcome, *, text: str | None = None, seconds: float = 0.0, reason: str = ""
) -> Step:
    return Step(
        layer=placed.name,
        kind=placed.info.kind,
        side=placed.info.side,
        phase=placed.info.phases[0],
        mode=placed.mode,
        action=call.action if call else None,
        fault=call.fault if call else None,
        reason=call.reason if call else reason,
        score=call.score if call else None,
        threshold=placed.threshold,
        hazard=call.hazard if call else None,
        seconds=call.seconds if call else seconds,
        text=text,
        then=then,
    )


def _stateful(stack: Stack, trace: Trace | None) -> dict[str, Call]:
    names = {placed.name for placed in stack.layers if placed.info.stateful}
    events = [event for event in trace.layer_events if event.layer in names] if trace else []
    return {event.layer: _as_call(event) for event in events}


def _as_call(event: LayerEvent | LayerError) -> Call:
    verdict = None if isinstance(event, LayerError) else event.verdict
    return Call(
        layer=event.layer,
        phase=event.phase,
        input_sha256=event.input_sha256,
        action=verdict.action if verdict else None,
        score=verdict.score if verdict else None,
        reason=verdict.reason if verdict else "",
        fault=event.fault if isinstance(event, LayerError) else None,
        seconds=event.seconds,
    )

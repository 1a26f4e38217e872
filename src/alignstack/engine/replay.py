"""A trace again, with one thing changed.

Whatever would see the same bytes as before answers from the record; only what the change reaches is asked again. Layers
with a memory of callers are never charged twice: where the record does not help they are asked as in an audit.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from alignstack.core.errors import ModelUnavailable, NotFound
from alignstack.core.events import LayerError, LayerEvent, ModelEvent
from alignstack.core.grid import Draft
from alignstack.core.layer import View
from alignstack.core.messages import Message, digest
from alignstack.core.ports import Clock, Delta, Finish, ModelClient, Sampling
from alignstack.core.trace import Trace
from alignstack.core.verdict import Verdict
from alignstack.engine.check import Answer, check, narrowed, sound
from alignstack.engine.generate import draft_of
from alignstack.engine.memo import Memo
from alignstack.engine.run import stream
from alignstack.engine.stack import WEIGHTS, Placed, Stack


async def replay(
    trace: Trace,
    stack: Stack,
    *,
    off: frozenset[str] = frozenset(),
    shadow: frozenset[str] = frozenset(),
    again: frozenset[str] = frozenset(),
    reference: bool = False,
    thresholds: Mapping[str, float] | None = None,
    clock: Clock,
    memo: Memo | None = None,
) -> Trace:
    """What would have happened with layers off or in shadow, thresholds moved, or the reference in place of the
    weights. Layers in `again`, the model included, are asked again although the record has their answer (after a fault,
    say). Raises NotFound for names that are no layers (or have no threshold, or cannot be in shadow), ConfigError for
    weights without a reference."""
    moved = dict(thresholds or {})
    _check_names(stack, shadow, again, moved)
    memo = Memo() if memo is None else memo
    recall = _Recall(trace, again, moved, memo)
    streamed = _streamed(trace, stack)
    drafts = {} if streamed or WEIGHTS in again else _drafts(trace)
    changed = replace(
        stack,
        layers=tuple(replace(p, mode="shadow") if p.name in shadow else p for p in stack.layers),
        model=_Recalled(stack.model, drafts, clock, memo),
        reference=_Recalled(stack.reference, drafts, clock, memo) if stack.reference else None,
    )
    said = trace.generation
    going = stream(
        replace(changed, streaming=streamed),
        trace.request.messages,
        clock=clock,
        trace_id=f"{trace.id}.replay",
        caller=trace.request.caller,
        off=off | {WEIGHTS} if reference else off,
        sampling=replace(stack.sampling, seed=said.seed) if said else stack.sampling,
        ask=recall,
    )
    *_, last = [item async for item in going]
    assert isinstance(last, Trace)
    return last


def _streamed(trace: Trace, stack: Stack) -> bool:
    """Was it answered as a stream? Where the trace does not show it, a stack that streams did."""
    output = [event for event in trace.events if isinstance(event, LayerEvent) and event.phase == "output"]
    whole = stack.streams() and any(event.at_token is None for event in output)
    return stack.streaming and not whole


def reused(before: Trace, after: Trace) -> tuple[bool, ...]:
    """For every event of a replay: did it come from the record? Only layers and the model can."""
    known = {_identity(event) for event in before.events} - {None}
    return tuple(_identity(event) in known for event in after.events)


def _identity(event: object) -> tuple[object, ...] | None:
    if isinstance(event, LayerEvent | LayerError):
        return event.layer, event.version, event.input_sha256, event.seconds
    return (event.version, event.input_sha256, event.text) if isinstance(event, ModelEvent) else None


def with_threshold(verdict: Verdict, threshold: float | None) -> Verdict:
    """The verdict that the same score gives at another threshold. What the policy lets through although it scored high
    enough stays let through."""
    if threshold is None or verdict.score is None or verdict.action not in ("allow", "block"):
        return verdict
    exempt = verdict.action == "allow" and verdict.threshold is not None and verdict.score >= verdict.threshold
    flagged = verdict.score >= threshold and not exempt
    return replace(verdict, action="block" if flagged else "allow", threshold=threshold)


def _check_names(stack: Stack, shadow: frozenset[str], again: frozenset[str], thresholds: Mapping[str, float]) -> None:
    for name in sorted(shadow | again):
        if stack.placed(name) is None:
            raise NotFound("layer", name, [placed.name for placed in stack.layers])
    if WEIGHTS in shadow:  # there is no answer without them
        guards = [placed.name for placed in stack.layers if placed.layer is not None]
        raise NotFound("layer that can be in shadow", WEIGHTS, guards)
    movable = [placed.name for placed in stack.layers if placed.threshold is not None]
    for name in sorted(thresholds):
        if name not in movable:
            raise NotFound("layer with a threshold", name, movable)


class _Recall:
    """Asks a layer only when the trace does not hold its answer to the same bytes."""

    def __init__(self, trace: Trace, again: frozenset[str], thresholds: Mapping[str, float], memo: Memo) -> None:
        self.known = {(e.layer, e.version, e.input_sha256): e for e in trace.layer_events if e.layer not in again}
        self.thresholds = thresholds
        self.memo = memo

    async def __call__(self, placed: Placed, view: View, *, clock: Clock, at_token: int | None = None) -> Answer:
        key = (placed.name, placed.info.version, narrowed(view, placed.info.scope.max_chars).digest)
        answer = self.known.get(key) or await self._ask(placed, view, key, clock)
        if isinstance(answer, LayerError):
            return replace(answer, mode=placed.mode, on_error=placed.on_error)
        verdict = with_threshold(answer.verdict, self.thresholds.get(placed.name))
        return replace(answer, mode=placed.mode, verdict=verdict, at_token=at_token)

    async def _ask(self, placed: Placed, view: View, key: tuple[str, ...], clock: Clock) -> Answer:
        if placed.info.stateful:
            return await check(placed, replace(view, audit=True), clock=clock)
        return await self.memo.get(key, lambda: check(placed, view, clock=clock), keep=sound)


def _drafts(trace: Trace) -> dict[tuple[str, str], Draft]:
    """What the model had said, to which input. Generations that were stopped do not count."""
    return {
        (event.version, event.input_sha256): Draft(
            model=event.model,
            version=event.version,
            input_sha256=event.input_sha256,
            text=event.text,
            finish=event.finish,
            message=event.message,
            tokens=event.output_tokens,
            truncated=event.truncated,
            cost=event.cost,
        )
        for event in trace.events
        if isinstance(event, ModelEvent) and event.finish != "cancelled"
    }


class _Recalled:
    """A model client that repeats what the record or the memo has, and generates the rest."""

    def __init__(self, client: ModelClient, drafts: Mapping[tuple[str, str], Draft], clock: Clock, memo: Memo) -> None:
        self.name, self.version = client.name, client.version
        self._client, self._drafts, self._clock, self._memo = client, drafts, clock, memo

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        said = tuple(messages)
        draft = self._drafts.get((self.version, digest(said)))
        draft = draft or await draft_of(self._client, said, sampling, self._clock, self._memo)
        if draft.finish == "unavailable":
            raise ModelUnavailable(draft.message)
        for delta in _pieces(draft):
            yield delta
        yield Finish(reason=draft.finish, output_tokens=draft.tokens, truncated=draft.truncated, cost=draft.cost)


def _pieces(draft: Draft) -> list[Delta]:
    """The draft as it streamed; in one piece when nobody remembers how."""
    ends = draft.ends or (len(draft.text),)
    found: list[Delta] = []
    start = tokens = 0
    for end in ends:
        tokens += 1
        if end > start:
            found.append(Delta(text=draft.text[start:end], tokens=tokens))
            start, tokens = end, 0
    return found

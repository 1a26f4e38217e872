"""The production run: a request goes down the stack and stops at the first enforced block.

Layers that do not change what others see are asked at the same time; modifiers are waited for, in order. Shadow layers
decide in their own time: nobody waits for them but the trace.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from itertools import groupby

from alignstack.core.errors import ConfigError, NotFound, Problem
from alignstack.core.events import Event, LayerError, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.layer import View
from alignstack.core.messages import Conversation
from alignstack.core.ports import Clock, Sampling
from alignstack.core.trace import Trace
from alignstack.engine.check import Answer, Check, blocks, check, edited
from alignstack.engine.gate import Gate
from alignstack.engine.generate import Generation
from alignstack.engine.stack import WEIGHTS, Placed, Stack

AHEAD = 4
"""Looks of the output layers under way at once, before the model is made to wait; chosen by hand."""

RACING = ""
"""The gate's holder for request layers that decide while the model already speaks; no layer can have this name."""

Look = tuple[int, list[asyncio.Task[Answer]]]


async def run(
    stack: Stack,
    messages: Conversation,
    *,
    clock: Clock,
    trace_id: str,
    caller: str = "",
    off: frozenset[str] = frozenset(),
    sampling: Sampling | None = None,
    ask: Check = check,
) -> Trace:
    """One request, answered whole. `off` names layers that are switched off; without the weights (`model`) the
    reference answers. `ask` stands in for asking a layer (replays answer from a record). Raises NotFound for a name
    that is no layer, ConfigError for weights without a reference; nothing for layers or models that fail."""
    _check_off(stack, off)
    request = _Request(replace(stack, streaming=False), clock, caller, off, sampling, ask, release=lambda text: None)
    return await request.serve(messages, trace_id)


async def stream(
    stack: Stack,
    messages: Conversation,
    *,
    clock: Clock,
    trace_id: str,
    caller: str = "",
    off: frozenset[str] = frozenset(),
    sampling: Sampling | None = None,
    ask: Check = check,
) -> AsyncIterator[str | Trace]:
    """One request, answered in pieces as the gate releases them; the last item is the trace. The pieces are what the
    client receives: of a request blocked before anything left, the refusal. With `streaming: false` the whole answer
    is one piece. Errors as in `run`. Closing the iterator abandons the request."""
    _check_off(stack, off)
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    request = _Request(stack, clock, caller, off, sampling, ask, release=pieces.put_nowait)
    serving = asyncio.ensure_future(request.serve(messages, trace_id))
    serving.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        yield await serving
    finally:
        serving.cancel()
        await asyncio.wait([serving])


def _check_off(stack: Stack, off: frozenset[str]) -> None:
    for name in sorted(off):
        if stack.placed(name) is None:
            raise NotFound("layer", name, [placed.name for placed in stack.layers])
    if WEIGHTS in off and stack.reference is None:
        what = "the weights cannot be switched off: give the model a `reference`, the checkpoint to put in their place"
        raise ConfigError([Problem(where=f"{stack.source}: model", what=what)])


class _Request:
    """One request on its way down."""

    def __init__(
        self,
        stack: Stack,
        clock: Clock,
        caller: str,
        off: frozenset[str],
        sampling: Sampling | None,
        ask: Check,
        *,
        release: Callable[[str], None],
    ) -> None:
        self.stack = stack
        self.clock = clock
        self.caller = caller
        self.off = off
        self.sampling = sampling or stack.sampling
        self.ask = ask
        self.release = release
        self.events: list[Event] = []
        self.sent: list[str] = []
        self.racing: list[asyncio.Task[Answer]] = []
        self.enforcing: list[asyncio.Task[Answer]] = []

    async def serve(self, messages: Conversation, trace_id: str) -> Trace:
        started, tick = self.clock.now(), self.clock.tick()
        self.events.append(RequestEvent(messages=messages, caller=self.caller))
        async with asyncio.TaskGroup() as self.tasks:
            outcome = await self._outcome(messages)
            outcome = replace(outcome, seconds=self.clock.tick() - tick)
            _cancel(self.enforcing)
        self.events.append(outcome)
        return Trace(
            id=trace_id,
            stack=self.stack.fingerprint,
            stack_source=self.stack.source,
            started=started,
            censored=self._censored(outcome),
            events=tuple(self.events),
        )

    def _censored(self, outcome: OutcomeEvent) -> bool:
        """Was any layer that is on, the model included, not asked, or not asked about the whole answer?"""
        asked = {event.layer for event in self.events if isinstance(event, LayerEvent | LayerError)}
        on = {p.name for p in self.stack.layers if p.layer is not None} - self.off
        said = any(isinstance(event, ModelEvent) and event.finish != "cancelled" for event in self.events)
        stopped = outcome.status in ("cut", "blocked") and self.stack.streams(self.off)
        return bool(on - asked) or not said or stopped

    async def _outcome(self, messages: Conversation) -> OutcomeEvent:
        view: View | None = View(phase="request", messages=messages, caller=self.caller)
        view = await self._through(view, race=self.stack.race) if view else None
        view = await self._through(replace(view, phase="prompt")) if view else None
        if view is None:
            return self._blocked()
        view = replace(view, phase="output")
        return await (self._streamed(view) if self.stack.streams(self.off) else self._whole(view))

    async def _through(self, view: View, *, race: bool = False) -> View | None:
        """One phase: what the next one sees, or None when an enforcing layer blocks. With `race` vetoes are started
        and not waited for."""
        for barrier, group in groupby(self.stack.acting(view.phase, self.off), key=lambda placed: placed.barrier):
            if not barrier:
                asked = self._start(group, view)
                if race:
                    self.racing += asked
                elif await _any_blocks(asked):
                    return None
                continue
            for placed in group:
                answer = await self._ask(placed, view)
                if blocks(answer):
                    return None
                view = edited(answer, view)
        return view

    def _start(self, group: Iterable[Placed], view: View, at_token: int | None = None) -> list[asyncio.Task[Answer]]:
        """Asks layers at the same time; returns those that enforce."""
        started = [(placed, self.tasks.create_task(self._ask(placed, view, at_token))) for placed in group]
        enforcing = [task for placed, task in started if placed.mode == "enforce"]
        self.enforcing += enforcing
        return enforcing

    async def _ask(self, placed: Placed, view: View, at_token: int | None = None) -> Answer:
        answer = await self.ask(placed, view, clock=self.clock, at_token=at_token)
        self.events.append(answer)
        return answer

    def _generation(self, view: View) -> Generation:
        return Generation(self.stack.client(self.off), view.messages, self.sampling, self.clock)

    async def _whole(self, view: View) -> OutcomeEvent:
        """Nothing leaves before everything has been said and checked."""
        generation = self._generation(view)
        reading = self.tasks.create_task(_drain(generation))
        refused = await _any_blocks(self.racing)
        await _finish(reading, cancel=refused)
        said = generation.event()
        self.events.append(said)
        if refused:
            return self._blocked()
        if generation.ending == "unavailable":
            return OutcomeEvent(status="unavailable", delivered="")
        checked = await self._through(replace(view, draft=generation.text))
        if checked is None:
            return self._blocked()
        self._send(checked.draft or "")
        return self._delivered(said.output_tokens)

    async def _streamed(self, view: View) -> OutcomeEvent:
        """Text leaves piece by piece, each after the enforcing output layers have seen it."""
        holders = [p.name for p in self.stack.acting("output", self.off) if p.mode == "enforce"]
        gate = Gate([*holders, RACING])
        generation = self._generation(view)
        looks: asyncio.Queue[Look | None] = asyncio.Queue(AHEAD)
        reading = self.tasks.create_task(self._read(generation, view, gate, looks))
        stopped = await self._release(gate, holders, looks)
        await _finish(reading, cancel=stopped)
        self.events.append(generation.event())
        if stopped and not gate.released:
            return self._blocked()
        outcome = self._delivered(gate.released)
        if stopped:
            return replace(outcome, status="cut")
        return replace(outcome, status="unavailable") if generation.ending == "unavailable" else outcome

    async def _read(self, generation: Generation, view: View, gate: Gate, looks: asyncio.Queue[Look | None]) -> None:
        """The model's side of the gate: offers pieces, and has the layers look every so many tokens and at the end.
        The look at a prefix is put off until a further piece has come, since the last look is at the final text."""
        layers, window = self.stack.acting("output", self.off), self.stack.look_every
        looked = 0
        async with aclosing(generation.deltas()) as deltas:
            async for delta in deltas:
                if gate.offered and gate.offered - looked >= window:
                    looked = gate.offered
                    prefix = replace(view, draft=generation.text[: generation.ends[looked - 1]], final=False)
                    await looks.put((looked, self._start(layers, prefix, looked)))
                gate.offer(delta.text, max(delta.tokens, 1))
                self._send(gate.take())
        if generation.ending != "unavailable":
            whole = replace(view, draft=generation.text)
            await looks.put((gate.offered, self._start(layers, whole, gate.offered)))
        await looks.put(None)

    async def _release(self, gate: Gate, holders: list[str], looks: asyncio.Queue[Look | None]) -> bool:
        """The client's side of the gate: takes the looks in order, so that what has left does not depend on which
        layer is quicker. True when the stream was cut."""
        if await _any_blocks(self.racing):
            gate.cut()
            return True
        gate.lift(RACING)
        self._send(gate.take())
        while (look := await looks.get()) is not None:
            tokens, asked = look
            if await _any_blocks(asked):
                gate.cut()
                return True
            for holder in holders:
                gate.clear(holder, tokens)
            self._send(gate.take())
        return False

    def _send(self, text: str) -> None:
        if text:
            self.sent.append(text)
            self.release(text)

    def _blocked(self) -> OutcomeEvent:
        self._send(self.stack.refusal)
        return OutcomeEvent(status="blocked", delivered=self.stack.refusal)

    def _delivered(self, tokens: int) -> OutcomeEvent:
        return OutcomeEvent(status="delivered", delivered="".join(self.sent), released_tokens=tokens)


async def _any_blocks(asked: list[asyncio.Task[Answer]]) -> bool:
    """True at the first that blocks; the others are then cancelled."""
    for answer in asyncio.as_completed(asked):
        if blocks(await answer):
            _cancel(asked)
            return True
    return False


def _cancel(tasks: Iterable[asyncio.Task[Answer]]) -> None:
    for task in tasks:
        task.cancel()


async def _finish(reading: asyncio.Task[None], *, cancel: bool) -> None:
    if cancel:
        reading.cancel()
    await asyncio.wait([reading])


async def _drain(generation: Generation) -> None:
    async with aclosing(generation.deltas()) as deltas:
        async for _ in deltas:
            pass

"""The production run: a request goes down the stack and stops at the first enforced block.

Layers that do not change what others see are asked at the same time; modifiers are waited for, in order. Shadow layers
decide in their own time: nobody waits for them but the trace.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from alignstack.core.errors import ConfigError, NotFound, Problem
from alignstack.core.events import Event, LayerError, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent, Status
from alignstack.core.layer import View
from alignstack.core.messages import Conversation
from alignstack.core.ports import Clock, Delta, Sampling
from alignstack.core.trace import Trace
from alignstack.engine.check import Answer, Check, begin, blocks, check, edited
from alignstack.engine.gate import Gate
from alignstack.engine.generate import Generation, gap
from alignstack.engine.stack import WEIGHTS, Placed, Stack

AHEAD = 4
"""Looks of the output layers under way at once, before the model is made to wait; chosen by hand."""

RACING = ""
"""The gate's holder for request layers that decide while the model already speaks; no layer can have this name."""

Asked = Answer | asyncio.Task[Answer]
"""An answer, or who will have it."""

Look = tuple[int, list[Asked]]

Release = Callable[[Sequence[Delta]], Awaitable[None]]
"""Takes what may leave. While it waits (for a slow client) the model is not read on."""


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

    async def keep(pieces: Sequence[Delta]) -> None:
        """The outcome has them."""

    whole = replace(stack, streaming=False)
    serving = Serving(
        whole, clock=clock, trace_id=trace_id, caller=caller, off=off, sampling=sampling, ask=ask, release=keep
    )
    async with serving.answer(messages):
        pass
    return serving.trace


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
    """One request, answered in texts as the gate releases them; the last item is the trace. The texts are what the
    client receives: of a request blocked before anything left, the refusal. With `streaming: false` the whole answer
    is one text. Errors as in `run`. Closing the iterator abandons the request."""
    texts: asyncio.Queue[str | None] = asyncio.Queue()

    async def release(pieces: Sequence[Delta]) -> None:
        texts.put_nowait("".join(piece.read for piece in pieces))

    serving = Serving(
        stack, clock=clock, trace_id=trace_id, caller=caller, off=off, sampling=sampling, ask=ask, release=release
    )

    async def answer() -> Trace:
        try:
            async with serving.answer(messages) as outcome:
                if outcome.status == "blocked":
                    texts.put_nowait(outcome.delivered)
        finally:
            texts.put_nowait(None)
        return serving.trace

    going = asyncio.ensure_future(answer())
    try:
        while (text := await texts.get()) is not None:
            yield text
        yield await going
    finally:
        going.cancel()
        await asyncio.wait([going])


def _check_off(stack: Stack, off: frozenset[str]) -> None:
    for name in sorted(off):
        if stack.placed(name) is None:
            raise NotFound("layer", name, [placed.name for placed in stack.layers])
    if WEIGHTS in off and stack.reference is None:
        what = "the weights cannot be switched off: give the model a `reference`, the checkpoint to put in their place"
        raise ConfigError([Problem(where=f"{stack.source}: model", what=what)])


class Serving:
    """One request on its way down, and what came of it. Made for one request; raises like `run`."""

    def __init__(
        self,
        stack: Stack,
        *,
        clock: Clock,
        trace_id: str,
        caller: str = "",
        off: frozenset[str] = frozenset(),
        sampling: Sampling | None = None,
        ask: Check = check,
        release: Release,
    ) -> None:
        _check_off(stack, off)
        self.stack = stack
        self.clock = clock
        self.trace_id = trace_id
        self.caller = caller
        self.off = off
        self.sampling = sampling or stack.sampling
        self.ask = ask
        self.release = release
        self.started, self.tick = clock.now(), clock.tick()
        self.outcome: OutcomeEvent | None = None
        self.events: list[Event] = []
        self.sent: list[str] = []
        self.sending = asyncio.Lock()
        self.tasks = asyncio.TaskGroup()
        self.racing: list[Asked] = []
        self.enforcing: list[asyncio.Task[Answer]] = []

    @asynccontextmanager
    async def answer(self, messages: Conversation) -> AsyncIterator[OutcomeEvent]:
        """The body of the `async with` is entered when the outcome is known; of a request that is blocked nothing was
        released. On leaving, shadow layers have decided. To cancel is to abandon the request: the model stops."""
        self.events.append(RequestEvent(messages=messages, caller=self.caller))
        async with self.tasks:
            self.outcome = await self._outcome(messages)
            _cancel(self.enforcing)
            yield self.outcome

    @property
    def said(self) -> ModelEvent | None:
        """What the model answered, if it was asked."""
        return next((event for event in reversed(self.events) if isinstance(event, ModelEvent)), None)

    @property
    def trace(self) -> Trace:
        """Everything that happened so far."""
        outcome = self.outcome or self._ended("abandoned")
        return Trace(
            id=self.trace_id,
            stack=self.stack.fingerprint,
            stack_source=self.stack.source,
            started=self.started,
            censored=self._censored(outcome),
            events=(*self.events, outcome),
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
        view = await self._through(view.at("prompt")) if view else None
        if view is None:
            return self._ended("blocked")
        view = view.at("output")
        return await (self._streamed(view) if self.stack.streams(self.off) else self._whole(view))

    async def _through(self, view: View, *, race: bool = False) -> View | None:
        """One phase: what the next one sees, or None when an enforcing layer blocks. With `race` vetoes are started
        and not waited for."""
        for barrier, group in self.stack.groups(view.phase, self.off):
            if not barrier:
                asked = self._start(group, view)
                if race:
                    self.racing += asked
                elif asked and await _any_blocks(asked):
                    return None
                continue
            for placed in group:
                answer = await _answered(self._ask(placed, view))
                if blocks(answer):
                    return None
                view = edited(answer, view)
        return view

    def _start(self, group: Iterable[Placed], view: View, at_token: int | None = None) -> list[Asked]:
        """Asks layers at the same time; returns the answers of those that enforce."""
        enforcing: list[Asked] = []
        for placed in group:
            answer = self._ask(placed, view, at_token)
            if placed.mode == "enforce":
                enforcing.append(answer)
                if isinstance(answer, asyncio.Task):
                    self.enforcing.append(answer)
        return enforcing

    def _ask(self, placed: Placed, view: View, at_token: int | None = None) -> Asked:
        if self.ask is not check or not placed.info.quick:
            asking = partial(self.ask, placed, view, clock=self.clock, at_token=at_token)
            return self.tasks.create_task(self._noted(asking), name=placed.name)
        begun = begin(placed, view, clock=self.clock, at_token=at_token)
        if not isinstance(begun, LayerEvent | LayerError):
            return self.tasks.create_task(self._noted(begun), name=placed.name)
        self.events.append(begun)
        return begun

    async def _noted(self, asking: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        answer = await asking()
        self.events.append(answer)
        return answer

    def _generation(self, view: View, *, whole: bool) -> Generation:
        client, seen = self.stack.client(self.off), view.conversation
        return Generation(client, view.messages, self.sampling, self.clock, whole=whole, input_sha256=seen)

    async def _whole(self, view: View) -> OutcomeEvent:
        """Nothing leaves before everything has been said and checked."""
        generation = self._generation(view, whole=True)
        try:
            refused = await self._drained(generation)
        finally:
            said = generation.event()
            self.events.append(said)
        if refused:
            return self._ended("blocked")
        if generation.ending == "unavailable":
            return self._ended("unavailable")
        checked = await self._through(view.at("output", draft=generation.text))
        if checked is None:
            return self._ended("blocked")
        await self._send(_rewritten(generation, checked.draft or ""))
        return self._ended("delivered", said.output_tokens)

    async def _drained(self, generation: Generation) -> bool:
        """Reads the whole answer, unless a layer that decides meanwhile blocks: then True."""
        if not self.racing:
            await _drain(generation)
            return False
        reading = self.tasks.create_task(_drain(generation))
        refused = await _any_blocks(self.racing)
        await _finish(reading, cancel=refused)
        return refused

    async def _streamed(self, view: View) -> OutcomeEvent:
        """Pieces leave one by one, each after the enforcing output layers have seen it."""
        flow = _Flow(self, view, self._generation(view, whole=False))
        reading = self.tasks.create_task(flow.read())
        try:
            await flow.release()
            stopped = flow.gate.is_cut
            await _finish(reading, cancel=stopped)
        finally:
            self.events.append(flow.generation.event())
        if stopped:
            return self._ended("cut" if flow.gate.released else "blocked", flow.gate.released)
        return self._ended(
            "unavailable" if flow.generation.ending == "unavailable" else "delivered", flow.gate.released
        )

    async def _send(self, pieces: Sequence[Delta]) -> None:
        if pieces:
            self.sent += [piece.read for piece in pieces]
            await self.release(pieces)

    def _ended(self, status: Status, tokens: int = 0) -> OutcomeEvent:
        delivered = self.stack.refusal if status == "blocked" else "".join(self.sent)
        seconds = self.clock.tick() - self.tick
        return OutcomeEvent(status=status, delivered=delivered, released_tokens=tokens, seconds=seconds)


class _Flow:
    """One answer on its way through the gate. One side reads the model and asks the output layers, the other waits for
    those of them that take time. While all answer at once the first side does everything."""

    def __init__(self, serving: Serving, view: View, generation: Generation) -> None:
        self.serving, self.view, self.generation = serving, view, generation
        self.layers = serving.stack.acting("output", serving.off)
        self.holders = [placed.name for placed in self.layers if placed.mode == "enforce"]
        self.gate: Gate[Delta] = Gate([*self.holders, *([RACING] if serving.racing else [])])
        self.looks: asyncio.Queue[Look | None] = asyncio.Queue(AHEAD)
        self.waiting = len(serving.racing)
        """Decisions that are not made yet: what comes after them has to queue."""

    async def read(self) -> None:
        """Offers pieces, and has the layers look every so many tokens and at the end. The look at a prefix is put off
        until a further piece has come, since the last look is at the final text."""
        gate, generation, window = self.gate, self.generation, self.serving.stack.look_every
        looked: View | None = None
        looks, due = 0, gap(0, window)
        async with aclosing(generation.deltas()) as deltas:
            async for delta in deltas:
                if gate.offered >= due and gate.offered:
                    looked = self.view.grown(generation.text[: generation.ends[gate.offered - 1]], looked)
                    looks += 1
                    due = gate.offered + gap(looks, window)
                    if await self._look(looked):
                        break
                gate.offer(delta, max(delta.tokens, 1))
                if not self.holders:  # else nothing can leave before the next look
                    await self._send()
        if generation.ending != "unavailable" and not gate.is_cut:
            await self._look(self.view.at("output", draft=generation.text))
        await self.looks.put(None)

    async def _look(self, view: View) -> bool:
        """True when the stream was cut here and now."""
        tokens = self.gate.offered
        asked = self.serving._start(self.layers, view, tokens)
        if self.waiting or any(isinstance(answer, asyncio.Task) for answer in asked):
            self.waiting += 1
            await self.looks.put((tokens, asked))
            return False
        await self._decide(tokens, asked)
        return self.gate.is_cut

    async def _decide(self, tokens: int, asked: list[Asked]) -> None:
        if await _any_blocks(asked):
            self.gate.cut()
            return
        for holder in self.holders:
            self.gate.clear(holder, tokens)
        await self._send()

    async def release(self) -> None:
        """Takes the looks in order, so that what has left does not depend on which layer is quicker; returns at the
        end of the answer or when it was cut."""
        if self.serving.racing:
            if await _any_blocks(self.serving.racing):
                self.gate.cut()
                return
            self.waiting -= len(self.serving.racing)
            self.gate.lift(RACING)
            await self._send()
        while (look := await self.looks.get()) is not None:
            await self._decide(*look)
            self.waiting -= 1
            if self.gate.is_cut:
                return

    async def _send(self) -> None:
        """One at a time: pieces leave in order even when the client is slow."""
        async with self.serving.sending:
            await self.serving._send(self.gate.take())


def _rewritten(generation: Generation, text: str) -> Sequence[Delta]:
    """The pieces as the model sent them, or one text when an output layer has changed it."""
    if text == generation.text:
        return generation.pieces
    return [Delta(text=text, tokens=max(len(generation.ends), 1))]


async def _answered(asked: Asked) -> Answer:
    return await asked if isinstance(asked, asyncio.Task) else asked


async def _any_blocks(asked: list[Asked]) -> bool:
    """True at the first that blocks; the others are then cancelled."""
    waiting = [answer for answer in asked if isinstance(answer, asyncio.Task)]
    if any(blocks(answer) for answer in asked if not isinstance(answer, asyncio.Task)):
        _cancel(waiting)
        return True
    for answer in asyncio.as_completed(waiting) if waiting else ():
        if blocks(await answer):
            _cancel(waiting)
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

"""One request to the model: admitted, taken down the stack, encoded, accounted for.

What is awaited in which order is the point of this file: the ledger has the request before the model is asked, and has
its end before the client has the whole answer; nothing is sent that the engine has not released.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from alignstack.core.events import ModelEvent, OutcomeEvent
from alignstack.core.layer import View
from alignstack.core.ports import Clock, Delta
from alignstack.core.trace import Trace
from alignstack.core.usage import Admitted, BudgetSpent, Key, Status
from alignstack.engine.check import Answer, Check, check
from alignstack.engine.run import Serving
from alignstack.engine.stack import Placed
from alignstack.gateway import images
from alignstack.gateway.account import at_most, price, settled, usage_details
from alignstack.gateway.call import Call, Choice, Dialect, Ending, Events, Head, Reason, Refused
from alignstack.gateway.person import person_of
from alignstack.gateway.services import Services
from alignstack.gateway.unread import unread
from alignstack.gateway.upstream import refusal_of
from alignstack.store.redact import redact
from alignstack.telemetry.conventions import upstream
from alignstack.telemetry.otel import Spans
from alignstack.web.http import EVENTS, JSON, Disconnect, Line, Receive, Send, encoded, respond


class Exchange:
    """One call and its answers."""

    def __init__(
        self,
        services: Services,
        dialect: Dialect,
        key: Key,
        call: Call,
        trace_id: str,
        send: Send,
        *,
        traceparent: str = "",
    ) -> None:
        self.services = services
        self.deployment = services.deployment
        self.dialect = dialect
        self.key = key
        self.call = call
        self.id = trace_id
        self.send = send
        self.traceparent = traceparent
        self.clock: Clock = services.clock
        self.started, self.tick = self.clock.now(), self.clock.tick()
        self.stack = self.deployment.asked(call)
        self.sampling = self.deployment.sampling(call)
        self.person = person_of(call.person)
        head = Head(id=trace_id, created=self.started, model=self.stack.model.name)
        self.head = head
        self.events = dialect.events(call, head) if call.stream else None
        self.headers: Mapping[str, str] = {}
        self.servings: list[Serving] = []
        self.pieces: list[list[Delta]] = [[] for _ in range(call.n)]
        self.ended = 0
        self.settled = False
        self.first_token_s: float | None = None
        self.begun = False
        self.unsent = b""
        """Events that wait for the next ones, to leave with them."""
        self.opened = False
        self.ask: Check = check if call.n == 1 else _AskedOnce()

    async def run(self, receive: Receive, line: Line | None = None) -> None:
        """Raises Refused for a request that is not let in."""
        await self._admitted()
        async with self.services.caps.hold(self.key):
            await self._accounted()
            self.gone = Disconnect(receive, line)
            try:
                await self._answers()
            except BaseException:
                await self._abandon()
                if not self.gone.happened:
                    raise
                self.gone.forgive()
            finally:
                self.gone.stop()
                for serving in self.servings:  # each knew this exchange: such circles wait for the garbage collector
                    serving.release = _keep

    async def _admitted(self) -> None:
        unread(self.call.sampling.more)
        images.check(self.call.messages, self.call.sampling.more, self.deployment.settings.image_urls)
        chars = sum(len(message.content) for message in self.call.messages)
        if chars > self.deployment.settings.max_text_chars:
            what = f"{chars} characters of text are more than the {self.deployment.settings.max_text_chars} allowed"
            raise Refused(413, what, kind="invalid_request_error", code="context_length_exceeded", param="messages")
        self.tokens = at_most(self.call.messages, self.sampling, self.call.n)
        self.headers = await self.services.limits.admit(self.key, self.person, sum(self.tokens))
        if delay := self.services.monitor.delay(self.key.id):
            await asyncio.sleep(delay)

    async def _accounted(self) -> None:
        entry = Admitted(
            id=self.id,
            at=self.started,
            key=self.key.id,
            person=self.person,
            route=self.dialect.name,
            model=self.stack.model.name,
            tokens=sum(self.tokens),
            usd=price(self.stack.model, *self.tokens),
        )
        try:
            await self.services.ledger.admit(entry, self.key.allowance or self.deployment.settings.limits.allowance)
        except BudgetSpent as spent:
            wait = max(1, round(spent.resets_at - self.clock.now()))
            raise Refused(
                429,
                str(spent),
                kind="insufficient_quota",
                code="insufficient_quota",
                headers={"retry-after": str(wait)},
            ) from None

    async def _answers(self) -> None:
        self.servings = [self._serving(index) for index in range(self.call.n)]
        if self.call.n == 1:
            await self._answer(0)
        else:
            async with asyncio.TaskGroup() as tasks:
                for index in range(self.call.n):
                    tasks.create_task(self._answer(index))

    def _serving(self, index: int) -> Serving:
        seed = self.sampling.seed
        sampling = self.sampling if not index or seed is None else replace(self.sampling, seed=seed + index)
        return Serving(
            self.stack,
            clock=self.clock,
            trace_id=f"{self.id}.{index}" if index else self.id,
            caller=self.person or self.key.id,
            sampling=sampling,
            ask=self.ask,
            release=partial(self._release, index),
        )

    async def _answer(self, index: int) -> None:
        serving = self.servings[index]
        async with serving.answer(self.call.messages):
            self.ended += 1
            await self._end_of(index, serving)
        if self.stack.shadows:
            self._keep(serving.trace)  # once more: they may have decided since

    async def _release(self, index: int, pieces: Sequence[Delta]) -> None:
        if self.first_token_s is None:
            self.first_token_s = self.clock.tick() - self.tick
        if self.events is None:
            self.pieces[index] += pieces
        else:
            await self._stream(self._beginning(self.events) + self.events.pieces(index, pieces))

    async def _end_of(self, index: int, serving: Serving) -> None:
        outcome = serving.outcome
        if outcome is not None and outcome.status == "blocked":
            await self._blocked(index, outcome)
        if self.events is not None and self._error() is None:
            self.unsent += self._beginning(self.events) + self.events.finish(index, self._ending(serving))
        if self.ended == self.call.n:
            await self._conclude()
        elif self.unsent:
            await self._stream(b"")

    async def _blocked(self, index: int, outcome: OutcomeEvent) -> None:
        wait = self.deployment.settings.block_seconds - (self.clock.tick() - self.tick)
        if wait > 0:
            await asyncio.sleep(wait)
        if self.stack.on_block == "refusal":
            await self._release(index, [Delta(text=outcome.delivered)])

    async def _conclude(self) -> None:
        """All answers have ended: write that down, then send what ends the response."""
        self.gone.stop()
        await self._settle()
        error = self._error()
        if self.events is not None and (self.opened or error is None):
            endings = [self._ending(serving) for serving in self.servings]
            last = self.events.end(endings) if error is None else self.events.error(error)
            await self._stream(last, more=False)
        elif error is not None:
            headers = [*self._head(), JSON, *encoded(error.headers)]
            await respond(self.send, error.status, self.dialect.error(error), headers)
        else:
            await self._whole()

    async def _whole(self) -> None:
        choices = [
            Choice(pieces=pieces, ending=self._ending(serving))
            for pieces, serving in zip(self.pieces, self.servings, strict=True)
        ]
        await respond(self.send, 200, self.dialect.whole(self.call, self.head, choices), [JSON, *self._head()])

    def _error(self) -> Refused | None:
        """What the client is told in place of an answer."""
        for serving in self.servings:
            outcome, said = serving.outcome, serving.said
            if outcome is not None and outcome.status == "unavailable" and said is not None:
                return refusal_of(said)
            if outcome is not None and outcome.status == "blocked" and self.stack.on_block == "error":
                return Refused(400, self.stack.refusal, kind="invalid_request_error", code="content_filter")
        return None

    def _ending(self, serving: Serving) -> Ending:
        outcome, said = serving.outcome, serving.said
        stopped = outcome.status if outcome is not None and outcome.status in ("blocked", "cut") else ""
        told = None if stopped == "blocked" else said  # or the numbers would tell whether the model was asked
        return Ending(
            reason="content_filter" if stopped else _reason(said),
            blocked=bool(stopped),
            input_tokens=told.input_tokens if told else 0,
            output_tokens=_counted(told, outcome),
            usage=usage_details(told),
            trace=serving.trace if self.call.moderation else None,
        )

    def _beginning(self, events: Events) -> bytes:
        """What comes before the first event of a stream; events are numbered in the order in which they are made."""
        first, self.begun = not self.begun, True
        return events.start() if first else b""

    async def _stream(self, data: bytes, *, more: bool = True) -> None:
        """Sends what is unsent, then `data`."""
        if not self.opened:
            self.opened = True
            headers = [*EVENTS, *self._head()]
            await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        data, self.unsent = self.unsent + data, b""
        if data or not more:
            await self.send({"type": "http.response.body", "body": data, "more_body": more})

    def _head(self) -> list[tuple[bytes, bytes]]:
        name = (b"x-request-id", self.id.encode())
        return [name, *encoded(self.headers)] if self.headers else [name]

    async def _settle(self) -> None:
        self.settled = True
        traces = [serving.trace for serving in self.servings]
        for trace in traces:
            self._keep(trace)
        entry = settled(
            traces,
            asked=self.tokens[0] // self.call.n,
            model=self.stack.model,
            now=self.clock.now(),
            seconds=self.clock.tick() - self.tick,
        )
        self.services.metrics.observe(
            traces[0], route=self.dialect.name, status=entry.status, first_token_s=self.first_token_s
        )
        if self.services.spans is not None:
            self._spans(self.services.spans, traces[0], entry.status)
        await self.services.ledger.settle(entry)
        self._sample(traces[0])

    def _keep(self, trace: Trace) -> None:
        kept = redact(trace, content=self.deployment.settings.traces.content)
        self.services.traces.put_later(kept, key=self.key.id)

    def _spans(self, spans: Spans, trace: Trace, status: Status) -> None:
        spans.export(
            redact(trace, content=True),
            route=self.dialect.name,
            status=status,
            upstream=upstream(self.stack.config.get("model", {})),
            stream=self.call.stream,
            first_token_s=self.first_token_s,
            traceparent=self.traceparent,
        )

    async def _abandon(self) -> None:
        """The client went away, or the gateway is stopping, or has a fault: what was used is written down all the
        same."""
        if not self.settled:
            await asyncio.shield(asyncio.ensure_future(self._settle()))

    def _sample(self, trace: Trace) -> None:
        """Has every layer asked about a share of the requests, those that were stopped early included."""
        share = max(self.deployment.settings.traces.all_layers, self.services.monitor.sample(self.key.id))
        if share and trace.censored and int(self.id[-6:], 16) < share * 16**6:
            self.services.background.start(self._ask_all(), "a run with all layers")

    async def _ask_all(self) -> None:
        serving = Serving(
            self.deployment.shadow,
            clock=self.clock,
            trace_id=f"{self.id}.all",
            caller=self.person or self.key.id,
            sampling=self.sampling,
            ask=_audited,
            release=_keep,
        )
        async with serving.answer(self.call.messages):
            pass
        self._keep(serving.trace)


async def _keep(pieces: Sequence[Delta]) -> None:
    """Nobody takes them; the trace has them."""


def _reason(said: ModelEvent | None) -> Reason:
    if said is None or said.finish == "cancelled" or said.finish == "unavailable":
        return "content_filter"
    return said.finish


def _counted(said: ModelEvent | None, outcome: OutcomeEvent | None) -> int:
    """Output tokens that the client is told of."""
    if said is None or outcome is None:
        return 0
    return outcome.released_tokens if outcome.status == "cut" else said.output_tokens


async def _audited(placed: Placed, view: View, *, clock: Clock, at_token: int | None = None) -> Answer:
    """Layers with a memory of callers do not count a request twice."""
    return await check(placed, replace(view, audit=True) if placed.info.stateful else view, clock=clock)


class _AskedOnce:
    """Several answers to one request: what comes before the model is asked once for all of them."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], asyncio.Task[Answer]] = {}

    async def __call__(self, placed: Placed, view: View, *, clock: Clock, at_token: int | None = None) -> Answer:
        if view.phase == "output":
            return await check(placed, view, clock=clock, at_token=at_token)
        key = (placed.name, view.phase)
        if key not in self._asked:
            self._asked[key] = asyncio.ensure_future(check(placed, view, clock=clock, at_token=at_token))
        return await asyncio.shield(self._asked[key])

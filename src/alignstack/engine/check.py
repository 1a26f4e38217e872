"""One layer asked about one view: in time or not, a verdict or a fault, never an exception."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import replace
from types import coroutine
from typing import Any, Protocol

from alignstack.core.events import Fault, LayerError, LayerEvent
from alignstack.core.layer import Layer, View
from alignstack.core.messages import Conversation, Message
from alignstack.core.ports import Clock
from alignstack.core.verdict import Verdict
from alignstack.engine.stack import Placed

Answer = LayerEvent | LayerError


class Check(Protocol):
    """Asking one layer: `check`, or a replay that knows the answer."""

    async def __call__(self, placed: Placed, view: View, *, clock: Clock, at_token: int | None = None) -> Answer: ...


PATIENCE_S = 60.0
"""Seconds that an evidence replay waits for a layer; chosen by hand, twice the default time limit of a layer."""


def narrowed(view: View, max_chars: int | None) -> View:
    """What a layer that judges only the first `max_chars` characters is given."""
    if max_chars is None or len(view.text) <= max_chars:
        return view
    if view.draft is not None:
        return replace(view, draft=view.draft[:max_chars])
    return replace(view, messages=_first_chars(view.messages, max_chars))


def _first_chars(messages: Conversation, left: int) -> Conversation:
    """User turns cut so that, joined by newlines, they have `left` characters."""
    cut: list[Message] = []
    for message in messages:
        if message.role == "user":
            message = replace(message, content=message.content[: max(left, 0)])
            left -= len(message.content) + 1
        cut.append(message)
    return tuple(cut)


def blocks(answer: Answer) -> bool:
    """Would it stop the request, if enforced and switched on?"""
    if isinstance(answer, LayerError):
        return answer.on_error == "block"
    return answer.verdict.action == "block"


def sound(answer: Answer) -> bool:
    """Worth remembering: faults may pass."""
    return not isinstance(answer, LayerError)


def edited(answer: Answer, view: View) -> View:
    """What later layers see after an enforced modifier."""
    if isinstance(answer, LayerError) or answer.verdict.action != "modify":
        return view
    verdict = answer.verdict
    if view.draft is not None:
        return view if verdict.text is None else replace(view, draft=verdict.text)
    return view if verdict.messages is None else replace(view, messages=verdict.messages)


async def check(
    placed: Placed,
    view: View,
    *,
    clock: Clock,
    at_token: int | None = None,
    whole: bool = False,
    input_sha256: str | None = None,
) -> Answer:
    """Asks one layer. `whole` is for evidence replays: the full text, and time enough. `input_sha256` is the digest of
    what the layer is given, where the caller has it already (prompts can be long)."""
    view = view if whole else narrowed(view, placed.info.scope.max_chars)
    limit = PATIENCE_S if whole else placed.timeout_s
    asked = _Asked(placed, view, clock, at_token, limit, input_sha256 or view.digest)
    return await asked.within_limit(_layer(placed).check(view))


def begin(
    placed: Placed, view: View, *, clock: Clock, at_token: int | None = None
) -> Answer | Callable[[], Coroutine[Any, Any, Answer]]:
    """Asks a layer that is `quick` here and now. Returns its answer or, when it has to wait for something, what has it
    go on, in any task."""
    view = narrowed(view, placed.info.scope.max_chars)
    asked = _Asked(placed, view, clock, at_token, placed.timeout_s, view.digest)
    checking = _layer(placed).check(view)
    try:
        waits_for = checking.send(None)
    except StopIteration as end:
        return asked.answer(end.value)
    except Exception as error:  # whatever a layer does, the request goes on by `on_error`
        return asked.fault("error", _message(error))
    return lambda: asked.within_limit(_rest(checking, waits_for))


@coroutine
def _rest(begun: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """Goes on with a coroutine that has been started and waits for `waits_for`."""
    try:
        while True:
            try:
                got = yield waits_for
            except BaseException as error:
                waits_for = begun.throw(error)
            else:
                waits_for = begun.send(got)
    except StopIteration as end:
        return end.value


def _layer(placed: Placed) -> Layer:
    assert placed.layer is not None, "the weights are not asked"
    return placed.layer


class _Asked:
    """One question to one layer, from its start on."""

    __slots__ = ("at_token", "clock", "limit", "placed", "seen", "started", "view")

    def __init__(
        self, placed: Placed, view: View, clock: Clock, at_token: int | None, limit: float | None, seen: str
    ) -> None:
        self.placed, self.view, self.clock, self.at_token = placed, view, clock, at_token
        self.limit, self.seen = limit, seen
        self.started = clock.tick()

    async def within_limit(self, checking: Awaitable[Any]) -> Answer:
        timer = asyncio.timeout(self.limit)
        try:
            async with timer:
                verdict = await checking
            return self.answer(verdict)
        except Exception as error:  # whatever a layer does, the request goes on by `on_error`
            overdue = self.limit is not None and self.clock.tick() - self.started > self.limit
            if isinstance(error, TimeoutError) and (timer.expired() or overdue):
                return self.late()
            return self.fault("error", _message(error))

    def answer(self, verdict: Any) -> Answer:
        placed, seconds = self.placed, self.clock.tick() - self.started
        if self.limit is not None and seconds > self.limit:
            return self.late()  # a layer that never yields cannot be interrupted, only disregarded
        if not isinstance(verdict, Verdict):
            return self.fault("error", f"returned {type(verdict).__name__}, not a Verdict")
        return LayerEvent(
            layer=placed.info.name,
            phase=self.view.phase,
            mode=placed.mode,
            verdict=self._honest(verdict),
            version=placed.info.version,
            input_sha256=self.seen,
            at_token=self.at_token,
            seconds=seconds,
        )

    def _honest(self, verdict: Verdict) -> Verdict:
        """Who cannot look at pictures cannot allow them."""
        unread = verdict.action == "allow" and self.view.draft is None and not self.placed.info.reads_media
        if unread and (media := self.view.media):
            reason = f"not checked: {', '.join(sorted(set(media)))}; the text alone would be allowed"
            return replace(verdict, action="abstain", reason=reason)
        return verdict

    def late(self) -> LayerError:
        return self.fault("timeout", f"no verdict in {self.limit} s")

    def fault(self, fault: Fault, message: str) -> LayerError:
        placed = self.placed
        return LayerError(
            layer=placed.info.name,
            phase=self.view.phase,
            mode=placed.mode,
            fault=fault,
            on_error=placed.on_error,
            message=message,
            version=placed.info.version,
            input_sha256=self.seen,
            seconds=self.clock.tick() - self.started,
        )


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]

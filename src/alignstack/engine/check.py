"""One layer asked about one view: in time or not, a verdict or a fault, never an exception."""

import asyncio
from dataclasses import replace
from typing import Protocol

from alignstack.core.events import Fault, LayerError, LayerEvent
from alignstack.core.layer import View
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
    assert placed.layer is not None, "the weights are not asked"
    view = view if whole else narrowed(view, placed.info.scope.max_chars)
    seen = input_sha256 or view.digest
    started = clock.tick()
    limit = PATIENCE_S if whole else placed.timeout_s
    timer = asyncio.timeout(limit)
    try:
        async with timer:
            verdict = await placed.layer.check(view)
        seconds = clock.tick() - started
        if limit is not None and seconds > limit:  # a layer that never yields cannot be interrupted, only disregarded
            raise TimeoutError
        if isinstance(verdict, Verdict):
            return LayerEvent(
                layer=placed.name,
                phase=view.phase,
                mode=placed.mode,
                verdict=verdict,
                version=placed.info.version,
                input_sha256=seen,
                at_token=at_token,
                seconds=seconds,
            )
        fault: tuple[Fault, str] = ("error", f"returned {type(verdict).__name__}, not a Verdict")
    except Exception as error:  # whatever a layer does, the request goes on by `on_error`
        overdue = limit is not None and clock.tick() - started > limit
        late = isinstance(error, TimeoutError) and (timer.expired() or overdue)
        fault = ("timeout", f"no verdict in {limit} s") if late else ("error", _message(error))
    return LayerError(
        layer=placed.name,
        phase=view.phase,
        mode=placed.mode,
        fault=fault[0],
        on_error=placed.on_error,
        message=fault[1],
        version=placed.info.version,
        input_sha256=seen,
        seconds=clock.tick() - started,
    )


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]

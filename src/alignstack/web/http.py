"""The few things of ASGI that every route needs: a body within limits, an answer, and a way to hear that the client has
gone. Plain ASGI: a web framework costs more than all safeguards together."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"))


class TooLarge(Exception):
    """The body is larger than allowed."""


class Encoded(Exception):
    """The body is compressed."""


class TooSlow(Exception):
    """The body did not come in time."""


class Gone(Exception):
    """The client closed the connection."""


def header(scope: Scope, name: bytes) -> str:
    """The value of the first header of that (lower-case) name, or an empty string."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""


async def body(scope: Scope, receive: Receive, *, limit: int, seconds: float) -> bytes:
    """The whole request body. Raises TooLarge, TooSlow, Encoded, Gone."""
    if header(scope, b"content-encoding").lower() not in ("", "identity"):
        raise Encoded
    length = header(scope, b"content-length")
    if length.isdecimal() and int(length) > limit:
        raise TooLarge
    line = line_of(scope)
    if line is not None and line.complete:
        return await _whole(receive, limit)
    try:
        async with asyncio.timeout(seconds):
            return await _whole(receive, limit)
    except TimeoutError:
        raise TooSlow from None


async def _whole(receive: Receive, limit: int) -> bytes:
    first = await _part(receive)
    if not first.get("more_body"):
        whole: bytes = _within(first.get("body", b""), limit)
        return whole
    parts = bytearray(_within(first.get("body", b""), limit))
    while True:
        part = await _part(receive)
        parts += part.get("body", b"")
        _within(parts, limit)
        if not part.get("more_body"):
            return bytes(parts)


async def _part(receive: Receive) -> MutableMapping[str, Any]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    return message


def _within(data: Any, limit: int) -> Any:
    if len(data) > limit:
        raise TooLarge
    return data


async def respond(send: Send, status: int, content: bytes, headers: Headers = ()) -> None:
    """One whole answer."""
    length = (b"content-length", b"%d" % len(content))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": content})


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Header names and values as ASGI has them. Raises ValueError for a line break: it would end the header."""
    found = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    if any(b"\r" in part or b"\n" in part for pair in found for part in pair):
        raise ValueError("a header with a line break")
    return found


LINE = "alignstack.line"
"""The extension of ASGI (`scope["extensions"]`) by which a server hands over a `Line`."""


class Line:
    """What the server knows of one client before `receive` tells. Whether it is still there: a task that waits for
    that news costs as much as reading the request. Whether all of the body has come: then there is nothing to time."""

    __slots__ = ("complete", "listener", "lost")

    def __init__(self) -> None:
        self.complete = self.lost = False
        self.listener: Callable[[], None] | None = None

    def lose(self) -> None:
        self.lost = True
        if self.listener is not None:
            self.listener()


def line_of(scope: Scope) -> Line | None:
    extensions = scope.get("extensions")
    found: Line | None = extensions.get(LINE) if extensions else None
    return found


class Disconnect:
    """Cancels the current task once the client has gone. `happened` tells this from other cancellations. Hears of it on
    the line, where the server has one, else from `receive`."""

    def __init__(self, receive: Receive, line: Line | None = None) -> None:
        self.happened = False
        self._serving = asyncio.current_task()
        self._line = line
        self._watching: asyncio.Future[None] | None = None
        if line is None or line.lost:
            self._watching = asyncio.ensure_future(self._watch(receive))
        else:
            line.listener = self._cancel

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel()

    def _cancel(self) -> None:
        self.happened = True
        if self._serving is not None:
            self._serving.cancel()

    def forgive(self) -> None:
        """The cancellation has done its work: the task goes on."""
        if self._serving is not None:
            self._serving.uncancel()

    def stop(self) -> None:
        """The answer is on its way: from here on the connection may close."""
        if self._watching is not None:
            self._watching.cancel()
        elif self._line is not None:
            self._line.listener = None

"""uvicorn's HTTP protocol with what it lacks: limits of time and space for all of a request that is not its body, and
for a client that does not read its answer.

Stops: headers that come byte by byte or have no end, trailers and chunk sizes of the same kind, answers that nobody
takes, two Host headers, transfer codings other than `chunked`, tunnels. A request that offers to switch protocols is
answered as if it had not.
Does not stop: many connections from many addresses; that is for the operating system and whatever stands in front.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from alignstack.web.http import LINE, Line

MAX_HEAD = 64 * 1024
"""Bytes of request line and headers; proxies and servers commonly allow 8 to 64 KiB."""
MAX_HEADERS = 200
"""Servers commonly allow 100 to 2000; each is looked at several times."""
MAX_FRAMES = 2**20
"""Bytes round a body: sizes and extensions of its chunks, and trailers. Enough for 10 MB in pieces of 64 bytes."""
MAX_QUEUED = 100
"""Requests of one connection that wait for the one before them."""
HEAD_SECONDS = 10.0
"""From the first byte of a request (or from the connection on) to the end of its headers, unless the application's
state has `head_seconds`. A body that is not wanted may go on for so long, too."""
STALL_SECONDS = 60.0
"""That a client may let an answer wait before it reads on; chosen by hand."""

REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class Guarded(HttpToolsProtocol):
    """One connection."""

    _line: Line
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _in_head = _in_body = False
    _extra = 0
    """Bytes of this request that belong to no body, less those of the first piece that came of it."""
    _fault = 400

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **more: Any) -> None:
        super().__init__(config, server_state, app_state, **more)
        self._cycles: list[RequestResponseCycle] = []
        """Requests whose answers are not complete, those that wait for their turn included."""
        self._head_seconds = float(app_state.get("head_seconds", HEAD_SECONDS))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        self.resume_writing()
        for cycle in self._cycles:  # uvicorn tells only the last one
            cycle.disconnected = True
            cycle.message_event.set()
            line: Any = cycle.scope["extensions"][LINE]
            line.lose()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._extra += len(data)
        self._feed(data)
        if self._is_unfinished():
            self._wait()
        if self._extra > (MAX_HEAD if self._in_head else MAX_FRAMES):
            self._refuse(431 if self._in_head else 400)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._fault)

    def _stay(self, rest: bytes) -> None:
        """Servers may ignore the offer of another protocol; the parser can not: it takes what follows for that."""
        head = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        head += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._feed(b"\r\n".join([*head, b"", rest]))

    # What the parser calls

    def on_message_begin(self) -> None:
        self._in_head, self._extra = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is no header: whoever stands in front has not looked at it
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._rest()
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            return
        if fault := self._wrong():
            self._fault = fault
            raise ValueError("a head to refuse")
        self._in_head, self._in_body = False, True
        self._line = Line()
        self.scope["extensions"] = {LINE: self._line}  # type: ignore[dict-item]
        super().on_headers_complete()
        self._cycles.append(self.cycle)
        if self.scope["method"] != "HEAD":
            self.cycle.transport = _Joined(self.cycle)  # type: ignore[assignment]

    def _wrong(self) -> int:
        """The status that refuses this head, or 0."""
        size, hosts, codings = len(self.url), 0, []
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                codings.append(value.lower())
        if len(self.headers) > MAX_HEADERS or size > MAX_HEAD:
            return 431
        if len(self.pipeline) >= MAX_QUEUED:
            return 400
        is_old = self.parser.get_http_version() == "1.0"
        right = hosts in ((0, 1) if is_old else (1,)) and (not codings or (codings == [b"chunked"] and not is_old))
        return 0 if right and self.parser.get_method() != b"CONNECT" else 400

    def on_body(self, body: bytes) -> None:
        self._extra -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._in_head:  # an offer of another protocol
            return
        self._in_body = False
        self._line.complete = True
        super().on_message_complete()
        if self._is_idle():
            self._rest()
            self._keep_alive()

    def on_response_complete(self) -> None:
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        super().on_response_complete()
        if self.transport.is_closing():
            self._stall()
        elif self._in_body and self._is_idle():
            self._wait()

    # Time

    def _is_idle(self) -> bool:
        """Nobody works on a request of this connection."""
        return self.cycle is None or self.cycle.response_complete

    def _is_unfinished(self) -> bool:
        """More must come before there is something to work on, and nobody has said yet by when."""
        timed = self._timer is not None or self.timeout_keep_alive_task is not None
        return self._is_idle() and not timed and not self.transport.is_closing()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self._head_seconds, self._late)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _keep_alive(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _late(self) -> None:
        """A client that has asked for nothing is told nothing."""
        if self._in_head:
            self._refuse(408)
        else:
            self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall()

    def _stall(self) -> None:
        """A closed connection stays as long as something is to be sent."""
        if self._stalled is None and self.transport.get_write_buffer_size():
            self._stalled = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _refuse(self, status: int) -> None:
        """Whatever follows on this connection cannot be told apart from the rest of the request. While an answer is
        due to an earlier one, or under way, nothing can be said."""
        self._rest()
        if self.transport.is_closing():
            return
        if self._is_idle() or (self._in_body and not self.pipeline and not self.cycle.response_started):
            line = b"HTTP/1.1 %d %b\r\n" % (status, REASONS[status])
            self.transport.write(line + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
        self._stall()


class _Joined:
    """The transport of one answer that has a body: the head leaves with the first piece of that. Each write is a call
    of the system, which takes longer than all else that is done to send a small answer."""

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle, self._transport = cycle, cycle.transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            self._cycle.transport = self._transport
            self._transport.write(self._head + data)
        elif self._cycle.response_started:
            self._head = data
        else:  # `100 Continue`
            self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

"""One HTTP/1.1 connection to a model server, and those that are kept for later.

Written for answers that arrive token by token: a general client spends several times as much on a small piece as it
takes to read it. Does no more than a model server needs: POST, no redirects, no proxies, no compression.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import cache
from typing import cast
from weakref import WeakKeyDictionary

import httptools
from aiohappyeyeballs import start_connection
from yarl import URL

MAX_HEAD = 2**16
"""Bytes of status line and headers."""
MAX_WAITING = 2**18
"""Bytes that wait for a slow reader before the server is made to wait; chosen by hand."""
DRAIN_S = 1.0
"""How long the end of a finished answer is waited for, so that its connection can be used again; chosen by hand."""
KEEP_S = 55.0
"""Seconds that an idle connection is kept; below the 60 s after which common proxies close theirs."""


class Failed(Exception):
    """An attempt that did not work; the text completes "model server 'http://…' …"."""

    def __init__(self, what: str, *, status: int = 0, again: bool = False, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.status = status
        """As in ModelUnavailable."""
        self.again = again
        """Nothing of an answer was seen: another attempt may work."""
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds; the names are those of the keys in the stack file."""

    timeout_s: float
    connect_timeout_s: float
    idle_timeout_s: float


class Wire(asyncio.Protocol):
    """Carries one exchange at a time. All that goes wrong is kept until it is asked for, behind what came before."""

    def __init__(self, patience: Patience, pool: "Pool") -> None:
        self._loop = asyncio.get_running_loop()
        self._patience = patience
        self._pool = pool
        """Where it lies between exchanges."""
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._error: Failed | None = None
        self._active = False
        self.used = False
        """Carried an exchange before."""
        self.since = 0.0
        self._clear()

    def _clear(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """Names in lower case."""
        self._headed = self.ended = self._left = self._paused = self._until_close = self._reusable = False
        self._parts: list[bytes] = []
        self._size = 0
        self._head_size = 0

    # ------------------------------------------------------------ what the asker calls

    def send(self, request: bytes, deadline: float, *, patient: bool) -> None:
        """Begins an exchange that ends by `deadline` (on the loop's clock); `patient` waits all that time for the first
        byte."""
        self._clear()
        self._active = True
        self._deadline = deadline
        self._seen = deadline if patient else self._loop.time()
        self._transport.write(request)
        self._watch()

    async def head(self) -> None:
        """Waits for status and headers. Raises Failed."""
        while not self._headed:
            if self._error:
                raise self._error
            await self._wait()

    async def read(self) -> bytes:
        """The next bytes of the body; none at its end. Raises Failed."""
        while not self._parts:
            if self.ended:
                return b""
            if self._error:
                raise self._error
            await self._wait()
        part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._seen = self._loop.time()
            self._transport.resume_reading()
        return part

    def leave(self, *, finished: bool) -> None:
        """The asker needs it no more. A connection whose answer has been read goes back to the idle ones, at once or
        when the last bytes of a `finished` one arrive; any other is closed, so that the server stops."""
        self._left = True
        if self.ended:
            self._rest()
        elif finished and not self._error:
            self._pool.leaving.add(self)
            self._deadline = min(self._deadline, self._loop.time() + DRAIN_S)
            self._watch()
        else:
            self.close()

    def close(self) -> None:
        self._active = False
        self._pool.leaving.discard(self)
        self._unwatch()
        self._transport.abort()

    @property
    def open(self) -> bool:
        return self._error is None and not self._transport.is_closing()

    # ------------------------------------------------------------ waiting, no longer than agreed

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _watch(self) -> None:
        """One timer: it looks when the last byte came, instead of starting anew with each, and what was set for one
        exchange is early enough for the next."""
        at = min(self._deadline, self._seen + self._patience.idle_timeout_s)
        if self._timer is not None and self._due <= at:
            return
        self._unwatch()
        self._due = at
        self._timer = self._loop.call_at(at, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if not self._active:
            return
        now = self._loop.time()
        if self._paused:
            self._seen = now
        if now >= self._deadline:
            self._fail(f"did not finish within {self._patience.timeout_s:g} s (timeout_s)", status=504)
        elif now >= self._seen + self._patience.idle_timeout_s:
            self._fail(f"sent nothing for {self._patience.idle_timeout_s:g} s (idle_timeout_s)", status=504)
        else:
            self._watch()

    def _fail(self, what: str, *, status: int = 0, again: bool = False) -> None:
        if self._error is None:
            self._error = Failed(what, status=status, again=again)
        self.close()
        self._wake()

    def _rest(self) -> None:
        keep = self.open and self._reusable and self._pool.open
        self._pool.leaving.discard(self)
        self._active = False
        self.used = True
        if keep:
            self.since = self._loop.time()
            self._pool.idle.append(self)
        else:
            self._unwatch()
            self._transport.close()
        self._pool.forget(self._loop.time() - KEEP_S)

    # ------------------------------------------------------------ what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from asyncio's

    def data_received(self, data: bytes) -> None:
        if not self._active:  # nobody asked for it: a server that says why it closes
            self.close()
            return
        self._seen = self._loop.time()
        if not self._headed:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("sent something that is not HTTP")
            return
        if not self._headed and self._head_size > MAX_HEAD:
            self._fail("sent headers that do not end")
            return
        if self._size > MAX_WAITING and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()
        if self.ended and self._left:
            self._rest()

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._pool.idle:
            self._pool.idle.remove(self)
        if self._active and not self.ended:
            if self._headed and self._until_close and error is None:
                self.ended = True
                self._wake()
            elif self._headed:
                self._fail("dropped the connection in mid-answer")
            else:
                self._fail("closed the connection without an answer", again=True)
        self._unwatch()

    # ------------------------------------------------------------ what the parser calls

    def on_message_begin(self) -> None:
        if self.ended:
            raise ValueError("two answers to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:  # `100 Continue` and the like: the answer is still to come
            self.headers = {}
            return
        self._headed = True
        sized = b"content-length" in self.headers or b"chunked" in self.headers.get(b"transfer-encoding", b"").lower()
        self._until_close = not sized

    def on_body(self, body: bytes) -> None:
        if not self._left:
            self._parts.append(body)
            self._size += len(body)

    def on_message_complete(self) -> None:
        if self._headed:
            self.ended = True
            self._reusable = self._parser.should_keep_alive()


# ---------------------------------------------------------------- connections that are kept


@dataclass(slots=True)
class Pool:
    """The connections of one event loop that nobody uses, the latest last."""

    idle: list[Wire] = field(default_factory=list)
    leaving: set[Wire] = field(default_factory=set)
    """Those whose last bytes are awaited."""
    open: bool = True

    def forget(self, before: float) -> None:
        """Closes what nobody has needed since then: after a rush there are more than are used again."""
        while self.idle and self.idle[0].since < before:
            self.idle.pop(0).close()


class Wires:
    """Connections to one server. A loop that ends closes its own, even when nobody called `aclose`."""

    def __init__(self, url: URL, patience: Patience) -> None:
        self._url = url
        self._patience = patience
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Pool, AsyncGenerator[Pool, None]]]
        self._pools = WeakKeyDictionary()

    async def take(self, deadline: float, *, fresh: bool = False) -> Wire:
        """A connection that was kept, else, or with `fresh`, a new one. Raises Failed."""
        loop = asyncio.get_running_loop()
        pool = await self._pool(loop)
        now = loop.time()
        while pool.idle and not fresh:
            wire = pool.idle.pop()
            if wire.open and now - wire.since < KEEP_S:
                return wire
            wire.close()
        return await self._connect(pool, loop, deadline - now)

    async def aclose(self) -> None:
        """Closes what nobody uses, on the running loop; what is in use closes when it has been used."""
        _, keeper = self._pools.pop(asyncio.get_running_loop(), (None, None))
        if keeper is not None:
            await keeper.aclose()

    async def _pool(self, loop: asyncio.AbstractEventLoop) -> Pool:
        found = self._pools.get(loop)
        if found is None:
            keeper = _keep()
            found = self._pools[loop] = (await anext(keeper), keeper)
        return found[0]

    async def _connect(self, pool: Pool, loop: asyncio.AbstractEventLoop, left: float) -> Wire:
        limit = self._patience.connect_timeout_s
        try:
            async with asyncio.timeout(max(min(limit, left), 0.001)):
                return await self._open(pool, loop)
        except (OSError, ValueError, RuntimeError) as error:  # uvloop raises RuntimeError too
            if isinstance(error, TimeoutError) and left <= limit:
                raise Failed(f"did not finish within {self._patience.timeout_s:g} s (timeout_s)", status=504) from None
            status = 504 if isinstance(error, TimeoutError) else 0
            raise Failed(f"cannot be reached{self._why(error)}", status=status, again=True) from None

    async def _open(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> Wire:
        """Hosts with several addresses are tried at all of them, a quarter of a second apart."""
        host, port = self._url.raw_host or "", self._url.port or 0
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        connected = await start_connection(addresses, happy_eyeballs_delay=0.25)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure = _secure() if self._url.scheme == "https" else None
            _, wire = await loop.create_connection(
                lambda: Wire(self._patience, pool),
                sock=connected,
                ssl=secure,
                server_hostname=host if secure else None,
            )
        except BaseException:
            connected.close()
            raise
        return wire

    def _why(self, error: Exception) -> str:
        match error:
            case ssl.SSLError():
                return ": TLS failed"
            case socket.gaierror() | ValueError():
                return ": its host name is not known"
            case TimeoutError():
                return f" within {self._patience.connect_timeout_s:g} s (connect_timeout_s)"
            case OSError(errno=int(number)):
                return f": {os.strerror(number).lower()}"
        return ": connection failed"


async def _keep() -> AsyncGenerator[Pool, None]:
    """A generator, because a loop that ends closes its open generators."""
    pool = Pool()
    try:
        yield pool
    finally:
        pool.open = False
        for wire in (*pool.idle, *pool.leaving):
            wire.close()
        await asyncio.sleep(0)  # connections close on the loop's next turn


@cache
def _secure() -> ssl.SSLContext:
    return ssl.create_default_context()

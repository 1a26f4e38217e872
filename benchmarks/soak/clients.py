"""Many clients at once, each with thoughts between its requests, and a record of everything that they got."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, cast

import httptools

from benchmarks.soak import answers
from benchmarks.soak.script import BROKEN, ENDLESS, FORBIDDEN, GOOD, MARKER, STOPPED, Script

PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
PATIENCE_S = 40.0
"""Far longer than the gateway may take."""
REQUESTS_OF_A_CONNECTION = 8
"""At most; else all clients would end up at the worker that lives longest."""
SCRIPTS = {**dict.fromkeys(GOOD, 0.04), "plain": 0.54, **dict.fromkeys(STOPPED, 0.05),
           **dict.fromkeys(BROKEN, 0.02), ENDLESS: 0.02}  # fmt: skip
"""How often each is asked for."""
FORBIDDEN_SHARE, WRONG_SHARE, LEAVING_SHARE = 0.05, 0.01, 0.06

Kind = Literal["asks", "forbidden", "wrong json", "wrong key"]
How = Literal["whole", "left", "broken", "stuck", "malformed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Clients that share a way to behave and one of a few keys."""

    name: str
    secrets: Sequence[str]
    size: int
    think_s: float
    """Mean seconds between an answer and the next request."""
    steady: bool = False
    """Only asks for good answers, and waits for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request."""

    script: Script
    route: str
    stream: bool
    kind: Kind = "asks"
    leaves: float | None = None
    """Seconds after which the client goes away, answered or not; 0: at the first byte of the answer's body."""
    key: int = 0
    """Which of the group's."""


@dataclass(slots=True, kw_only=True)
class Got:
    """What came of it."""

    ask: Ask
    began: float
    """Seconds since 1970, like `ended`."""
    port: int = 0
    """The client's own."""
    ended: float = 0.0
    first_s: float = 0.0
    """Until the first byte of the answer's body."""
    how: How = "broken"
    status: int = 0
    id: str = ""
    """`x-request-id`, once the headers are there."""
    read: answers.Read = field(default_factory=lambda: answers.Read(text=""))
    problem: str = ""
    leaked: bool = False
    """The marker, or what stands behind it, is among the bytes."""


class Connection(asyncio.Protocol):
    """One connection to the gateway. `stray` counts bytes that came when nothing was asked."""

    stray = 0

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[bool] | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.port: int = transport.get_extra_info("sockname")[1]

    def ask(self, request: bytes, leaves: float | None) -> "asyncio.Future[bool]":
        """True when the answer is complete, False when the connection ended before it was."""
        self.parser = httptools.HttpResponseParser(self)
        self.status, self.id, self.kind = 0, "", b""
        self.raw = bytearray()
        self.first = 0.0
        self.leaves = leaves
        self.done = self.loop.create_future()
        self.transport.write(request)
        return self.done

    def data_received(self, data: bytes) -> None:
        if self.done is None or self.done.done():
            Connection.stray += len(data)
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            Connection.stray += len(data)
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self.done is not None and not self.done.done():
            self.done.set_result(False)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-request-id":
            self.id = value.decode()
        elif name == b"content-type":
            self.kind = value

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.first = self.first or time.time()
        self.raw += body
        if self.leaves == 0:
            self.transport.abort()

    def on_message_complete(self) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(True)


class Crowd:
    """The clients of one run, and what they got."""

    def __init__(self, port: int, seed: int, *, pace: float = 1.0, without: Sequence[str] = ()) -> None:
        """`without`: scripts that are not asked for. `pace` as in `upstream`."""
        self.port, self.seed, self.pace = port, seed, pace
        self.scripts = {name: share for name, share in SCRIPTS.items() if name not in without}
        self.got: list[Got] = []
        self.refused = 0
        """Connections that could not be made."""
        self.numbers = itertools.count(seed * 10_000_000 + 1)

    async def run(self, groups: Sequence[Group], seconds: float) -> None:
        """Returns when the last answer has come."""
        until = time.time() + seconds
        clients = [self._client(group, index, until) for group in groups for index in range(group.size)]
        await asyncio.gather(*clients)

    async def _client(self, group: Group, index: int, until: float) -> None:
        draw = Random(f"{self.seed} {group.name} {index}")
        await asyncio.sleep(draw.uniform(0, group.think_s))
        names = self._names(draw, group, index)
        while time.time() < until:
            connection = await self._connected()
            for _ in range(draw.randint(1, REQUESTS_OF_A_CONNECTION)):
                if connection is None or not connection.open or time.time() >= until:
                    break
                await self.exchange(connection, group, self._ask(draw, group, next(names)))
                await asyncio.sleep(draw.uniform(0.5, 1.5) * group.think_s)
            if connection is None:
                await asyncio.sleep(0.2)
            else:
                connection.transport.close()

    async def _connected(self) -> Connection | None:
        try:
            _, made = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self.port)
        except OSError:
            self.refused += 1
            return None
        return made

    async def one(self, group: Group, ask: Ask) -> Got:
        """A request on a connection of its own."""
        connection = await self._connected()
        if connection is None:
            raise ConnectionRefusedError
        got = await self.exchange(connection, group, ask)
        connection.transport.close()
        return got

    async def exchange(self, connection: Connection, group: Group, ask: Ask) -> Got:
        got = Got(ask=ask, began=time.time(), port=connection.port)
        self.got.append(got)
        answered = connection.ask(request(ask, group.secrets[ask.key], self.port), ask.leaves)
        try:
            async with asyncio.timeout(ask.leaves or PATIENCE_S):
                complete = await answered
        except TimeoutError:
            complete = False
            got.how = "left" if ask.leaves else "stuck"
            connection.transport.abort()
        got.ended = time.time()
        if not complete and ask.leaves == 0 and connection.first:
            got.how = "left"
        self._note(got, connection, complete)
        return got

    def _note(self, got: Got, connection: Connection, complete: bool) -> None:
        got.status, got.id = connection.status, connection.id
        got.first_s = connection.first - got.began if connection.first else 0.0
        got.leaked = any(secret in connection.raw for secret in (MARKER.encode(), b"leak"))
        if complete:
            got.how = "whole"
        try:
            if connection.kind.startswith(b"text/event-stream"):
                got.read = answers.stream(got.ask.route, bytes(connection.raw), ended=complete)
            elif complete:
                got.read = answers.whole(got.ask.route, bytes(connection.raw))
        except answers.Malformed as error:
            got.how, got.problem = "malformed", str(error)

    def _names(self, draw: Random, group: Group, index: int) -> Iterator[str]:
        """Of scripts. Each client begins with another one, so that even a short run leaves none out."""
        names = GOOD if group.steady else tuple(self.scripts)
        yield names[index % len(names)]
        while True:
            yield from draw.choices(names, [self.scripts[name] for name in names])

    def _ask(self, draw: Random, group: Group, name: str) -> Ask:
        route, stream = draw.choice(tuple(PATHS)), draw.random() < 0.6
        kind: Kind = "asks" if group.steady else _kind(draw)
        leaves = None if group.steady else _leaves(draw, name, stream, self.pace)
        script = Script(number=next(self.numbers), name=name, group=group.name)
        key = draw.randrange(len(group.secrets))
        return Ask(script=script, route=route, stream=stream, kind=kind, leaves=leaves, key=key)


def _kind(draw: Random) -> Kind:
    chance = draw.random()
    if chance < WRONG_SHARE:
        return "wrong json" if chance < WRONG_SHARE / 2 else "wrong key"
    return "forbidden" if chance < WRONG_SHARE + FORBIDDEN_SHARE else "asks"


def _leaves(draw: Random, name: str, stream: bool, pace: float) -> float | None:
    """`Ask.leaves`."""
    if name != ENDLESS and draw.random() >= LEAVING_SHARE:
        return None
    return 0 if stream and draw.random() < 0.3 else pace * draw.uniform(0.01, 3)


def body(ask: Ask) -> bytes:
    word = f" And a {FORBIDDEN}, please." if ask.kind == "forbidden" else ""
    turns = [{"role": "user", "content": f"Which vegetables grow in this row? {ask.script.tag}{word}"}]
    who = person(ask.script.number)
    more = {"input": turns, "safety_identifier": who}
    if ask.route == "messages":
        more = {"messages": turns, "max_tokens": 200, "metadata": {"user_id": who}}  # type: ignore[dict-item]
    elif ask.route == "chat":
        more = {"messages": turns, "safety_identifier": who}
    data = json.dumps({"model": "tiny", "stream": ask.stream, **more}).encode()
    return data[:-9] if ask.kind == "wrong json" else data


def person(number: int) -> str:
    """Names the request in the ledger."""
    return f"request-{number}"


def request(ask: Ask, secret: str, port: int) -> bytes:
    data = body(ask)
    secret = "sk-as-wrong" if ask.kind == "wrong key" else secret
    head = f"POST {PATHS[ask.route]} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}authorization: Bearer {secret}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


def asks(crowd: Crowd, name: str, count: int, *, stream: bool = True) -> Iterator[Ask]:
    """Requests for one script, on all routes in turn."""
    for index in range(count):
        script = Script(number=next(crowd.numbers), name=name, group="free")
        yield Ask(script=script, route=tuple(PATHS)[index % 3], stream=stream)

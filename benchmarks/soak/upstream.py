"""A model server that does everything a model server should not do. Each request says what it wants, see `script`.

    python upstream.py PORT [PACE]

`GET /seen` answers with what came so far, as one JSON object. Idle connections are closed after `KEEP_S`. All pauses,
and `KEEP_S`, are multiplied by PACE.
"""

import asyncio
import json
import socket
import struct
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import httptools
import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))  # started as a program, it still belongs to the package
from benchmarks.soak.script import ENDLESS, Script, asked

KEEP_S = 4.0
"""Shorter than the gateway keeps them: a request may meet a connection that is just being closed."""
STREAM = (b'"stream":true', b'"stream": true')
JSON = b"content-type: application/json\r\n"
EVENTS = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STATUS = {"busy": (b"429 Too Many Requests", b"retry-after: 0.3\r\n"), "fail500": (b"500 Oops", b""),
          "fail503": (b"503 Overloaded", b"")}  # fmt: skip


@dataclass(kw_only=True)
class Seen:
    """What came so far."""

    pace: float = 1.0
    numbers: Counter[int] = field(default_factory=Counter)
    """How often each request came."""
    open: int = 0
    """Connections."""
    running: Counter[str] = field(default_factory=Counter)
    peak: Counter[str] = field(default_factory=Counter)
    """Of each group: requests under way, and the most there ever were."""

    def begin(self, script: Script) -> None:
        self.numbers[script.number] += 1
        self.running[script.group] += 1
        self.peak[script.group] = max(self.peak[script.group], self.running[script.group])

    def end(self, script: Script) -> None:
        self.running[script.group] -= 1

    def json(self, **more: Any) -> bytes:
        return json.dumps({"numbers": self.numbers, "open": self.open, "peak": self.peak, **more}).encode()


class Connection(asyncio.Protocol):
    """One client, one request at a time."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""
        self.task: asyncio.Task[None] | None = None
        self.idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.seen.open += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.seen.open -= 1
        if self.task is not None:
            self.task.cancel()
        if self.idle is not None:
            self.idle.cancel()

    def data_received(self, data: bytes) -> None:
        if self.idle is not None:
            self.idle.cancel()
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        script = asked(self.body)
        if self.parser.get_method() == b"GET" or script is None:
            self.say(b"200 OK", self.seen.json())
        else:
            self.task = asyncio.ensure_future(self.run(script, any(mark in self.body for mark in STREAM)))

    async def run(self, script: Script, stream: bool) -> None:
        self.seen.begin(script)
        try:
            await Answer(self, script).give(stream)
        finally:
            self.seen.end(script)
        if not self.transport.is_closing():
            self.idle = self.loop.call_later(KEEP_S * self.seen.pace, self.transport.close)

    def say(self, status: bytes, body: bytes, head: bytes = JSON, *, short: int = 0) -> None:
        """`short`: bytes that are promised and do not come."""
        size = b"content-length: %d\r\n\r\n" % (len(body) + short)
        self.transport.write(b"HTTP/1.1 %b\r\n%b%b%b" % (status, head, size, body))

    def reset(self) -> None:
        """The other side reads `connection reset`, not the end of the connection."""
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Answer:
    """One answer on one connection."""

    def __init__(self, connection: Connection, script: Script) -> None:
        self.connection, self.script = connection, script
        self.draw = Random(script.number)
        self.names = {"id": f"up-{script.number}", "created": 1_700_000_000, "model": "tiny"}

    async def give(self, stream: bool) -> None:
        connection, name = self.connection, self.script.name
        if name == "late":
            await self.wait(self.draw.uniform(0.1, 1.5))
        match name:
            case "reset_early":
                connection.reset()
            case "garbage":
                connection.transport.write(self.draw.randbytes(300))
            case "hang":
                await self.wait(60)
            case "busy" | "fail500" | "fail503":
                status, head = STATUS[name]
                connection.say(status, b'{"error":{"message":"not now"}}', JSON + head)
            case _:
                await (self.stream() if stream else self.whole())

    async def whole(self) -> None:
        """One JSON object, or what is left of it."""
        name = self.script.name
        if name in ("slow", ENDLESS):
            await self.wait(60 if name == ENDLESS else self.draw.uniform(1, 3))
        text = "" if name == ENDLESS else self.script.whole
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": len(text.split()), "total_tokens": 9 + len(text.split())}
        body = json.dumps({**self.names, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        match name:
            case "reset_head" | "reset_mid":
                self.connection.say(b"200 OK", body[: len(body) // 2 if name == "reset_mid" else 0], short=len(body))
                await asyncio.sleep(0.02)
                self.connection.reset()
            case "noise" | "bad_sse":
                self.connection.say(b"200 OK", self.draw.randbytes(300))
            case "truncated":
                self.connection.say(b"200 OK", body[: len(body) // 2])
            case _:
                self.connection.say(b"200 OK", body)

    async def stream(self) -> None:
        """Events, and how they go wrong."""
        name, write = self.script.name, self.connection.transport.write
        write(b"HTTP/1.1 200 OK\r\n" + EVENTS)
        if name not in ("reset_head", "noise"):
            for number, piece in enumerate(self.script.pieces()):
                write(self.event({"content": piece}))
                if (pause := self.pause(number)) is not None:
                    await self.wait(pause)
        match name:
            case "reset_head" | "reset_mid":
                await asyncio.sleep(0.02)
                self.connection.reset()
            case "noise":
                write(_chunk(self.draw.randbytes(300) + b"\n\n"))
                write(b"0\r\n\r\n")
            case "truncated":
                write(_chunk(b'data: {"id":"up","choices":[{"index":0,"delta":{"cont\n\n') + b"0\r\n\r\n")
            case "bad_sse":
                write(_chunk(b"this is no event\nat all\n\n") + b"0\r\n\r\n")
            case _:
                write(self.event({}, "stop") + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.connection.seen.pace)

    def pause(self, number: int) -> float | None:
        """Seconds after a piece; pieces between pauses arrive together."""
        if self.script.name == ENDLESS:
            return 0.1
        if self.script.name == "slow":
            return 0.1 + 0.1 * self.draw.random()
        return 0.0 if number % 4 == 0 else None

    def event(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {**self.names, "object": "chat.completion.chunk", "choices": [choice]}
        return _chunk(b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode())


def _chunk(data: bytes) -> bytes:
    """In HTTP's chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(port: int, pace: float) -> None:
    seen = Seen(pace=pace)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(seen), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 1.0))

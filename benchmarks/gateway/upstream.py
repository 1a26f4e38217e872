"""A model server that answers at once, always the same words: what stands behind every gateway that is measured.

    python upstream.py PORT

Every POST is answered with 100 tokens of OpenAI's chat completions, streamed when its body says `"stream": true`. Every
GET lists one model. `GET /pace/MS` sets the pause between two tokens of the streams that begin after it (0 at first).
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import cast

import httptools
import uvloop

TOKENS = ["tok0", *(f" tok{index}" for index in range(1, 100))]
TEXT = "".join(TOKENS)
MARKS = (b'"stream":true', b'"stream": true')


def response(body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)


def chunk(data: bytes) -> bytes:
    """In HTTP's chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {**NAMES, "object": "chat.completion.chunk", "choices": [choice]}
    return chunk(b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode())


NAMES = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "mock"}
USAGE = {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}
MESSAGE = {"role": "assistant", "content": TEXT}
WHOLE = response(
    {
        **NAMES,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
        "usage": USAGE,
    }
)
MODELS = response({"object": "list", "data": [{"id": "mock", "object": "model", "created": 1, "owned_by": "bench"}]})
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM = [
    event({"role": "assistant", "content": TOKENS[0]}),
    *(event({"content": token}) for token in TOKENS[1:]),
    event({}, "stop"),
    chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
]


class Connection(asyncio.Protocol):
    """One client. Requests are answered in turn; nobody here sends the next one before the answer to the last."""

    pause_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.url = self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.url = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.parser.get_method() == b"GET":
            if self.url.startswith(b"/pace/"):
                Connection.pause_s = float(self.url.removeprefix(b"/pace/")) / 1000
            self.transport.write(MODELS)
        elif any(mark in self.body for mark in MARKS):
            self.transport.write(HEAD)
            self.send(STREAM, 0, Connection.pause_s)
        else:
            self.transport.write(WHOLE)

    def send(self, events: Sequence[bytes], index: int, pause_s: float) -> None:
        """One event for each turn of the loop, as a model's tokens come: not many in one packet."""
        if self.transport.is_closing():
            return
        self.transport.write(events[index])
        if index + 1 == len(events):
            return
        if pause_s:
            self.loop.call_later(pause_s, self.send, events, index + 1, pause_s)
        else:
            self.loop.call_soon(self.send, events, index + 1, pause_s)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))

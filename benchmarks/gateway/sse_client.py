"""Reads streams, many at once, and says how fast they were. Prints one JSON document.

    python sse_client.py URL CONCURRENCY SECONDS

No two requests have the same text. A stream is good when its status is 200 and it holds the upstream's last token and
`[DONE]`; all others are counted as bad. The first token is the first *word* of the answer: an event without text, which
some gateways send at once, is none.
"""

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

import uvloop

FIRST, LAST, DONE, END = b"tok0", b"tok99", b"[DONE]", b"0\r\n\r\n"
LONGEST_S = 60.0
TEXT = "Tell me a short story about a gateway that checks every request, and say why it matters. Story {}."


def requests(url: str) -> Iterator[bytes]:
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    head += "authorization: Bearer sk-bench-9f4c1e7a2b8d4f60a3c5e7d9b1f2a4c6\r\n"
    system = {"role": "system", "content": "You are a helpful assistant."}
    for number in itertools.count(time.time_ns() // 1000):
        messages = [system, {"role": "user", "content": TEXT.format(number)}]
        body = json.dumps({"model": "mock", "stream": True, "messages": messages, "max_tokens": 128})
        yield f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


class Stream(asyncio.Protocol):
    """One connection, used for one stream after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[bool] | None = None

    def ask(self, request: bytes) -> "asyncio.Future[bool]":
        """True when the stream was good."""
        self.seen: list[bytes] = []
        self.first_s = 0.0
        self.ended = self.loop.create_future()
        self.began = time.perf_counter()
        self.transport.write(request)
        return self.ended

    def data_received(self, data: bytes) -> None:
        self.seen.append(data)
        if not self.first_s and FIRST in b"".join(self.seen):
            self.first_s = time.perf_counter() - self.began
        if data.endswith(END) or (len(data) < len(END) and b"".join(self.seen).endswith(END)):
            self._end(b"".join(self.seen))

    def connection_lost(self, error: Exception | None) -> None:
        self._end(b"")

    def _end(self, text: bytes) -> None:
        if self.ended and not self.ended.done():
            self.ended.set_result(text.startswith(b"HTTP/1.1 200") and LAST in text and DONE in text)


class Times:
    def __init__(self) -> None:
        self.first: list[float] = []
        self.total: list[float] = []
        self.bad = 0


async def ask_until(end: float, url: str, texts: Iterator[bytes], times: Times) -> None:
    connection: Stream | None = None
    while time.perf_counter() < end:
        connection = connection or await connected(url)
        try:
            good = await asyncio.wait_for(connection.ask(next(texts)), LONGEST_S)
        except TimeoutError:
            good = False
        if good:
            times.first.append(connection.first_s)
            times.total.append(time.perf_counter() - connection.began)
        else:
            times.bad += 1
            connection.transport.close()
            connection = None


async def connected(url: str) -> Stream:
    parts = urlsplit(url)
    _, stream = await asyncio.get_running_loop().create_connection(Stream, parts.hostname or "", parts.port or 80)
    return stream


async def measure(url: str, concurrency: int, seconds: float) -> dict[str, float]:
    times, texts = Times(), requests(url)
    began = time.perf_counter()
    await asyncio.gather(*(ask_until(began + seconds, url, texts, times) for _ in range(concurrency)))
    took = time.perf_counter() - began
    return {
        "n": len(times.total),
        "seconds": took,
        "bad": times.bad,
        **quantiles("first", times.first),
        **quantiles("total", times.total),
    }


def quantiles(name: str, seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    if len(seconds) < 2:
        return {f"{name}_p50_ms": 1000 * sum(seconds), f"{name}_p99_ms": 1000 * sum(seconds)}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"{name}_p50_ms": 1000 * cuts[49], f"{name}_p99_ms": 1000 * cuts[98]}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))))

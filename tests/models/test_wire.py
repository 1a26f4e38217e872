"""Connections to model servers: when they are used again, and what a server may do to them."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest
import uvloop

from alignstack.core.errors import ModelUnavailable
from alignstack.core.messages import user
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.models import wire
from alignstack.models.openai_http import OpenAIHTTP, OpenAIHTTPConfig
from tests.models.servers import chunk, head, raw_server

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def model(url: str, **keys: object) -> OpenAIHTTP:
    return OpenAIHTTP(OpenAIHTTPConfig.model_validate({"base_url": url, "model": "m", "max_retries": 0, **keys}))


def piece(data: bytes) -> bytes:
    """One chunk of HTTP's."""
    return b"%x\r\n%b\r\n" % (len(data), data)


ANSWER = STREAM + piece(chunk("x", "stop")) + piece(DONE)


async def ask(client: OpenAIHTTP) -> str:
    items = [item async for item in client.stream(user("hi"), Sampling())]
    assert isinstance(items[-1], Finish)
    return "".join(item.text for item in items if isinstance(item, Delta))


async def kept(client: OpenAIHTTP, number: int) -> None:
    """Waits until so many idle connections are kept."""
    pool = await client._server.wires._pool(asyncio.get_running_loop())
    for _ in range(2000):
        if len(pool.idle) == number:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{len(pool.idle)} connections are kept")


Serve = Callable[[int, int, asyncio.StreamWriter], Coroutine[None, None, None]]
"""Is told which connection this is, and which request on it."""


@asynccontextmanager
async def keeping(serve: Serve) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that keeps connections; the list holds the number of requests on each."""
    counts: list[int] = []

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(counts)
        counts.append(0)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.split(b":")[1]))
                counts[number] += 1
                await serve(number, counts[number], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", counts


async def test_a_connection_whose_answer_was_read_is_used_again() -> None:
    async def serve(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER + END)

    async with keeping(serve) as (url, counts):
        client = model(url)
        assert [await ask(client) for _ in range(3)] == ["x", "x", "x"]
        assert counts == [3]
        await client.aclose()


async def test_connections_of_a_rush_are_closed_once_nobody_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(number: int, _: int, writer: asyncio.StreamWriter) -> None:
        if number == 4:
            rush.set()
        await rush.wait()
        writer.write(ANSWER + END)

    rush = asyncio.Event()
    async with keeping(serve) as (url, _):
        client = model(url)
        await asyncio.gather(*(ask(client) for _ in range(5)))
        await kept(client, 5)
        monkeypatch.setattr(wire, "KEEP_S", 0.2)
        for _ in range(30):
            await ask(client)
            await asyncio.sleep(0.01)
        await kept(client, 1)
        await client.aclose()


async def test_the_end_of_a_finished_answer_may_come_later() -> None:
    """The answer is complete with `[DONE]`; nobody waits for the rest, and the connection is kept when it has come."""
    ended = asyncio.Event()

    async def serve(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER)
        await ended.wait()
        writer.write(piece(b": bye\n\n") + END)

    async with keeping(serve) as (url, counts):
        client = model(url)
        assert await ask(client) == "x"
        ended.set()
        await kept(client, 1)
        assert await ask(client) == "x"
        assert counts == [2]
        await client.aclose()


async def test_an_answer_whose_end_never_comes_gives_its_connection_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "DRAIN_S", 0.05)
    closed = asyncio.Event()

    async def serve(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER)
        try:
            await asyncio.sleep(0.02)
            while not writer.transport.is_closing():
                writer.write(piece(b": more\n\n"))
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    async with keeping(serve) as (url, counts):
        client = model(url)
        assert await ask(client) == "x"
        await asyncio.wait_for(closed.wait(), 5)
        assert await ask(client) == "x"
        assert counts == [1, 1]
        await client.aclose()


async def test_a_kept_connection_that_the_server_closes_as_it_is_used_costs_no_attempt() -> None:
    async def serve(_: int, request: int, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER + END) if request == 1 else writer.close()

    async with keeping(serve) as (url, counts):
        client = model(url)
        assert [await ask(client) for _ in range(2)] == ["x", "x"]
        assert counts == [2, 1]
        await client.aclose()


async def test_connections_that_the_server_closed_are_not_used() -> None:
    async def serve(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER + END)
        writer.close()

    async with keeping(serve) as (url, counts):
        client = model(url)
        assert await ask(client) == "x"
        await kept(client, 0)
        assert await ask(client) == "x"
        assert counts == [1, 1]
        await client.aclose()


async def test_old_connections_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "KEEP_S", 0.0)

    async def serve(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER + END)

    async with keeping(serve) as (url, counts):
        client = model(url)
        assert [await ask(client) for _ in range(2)] == ["x", "x"]
        assert counts == [1, 1]
        await client.aclose()


@pytest.mark.parametrize("extra", [b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n", b"noise"])
async def test_words_that_nobody_asked_for_never_reach_the_next_answer(extra: bytes) -> None:
    async def serve(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER + END)
        await asyncio.sleep(0.02)
        writer.write(extra)

    async with keeping(serve) as (url, counts):
        client = model(url)
        assert await ask(client) == "x"
        await kept(client, 0)
        assert await ask(client) == "x"
        assert counts == [1, 1]
        await client.aclose()


async def test_two_answers_to_one_request_are_one_answer_and_a_closed_connection() -> None:
    second = STREAM + piece(chunk("SECOND", "stop")) + END

    async def serve(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER + END + second)

    async with keeping(serve) as (url, counts):
        client = model(url)
        assert [await ask(client) for _ in range(2)] == ["x", "x"]
        assert counts == [1, 1]
        await client.aclose()


async def test_an_interim_response_is_not_the_answer() -> None:
    async with raw_server(b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, head(), chunk("x", "stop")) as url:
        client = model(url)
        assert await ask(client) == "x"
        await client.aclose()


async def test_a_server_is_made_to_wait_for_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_WAITING", 2**12)
    sent = 0

    async def serve(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM)
        for _ in range(600):
            writer.write(piece(chunk("x" * 10_000)))
            await writer.drain()
            sent += 1
        writer.write(piece(chunk(None, "stop")) + piece(DONE) + END)

    async with keeping(serve) as (url, _):
        client = model(url, idle_timeout_s=0.6)
        stream = client.stream(user("hi"), Sampling())
        await anext(stream)
        await asyncio.sleep(0.9)  # longer than a server may be silent: this silence is the reader's
        assert sent < 600
        rest = [item async for item in stream]
        assert len(rest) == 600 and isinstance(rest[-1], Finish)
        await client.aclose()


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ([b"HTTP/1.1 200 OK\r\n" + b"X-Noise: abcdefgh\r\n" * 9000], "sent headers that do not end"),
        ([b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n"], "compressed"),
    ],
)
async def test_odd_heads_are_refused(parts: list[bytes], what: str) -> None:
    async with raw_server(*parts) as url:
        client = model(url)
        with pytest.raises(ModelUnavailable, match=what):
            await ask(client)
        await client.aclose()


async def test_a_server_without_tls_is_told_apart() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        client = model(f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1")
        with pytest.raises(ModelUnavailable, match="cannot be reached: TLS failed"):
            await ask(client)
        await client.aclose()


async def test_a_connection_that_does_not_come_about_is_given_up_on_early() -> None:
    """A listener whose queue is full answers no handshake."""
    import socket

    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        client = model(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", connect_timeout_s=0.1)
        with pytest.raises(ModelUnavailable, match=r"cannot be reached within 0\.1 s \(connect_timeout_s\)") as caught:
            await ask(client)
        await client.aclose()
    assert caught.value.status == 504


async def test_address_query_and_password_are_sent_as_they_stand() -> None:
    asked: list[bytes] = []
    async with raw_server(head(), chunk("x", "stop"), asked=asked) as url:
        client = model(url.replace("http://", "http://me:p%40w@") + "?api-version=1")
        assert await ask(client) == "x"
        await client.aclose()
    lines = asked[0].split(b"\r\n")
    assert lines[0] == b"POST /v1/chat/completions?api-version=1 HTTP/1.1"
    assert b"Host: " + url.split("/")[2].encode() in lines
    assert b"Authorization: Basic " + base64.b64encode(b"me:p@w") in lines


async def test_closing_the_client_while_an_answer_comes_leaves_no_connection_behind() -> None:
    more = asyncio.Event()

    async def serve(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + piece(chunk("x")))
        await more.wait()
        writer.write(piece(chunk("y", "stop")) + piece(DONE) + END)

    async with keeping(serve) as (url, counts):
        client = model(url)
        stream = client.stream(user("hi"), Sampling())
        assert await anext(stream) == Delta(text="x")
        await client.aclose()
        more.set()
        assert [item async for item in stream][0] == Delta(text="y")  # noqa: RUF015
        assert await ask(client) == "xy"
        assert counts == [1, 1]
        await client.aclose()


def test_the_same_on_uvloop() -> None:
    async def scene() -> None:
        async def serve(_: int, request: int, writer: asyncio.StreamWriter) -> None:
            writer.write(ANSWER + END) if request < 3 else writer.close()

        async with keeping(serve) as (url, counts):
            client = model(url)
            assert [await ask(client) for _ in range(4)] == ["x"] * 4
            assert counts == [3, 2]
        async with raw_server(head(), chunk("x"), 5.0) as url:
            with pytest.raises(ModelUnavailable, match="did not finish within"):
                await ask(model(url, timeout_s=0.1))
        with pytest.raises(ModelUnavailable, match="connection refused"):
            await ask(model(url))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())

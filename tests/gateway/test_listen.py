"""Bytes as no HTTP client sends them, to a gateway on a real port."""

import asyncio
import gc
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from alignstack.core.usage import Settled
from alignstack.gateway import listen
from alignstack.gateway.ask import Exchange
from tests.gateway.running import Running, gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE_S = 30.0
"""For what takes milliseconds on a machine with nothing else to do."""
BODY = b'{"messages":[{"role":"user","content":"hi"}]}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
STREAM = BODY[:-1] + b',"stream":true}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SECOND = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
STACK = """
model: {use: scripted, default: fine}
layers: [{use: keyword, name: in1, phase: request, patterns: [phishing]}]
serve: {max_body_bytes: 2048}
"""
HASTY = STACK.replace("serve: {", "serve: {head_seconds: 0.2, body_seconds: 0.2, ")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with started(tmp_path_factory.mktemp("gateway"), STACK) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with started(tmp_path_factory.mktemp("hasty"), HASTY) as running:
        yield running


@asynccontextmanager
async def started(folder: Path, stack: str) -> AsyncIterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNSTACK_HOME", str(folder))
        async with gateway(folder, stack) as running:
            yield running


def post(headers: bytes, body: bytes = BODY, version: bytes = b"1.1") -> bytes:
    return b"POST /v1/chat/completions HTTP/%b\r\nHost: localhost\r\n%b\r\n%b" % (version, headers, body)


def get(path: bytes, headers: bytes = b"Connection: close\r\n", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (method, path, headers)


async def received(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the gateway closes the connection."""
    data = b""
    async with asyncio.timeout(PATIENCE_S):
        try:
            while part := await reader.read(65536):
                data += part
        except ConnectionResetError:
            pass
    return data


async def answers(running: Running, *data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        for part in data:
            writer.write(part)
            await writer.drain()
        return await received(reader)
    finally:
        writer.close()


def statuses(data: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", data)]


SMUGGLED = {
    "both lengths": post(LENGTH + CHUNKED, CHUNKS),
    "both lengths, turned round": post(CHUNKED + LENGTH, CHUNKS),
    "another coding": post(b"Transfer-Encoding: xchunked\r\n", CHUNKS),
    "a coding that is none": post(b"Transfer-Encoding: identity\r\n", CHUNKS),
    "chunked, not last": post(b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    "a coding below chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked\r\n", CHUNKS),
    "two codings": post(CHUNKED + b"Transfer-Encoding: identity\r\n", CHUNKS),
    "two codings, turned round": post(b"Transfer-Encoding: identity\r\n" + CHUNKED, CHUNKS),
    "chunked with a space before the colon": post(b"Transfer-Encoding : chunked\r\n", CHUNKS),
    "chunked behind a vertical tab": post(b"Transfer-Encoding: \x0bchunked\r\n", CHUNKS),
    "chunked on a folded line": post(b"Transfer-Encoding:\r\n chunked\r\n", CHUNKS),
    "chunked in quotes": post(b'Transfer-Encoding: "chunked"\r\n', CHUNKS),
    "chunked with a parameter": post(b"Transfer-Encoding: chunked;q=1\r\n", CHUNKS),
    "chunked and rubbish": post(b"Transfer-Encoding: chunked x\r\n", CHUNKS),
    "an empty coding": post(b"Transfer-Encoding:\r\n" + LENGTH),
    "chunked of HTTP/1.0": post(CHUNKED, CHUNKS, version=b"1.0"),
    "one length twice": post(LENGTH + LENGTH),
    "two lengths": post(LENGTH + b"Content-Length: 5\r\n"),
    "a list of lengths": post(b"Content-Length: 45, 45\r\n"),
    "a length with a plus": post(b"Content-Length: +45\r\n"),
    "a negative length": post(b"Content-Length: -1\r\n"),
    "a hexadecimal length": post(b"Content-Length: 0x2d\r\n"),
    "a length beyond 64 bits": post(b"Content-Length: 18446744073709551661\r\n"),
    "a length with a space": post(b"Content-Length: 4 5\r\n"),
    "a length with an underscore": post(b"Content-Length: 4_5\r\n"),
    "an empty length": post(b"Content-Length:\r\n"),
    "a length on two lines": post(b"Content-Length: 4\r\n 5\r\n"),
    "a length that is none": post(b"Content-Length: five\r\n"),
    "bare line feeds": post(LENGTH).replace(b"\r\n", b"\n"),
    "one bare line feed": post(b"X: y\n" + LENGTH),
    "a bare carriage return": post(b"X: y\rZ: a\r\n" + LENGTH),
    "a folded line": post(b"X: y\r\n more\r\n" + LENGTH),
    "a folded first line": b"GET /v1/models HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a space before the colon": post(b"X : y\r\n" + LENGTH),
    "NUL in a value": post(b"X: a\0b\r\n" + LENGTH),
    "NUL in a name": post(b"X\0Y: ab\r\n" + LENGTH),
    "a line without a colon": post(b"X\r\n" + LENGTH),
    "a header without a name": post(b": y\r\n" + LENGTH),
    "a line feed in a chunk's extension": post(CHUNKED, CHUNKS.replace(b"\r\n", b";a\nb\r\n", 1)),
    "a chunk's size before a line feed": post(CHUNKED, CHUNKS.replace(b"\r\n", b"\n")),
    "a negative size of a chunk": post(CHUNKED, b"-1" + CHUNKS[2:]),
    "a size of a chunk with 0x": post(CHUNKED, b"0x" + CHUNKS),
    "a size of a chunk with a plus": post(CHUNKED, b"+" + CHUNKS),
    "a size of a chunk and a space": post(CHUNKED, CHUNKS.replace(b"\r\n", b" \r\n", 1)),
    "a size of a chunk beyond 64 bits": post(CHUNKED, b"10000000000000000" + CHUNKS),
    "a chunk that is longer than it says": post(CHUNKED, b"5\r\n" + CHUNKS[4:]),
    "a length among the trailers": post(CHUNKED, CHUNKS[:-2] + b"Content-Length: 5\r\n\r\n"),
    "two hosts": get(b"/v1/models", b"Host: elsewhere\r\n"),
    "the same host twice": get(b"/v1/models", b"Host: localhost\r\n"),
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9": b"GET /v1/models HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "http": b"GET /v1/models http/1.1\r\nHost: localhost\r\n\r\n",
    "an unknown method": get(b"/v1/models", method=b"FETCH"),
    "a tunnel": get(b"example.com:80", method=b"CONNECT"),
    "a tunnel to a path": get(b"/v1/models", method=b"CONNECT"),
    "a space in the path": get(b"/v1/ models"),
    "bytes beyond ASCII in the path": get(b"/v1/models\xff"),
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "NULs": bytes(512),
}


@pytest.mark.parametrize("case", SMUGGLED)
async def test_after_a_request_that_can_be_read_in_two_ways_nothing_else_is_read(running: Running, case: str) -> None:
    data = await answers(running, SMUGGLED[case] + SECOND)
    assert statuses(data) == [400]
    assert b"owned_by" not in data and b"choices" not in data


PLAIN = {
    "a length": post(LENGTH),
    "chunks": post(CHUNKED, CHUNKS),
    "chunks, in capitals": post(CHUNKED.upper(), CHUNKS),
    "chunks with extensions": post(CHUNKED, CHUNKS.replace(b"\r\n", b';a=b;c="d"\r\n', 1)),
    "chunks of one byte": post(CHUNKED, b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"),
    "trailers": post(CHUNKED, CHUNKS[:-2] + b"X: y\r\n\r\n"),
    "empty lines before it": b"\r\n\r\n" + post(LENGTH),
    "no content type": post(LENGTH),
    "another content type": post(LENGTH + b"Content-Type: text/plain\r\n"),
    "a content type that is none": post(LENGTH + b"Content-Type: \xff;;,\r\n"),
    "an offer of HTTP/2": post(
        LENGTH + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n"
    ),
    "an offer of web sockets": post(LENGTH + b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
    "an offer, and chunks": post(CHUNKED + b"Connection: upgrade\r\nUpgrade: h2c\r\n", CHUNKS),
}


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("pieces", [1, 7], ids=["at once", "in pieces"])
async def test_other_requests_are_answered_one_after_the_other(running: Running, case: str, pieces: int) -> None:
    data = PLAIN[case] + SECOND
    size = -(-len(data) // pieces)
    found = await answers(running, *(data[at : at + size] for at in range(0, len(data), size)))
    assert statuses(found) == [200, 200]
    assert b'"content":"fine"' in found and b"owned_by" in found


async def test_a_client_that_expects_to_be_asked_for_the_body_is_asked(running: Running) -> None:
    found = await answers(running, post(LENGTH + b"Expect: 100-continue\r\nConnection: close\r\n"))
    assert statuses(found) == [100, 200]


async def test_a_body_of_a_request_that_has_none_is_no_request(running: Running) -> None:
    found = await answers(
        running, get(b"/v1/models", b"Connection: close\r\nContent-Length: %d\r\n" % len(SECOND)) + SECOND
    )
    assert statuses(found) == [200]


async def test_after_the_last_request_of_a_connection_nothing_is_read(running: Running) -> None:
    found = await answers(running, post(LENGTH + b"Connection: close\r\n") + SECOND)
    assert statuses(found) == [200] and b"owned_by" not in found


async def test_old_http_is_answered_and_its_connection_closed(running: Running) -> None:
    for keep in (b"", b"Connection: keep-alive\r\n"):
        found = await answers(running, b"GET /health HTTP/1.0\r\n" + keep + b"\r\n", SECOND)
        assert statuses(found) == [200]


async def test_trailers_are_no_headers(running: Running) -> None:
    """What stands in front has checked the Host and Origin of the head; here it is those that count."""
    evil = CHUNKS[:-2] + b"Origin: http://evil.example\r\n\r\n"
    assert statuses(await answers(running, post(CHUNKED, evil) + SECOND)) == [200, 200]


METHODS = {b"HEAD": 200, b"OPTIONS": 405, b"TRACE": 405, b"DELETE": 405, b"PUT": 405, b"POST": 405}


@pytest.mark.parametrize("method", METHODS)
async def test_methods_that_a_path_does_not_have(running: Running, method: bytes) -> None:
    found = await answers(running, get(b"/v1/models", b"X-Secret: swordfish\r\nConnection: close\r\n", method))
    assert statuses(found) == [METHODS[method]]
    assert b"swordfish" not in found
    assert method != b"HEAD" or found.endswith(b"\r\n\r\n")


PATHS = [
    b"//v1/models", b"/v1//models", b"/v1/models/", b"/v1/../metrics", b"/v1/%2e%2e/metrics", b"/./v1/models",
    b"/v1%2fmodels", b"/v1%2Fmodels", b"/%76%31/models", b"/v1/model%73", b"/v1/models%00", b"/v1/models;x=y",
    b"/v1/models%3f", b"/V1/MODELS", b"/v1\\models", b"/v1/%ff%fe", b"/%c0%ae%c0%ae/metrics", b"/", b"*",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_is_itself_and_no_other_spelling(running: Running, path: bytes) -> None:
    found = await answers(running, get(path))
    assert statuses(found) in ([404], [400])
    assert b"owned_by" not in found and b"# HELP" not in found


async def test_absolute_addresses_are_paths_of_this_gateway(running: Running) -> None:
    assert statuses(await answers(running, get(b"http://elsewhere.example/v1/models"))) == [200]
    assert statuses(await answers(running, get(b"http://elsewhere.example/secret"))) == [404]


@pytest.mark.parametrize("host", [b"elsewhere.example", b"localhost@elsewhere.example", 
                                  b"elsewhere.example\\@localhost",
                                  b"localhost.elsewhere.example", b"127.0.0.1.elsewhere.example", b"localhost/", b"",
                                  b"localhost:80:80", b"local host", b"0x7f.1", b"\xff"])  # fmt: skip
async def test_a_gateway_without_keys_answers_to_no_foreign_name(running: Running, host: bytes) -> None:
    found = await answers(running, b"GET /v1/models HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host)
    assert statuses(found) == [403]


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:1", b"127.0.0.1:80", b"127.9.9.9", b"[::1]:80", b"localhost."]
)
async def test_it_answers_to_its_own(running: Running, host: bytes) -> None:
    found = await answers(running, b"GET /v1/models HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host)
    assert statuses(found) == [200]


@pytest.mark.parametrize("origin", [b"null", b"http://evil.example", b"localhost", b"//localhost", b"ftp://localhost",
                                    b"http://localhost.evil.example", b"http://localhost@evil.example"])  # fmt: skip
async def test_pages_of_other_sites_are_refused(running: Running, origin: bytes) -> None:
    data = await answers(running, post(LENGTH + b"Connection: close\r\nOrigin: " + origin + b"\r\n"))
    assert statuses(data) == [403]


# Space


async def test_a_head_may_have_so_many_bytes_and_no_more(running: Running) -> None:
    assert statuses(await answers(running, get(b"/health", b"A: %b\r\nConnection: close\r\n" % (b"b" * 60_000)))) == [
        200
    ]
    assert statuses(await answers(running, get(b"/health", b"A: %b\r\n" % (b"b" * 66_000)))) == [431]
    assert statuses(await answers(running, get(b"/health?" + b"b" * 66_000))) == [431]


async def test_a_head_may_have_so_many_headers_and_no_more(running: Running) -> None:
    assert statuses(await answers(running, get(b"/health", b"A: b\r\n" * 190 + b"Connection: close\r\n"))) == [200]
    assert statuses(await answers(running, get(b"/health", b"A: b\r\n" * 220))) == [431]


async def poured(running: Running, first: bytes, more: bytes, most: int = 64 * 2**20) -> tuple[int, bytes]:
    """Sends `more` again and again until the gateway closes the connection: how many bytes, and what came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    sent = 0
    try:
        writer.write(first)
        async with asyncio.timeout(PATIENCE_S):
            while sent < most and not reader.at_eof():
                writer.write(more)
                await writer.drain()
                await asyncio.sleep(0)
                sent += len(more)
    except ConnectionError:
        pass
    try:
        return sent, await received(reader)
    finally:
        writer.close()


PIECE = b"x" * 65536
ENDLESS = {
    "path": (b"GET /", PIECE),
    "header": (b"GET / HTTP/1.1\r\nX: ", PIECE),
    "name of a header": (b"GET / HTTP/1.1\r\nX", PIECE),
    "headers": (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 10_000),
    "trailer": (post(CHUNKED, CHUNKS[:-2] + b"X: "), PIECE),
    "trailers": (post(CHUNKED, CHUNKS[:-2]), b"X: y\r\n" * 10_000),
    "extension of a chunk": (post(CHUNKED, b"1;a="), PIECE),
    "chunks of one byte": (post(CHUNKED, b""), b"1;abcdef\r\n{\r\n" * 5000),
    "header of a second request": (post(LENGTH) + b"GET / HTTP/1.1\r\nX: ", PIECE),
}


@pytest.mark.parametrize("case", ENDLESS)
async def test_what_has_no_end_is_not_kept(running: Running, case: str) -> None:
    sent, found = await poured(running, *ENDLESS[case])
    assert sent < 32 * 2**20
    assert set(statuses(found)) <= {200, 400, 413, 431}


TOO_LARGE = {
    "by its length": post(b"Content-Length: 4096\r\n", bytes(4096)),
    "by a length beyond all measure": post(b"Content-Length: 18446744073709551615\r\n", b""),
    "in chunks": post(CHUNKED, b"1000\r\n%b\r\n0\r\n\r\n" % bytes(4096)),
    "in one endless chunk": post(CHUNKED, b"ffffffffffffff\r\n%b" % bytes(4096)),
}


@pytest.mark.parametrize("case", TOO_LARGE)
async def test_a_large_body_is_refused(hasty: Running, case: str) -> None:
    found = await answers(hasty, TOO_LARGE[case] + SECOND)
    assert statuses(found)[0] == 413
    assert json.loads(found.split(b"\r\n\r\n")[1].split(b"HTTP/")[0])["error"]["code"] == "request_too_large"


async def test_a_refused_body_is_read_to_its_end_so_that_the_client_hears_why(running: Running) -> None:
    """A connection that is closed while the client still writes may take the answer with it."""
    size = 4 * 2**20
    found = await answers(running, post(b"Content-Length: %d\r\n" % size, bytes(size)) + SECOND)
    assert statuses(found) == [413, 200]


async def test_a_compressed_body_is_not_read(running: Running) -> None:
    for coding in (b"gzip", b"deflate", b"br", b"zstd", b"gzip, identity", b"\xff"):
        found = await answers(running, post(LENGTH + b"Connection: close\r\nContent-Encoding: %b\r\n" % coding))
        assert statuses(found) == [415]
    found = await answers(running, post(LENGTH + b"Connection: close\r\nContent-Encoding: Identity\r\n"))
    assert statuses(found) == [200]


# Time


async def trickled(hasty: Running, first: bytes, more: bytes) -> bytes:
    """`more` byte by byte, for as long as the gateway takes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty.port)
    writer.write(first)
    reading = asyncio.ensure_future(received(reader))
    try:
        for number in range(len(more)):
            if reading.done():
                break
            writer.write(more[number : number + 1])
            await asyncio.sleep(0.02)
        return await reading
    finally:
        writer.close()


SLOW = {
    "head": (b"GET /v1/models HTTP/1.1\r\n", b"X: y\r\n" * 1000, [408]),
    "first line": (b"", b"GET /" + b"x" * 5000, [408]),
    "body": (post(b"Content-Length: 2000\r\n", b""), b"x" * 1900, [408]),
    "chunks": (post(CHUNKED, b""), b"1\r\nx\r\n" * 1000, [408]),
    "trailers": (post(CHUNKED, CHUNKS[:-2]), b"X: y\r\n" * 1000, [408]),
    "body that nobody wants": (post(LENGTH + b"Origin: http://evil.example\r\n", b""), b"x" * 40, [403]),
    "head of a second request": (post(LENGTH), b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000, [200, 408]),
}


@pytest.mark.parametrize("case", SLOW)
async def test_who_sends_byte_by_byte_is_cut_off(hasty: Running, case: str) -> None:
    first, more, expected = SLOW[case]
    begun = time.monotonic()
    assert statuses(await trickled(hasty, first, more)) == expected
    assert time.monotonic() - begun >= 0.15


async def test_who_says_nothing_is_told_nothing(hasty: Running) -> None:
    begun = time.monotonic()
    assert await answers(hasty) == b""
    assert time.monotonic() - begun >= 0.15


async def test_who_stops_within_a_body_is_cut_off(hasty: Running) -> None:
    assert statuses(await answers(hasty, post(LENGTH, BODY[:5]))) == [408]


async def test_a_connection_that_was_refused_a_body_is_not_kept_waiting_for_it(hasty: Running) -> None:
    assert statuses(await answers(hasty, post(b"Content-Length: 4096\r\n", b"x"))) == [413]


async def test_a_body_that_comes_late_does_not_end_the_connection(hasty: Running) -> None:
    """Refused before it came, as without a key: a 408 later on would look like the answer to the next request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty.port)
    writer.write(post(LENGTH + b"Origin: http://evil.example\r\n", b""))
    assert b" 403 " in await reader.readline()
    writer.write(BODY)
    await asyncio.sleep(0.5)
    writer.write(SECOND)
    found = await received(reader)
    writer.close()
    assert statuses(found) == [200]


async def test_an_answer_that_nobody_takes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "STALL_SECONDS", 0.3)
    long = [{"reply": " ".join(["x" * 500_000] * 20)}]
    stack = f"model: {{use: scripted, replies: {json.dumps(long)}}}\nlayers: []\nstreaming: true\n"
    async with gateway(tmp_path, stack) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
        writer.write(post(b"Content-Length: %d\r\n" % len(STREAM), STREAM))
        ended = await first_end(running)
        found = await received(reader)
        writer.close()
    assert ended.status == "abandoned"
    assert 0 < len(found) < 10_000_000


async def first_end(running: Running) -> Settled:
    for _ in range(int(PATIENCE_S / 0.05)):
        for entry in await running.ledger():
            if isinstance(entry, Settled):
                return entry
        await asyncio.sleep(0.05)
    raise TimeoutError


async def test_who_has_asked_twice_and_goes_away_ends_both(tmp_path: Path) -> None:
    slow = f"model: {{use: scripted, default: {' '.join(['word'] * 200)}, delay_ms: 50}}\nlayers: []\nstreaming: true\n"
    async with gateway(tmp_path, slow) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(post(b"Content-Length: %d\r\n" % len(STREAM), STREAM) + SECOND)
        await reader.readuntil(b"word")
        writer.close()
        ended = await first_end(running)
    assert ended.status == "abandoned" and ended.output_tokens < 200


async def test_so_many_requests_may_wait_and_no_more(tmp_path: Path) -> None:
    async with gateway(tmp_path, "model: {use: scripted, default: a b c, delay_ms: 50}\nlayers: []\n") as running:
        found = await answers(running, post(LENGTH) + get(b"/health", b"") * 50 + SECOND)
        assert statuses(found) == [200] * 52
        assert len(statuses(await answers(running, post(LENGTH) + get(b"/health", b"") * 5000 + SECOND))) < 102


async def test_rubbish_behind_a_request_does_not_get_into_its_answer(tmp_path: Path) -> None:
    slow = "model: {use: scripted, default: one two three four five six, delay_ms: 30}\nlayers: []\nstreaming: true\n"
    async with gateway(tmp_path, slow) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(post(b"Content-Length: %d\r\n" % len(STREAM), STREAM))
        start = await reader.readuntil(b"one")
        writer.write(b"\0rubbish\r\n\r\n")
        found = start + await received(reader)
        writer.close()
    assert statuses(found) == [200]


async def test_the_time_for_a_head_is_that_of_the_stack_file(tmp_path: Path) -> None:
    async with gateway(tmp_path, "model: {use: scripted}\nlayers: []\nserve: {head_seconds: 0.1}\n") as running:
        begun = time.monotonic()
        assert statuses(await answers(running, b"GET /health HTT")) == [408]
        assert time.monotonic() - begun < listen.HEAD_SECONDS


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_the_head_of_an_answer_leaves_with_the_first_piece_of_its_body(running: Running, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        writer.write(post(b"Content-Length: %d\r\n" % len(body), body))
        async with asyncio.timeout(PATIENCE_S):
            first = await reader.read(65536)
        head, _, rest = first.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK") and b"chatcmpl-" in rest
    finally:
        writer.close()


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_nothing_of_a_request_is_left_to_the_garbage_collector(running: Running, body: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        found = await answers(running, post(b"Content-Length: %d\r\nConnection: close\r\n" % len(body), body))
        await asyncio.sleep(0.1)  # the connection closes a moment before the work of the request ends
        left = [thing for thing in gc.get_objects() if isinstance(thing, Exchange)]
    finally:
        gc.enable()
    assert statuses(found) == [200] and not left

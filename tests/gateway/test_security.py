"""What a client controls reaches no header, what is secret reaches no client, and nobody can hold up the others."""

import asyncio
import http.client
import json
import logging
import re
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import BaseModel, ConfigDict

from alignstack.core.errors import Unavailable
from alignstack.core.layer import LayerInfo, Phase, View
from alignstack.core.messages import Message
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.core.verdict import Verdict
from alignstack.gateway.app import _place
from alignstack.store.home import home as home_folder
from alignstack.store.keys import SqliteKeys
from tests.gateway.running import Running, gateway
from tests.models.servers import head, raw_server, server

PATIENCE_S = 30.0
SECRET = "sk-proj-0123456789abcdefghijABCDEFGHIJ"
HEADERS = {
    "date", "server", "content-type", "content-length", "x-request-id", "cache-control", "transfer-encoding", "allow",
    "retry-after", "www-authenticate", "connection",
}  # fmt: skip
ASK = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
SHOWN = {400: 400, 401: 502, 403: 502, 404: 400, 429: 429, 500: 502, 503: 503}
"""What clients are shown of a model server's status."""
HOSTILE = [
    "a\r\nX-Evil: 1",
    "a\nX-Evil: 1",
    "\r\n\r\n<html>",
    "a\0b",
    "\u2028X-Evil: 1",
    "é\u0140\u010d\u010aX-Evil: 1",
]
STACK = """
model: {use: scripted, default: "fine\\r\\nX-Evil: 1"}
streaming: true
layers:
  - {use: keyword, name: in1, phase: request, patterns: [phishing]}
  - {use: keyword, name: out1, phase: output, patterns: [malware]}
"""


def bodies(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests in which every text that a client chooses is `text`."""
    tool = {"id": text[:6], "type": "function", "function": {"name": text[:6], "arguments": text}}
    turns = [{"role": "user", "content": text, "name": text}, {"role": "assistant", "content": text}]
    yield (
        "/v1/chat/completions",
        {
            "model": text,
            "safety_identifier": text,
            "user": text,
            "messages": [*turns, {"role": "assistant", "tool_calls": [tool]}],
            text: text,
        },
    )
    yield "/v1/responses", {"model": text, "input": text, "user": text, "metadata": {text: text}}
    yield (
        "/v1/messages",
        {"model": text, "max_tokens": 9, "messages": turns[:1], "metadata": {"user_id": text}, text: text},
    )
    yield "/v1/moderations", {"model": text, "input": text}


def asking(path: str, text: str, *, stream: bool = False) -> dict[str, Any]:
    asked = {"input": text} if path.endswith("responses") else {"messages": [{"role": "user", "content": text}]}
    return {**asked, "stream": stream, **({"max_tokens": 9} if path.endswith("messages") else {})}


async def head_of(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, str]:
    async with session.post(url, json=body) as answer:
        assert answer.status < 500
        await answer.read()
        return {name.lower(): value for name, value in answer.headers.items()}


async def test_texts_of_clients_and_models_reach_no_header(tmp_path: Path) -> None:
    async with gateway(tmp_path, STACK) as running, aiohttp.ClientSession() as session:
        for text, stream in product(HOSTILE, (False, True)):
            for path, body in bodies(text):
                found = await head_of(session, running.url + path, {**body, "stream": stream})
                assert set(found) <= HEADERS
                assert re.fullmatch("[0-9a-f]{32}", found["x-request-id"])


async def test_model_servers_are_sent_the_same_head_whatever_the_client_says(tmp_path: Path) -> None:
    asked: list[bytes] = []
    said = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'
    async with raw_server(
        head("application/json").replace(b"\r\n\r\n", b"\r\nX-Evil: 1\r\n\r\n") + said, asked=asked
    ) as url:
        model = f"{{use: openai_http, base_url: '{url}', model: tiny, any_model: true, max_retries: 0}}"
        async with gateway(tmp_path, f"model: {model}\nlayers: []\n") as running, aiohttp.ClientSession() as session:
            for text in ["plain", *HOSTILE]:
                for path, body in list(bodies(text))[:3]:
                    headers = {"x-request-id": "mine", "x-forwarded-for": "1.2.3.4", "openai-organization": "x"}
                    async with session.post(running.url + path, json=body, headers=headers) as answer:
                        assert set(map(str.lower, answer.headers)) <= HEADERS
                        assert answer.headers["x-request-id"] != "mine"
    assert len(asked) == 3 * (1 + len(HOSTILE))
    assert len({re.sub(rb"Content-Length: \d+", b"", one) for one in asked}) == 1


METADATA = "http://[::ffff:a9fe:a9fe]/latest/meta-data/"
POINTED = {
    "/v1/chat/completions": {"type": "image_url", "image_url": {"url": METADATA}},
    "/v1/responses": {"type": "input_image", "image_url": METADATA},
    "/v1/messages": {"type": "image", "source": {"type": "url", "url": METADATA}},
}


@pytest.mark.parametrize("path", ASK)
async def test_no_model_server_is_pointed_at_the_network_it_stands_in(tmp_path: Path, path: str) -> None:
    asked: list[bytes] = []
    async with raw_server(asked=asked) as url:
        model = f"{{use: openai_http, base_url: '{url}', model: tiny, max_retries: 0}}"
        async with gateway(tmp_path, f"model: {model}\nlayers: []\n") as running, aiohttp.ClientSession() as session:
            turn = {"role": "user", "content": [POINTED[path]]}
            body = {"max_tokens": 9, "messages": [turn]} if path != "/v1/responses" else {"input": [turn]}
            async with session.post(running.url + path, json=body) as answer:
                assert answer.status == 400
                assert "public" in (await answer.json())["error"]["message"]
    assert not asked


# Secrets


class LeakyConfig(BaseModel):
    """Keys in the stack file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LeakyModelConfig(LeakyConfig):
    at_once: bool = False
    """Fails before it streams anything."""


class LeakyLayer:
    """Says too much when it fails."""

    Config = LeakyConfig

    def __init__(self, config: LeakyConfig, *, name: str, phase: Phase | None, **others: Any) -> None:
        self.info = LayerInfo(name=name, use="leaky", phases=(phase or "request",), kind="veto", version="1")

    async def check(self, view: View) -> Verdict:
        raise RuntimeError(f"could not log in with {SECRET}")


class LeakyModel:
    """The same of a model."""

    Config = LeakyModelConfig
    name = "leaky"
    version = "1"

    def __init__(self, config: LeakyModelConfig, *, base: Path = Path()) -> None:
        self.at_once = config.at_once

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        if self.at_once:
            raise RuntimeError(f"could not log in with {SECRET}")
        return self._stream()

    async def _stream(self) -> AsyncIterator[Delta | Finish]:
        yield Delta(text="Well")
        raise RuntimeError(f"could not log in with {SECRET}")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "leaky-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    points = (f"[alignstack.{group}s]\nleaky = {__name__}:Leaky{group.title()}\n" for group in ("layer", "model"))
    (info / "entry_points.txt").write_text("".join(points))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


LEAKY = {
    "layer that blocks": "model: {use: scripted}\nlayers: [{use: leaky, on_error: block}]\n",
    "layer that allows": "model: {use: scripted}\nlayers: [{use: leaky, on_error: allow}]\n",
    "output layer": "model: {use: scripted}\nlayers: [{use: leaky, phase: output}]\n",
    "shadow": "model: {use: scripted}\nlayers: [{use: leaky, mode: shadow}]\n",
    "model": "model: {use: leaky}\nlayers: []\n",
    "model that does not begin": "model: {use: leaky, at_once: true}\nlayers: []\n",
    "streamed model": "model: {use: leaky}\nlayers: []\nstreaming: true\n",
}


@pytest.mark.parametrize("case", LEAKY)
async def test_what_a_part_says_when_it_fails_reaches_nobody_outside(
    tmp_path: Path, plugin: None, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    caplog.set_level(logging.DEBUG)
    async with gateway(tmp_path, LEAKY[case]) as running, aiohttp.ClientSession() as session:
        for path, body in bodies("hi"):
            for stream in (False, True):
                async with session.post(running.url + path, json={**body, "stream": stream}) as answer:
                    said = await answer.read()
                assert (
                    b"log in" not in said
                    and SECRET.encode() not in said
                    and b"Error" not in said.replace(b"RuntimeError", b"RuntimeError")
                )
        kept = repr(await running.traces()) + repr(await running.ledger())
    assert SECRET not in kept
    assert SECRET not in caplog.text and "log in" not in caplog.text


async def test_keys_are_written_down_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture, home: Path) -> None:
    caplog.set_level(logging.DEBUG)
    _, secret = SqliteKeys().add("one")
    sent = [f"Bearer {secret}", f"Bearer {SECRET}", f"Basic {SECRET}", SECRET, "Bearer", "Bearer \xff" + SECRET]
    async with gateway(tmp_path, STACK) as running, aiohttp.ClientSession() as session:
        said = ""
        for header in ("Authorization", "x-api-key"):
            for value in [*sent, secret]:
                for path, body in bodies(f"my key is {secret}"):
                    async with session.post(running.url + path, json=body, headers={header: value}) as answer:
                        assert answer.status in (200, 401)
                        said += str(answer.headers) + (await answer.text() if answer.status == 401 else "")
        kept = repr(await running.traces()) + repr(await running.ledger())
        await running.services.writer.run(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
    assert "delivered" in kept
    for text in (said, kept, caplog.text, written(home)):
        assert secret not in text and SECRET not in text


def written(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "value",
    [
        "a\r\nb",
        "sk-as-\x00",
        "\xff" * 100,
        "x" * 50_000,
        "Bearer " + " " * 1000,
        "Bearer \u0100".encode().decode("latin-1"),
    ],
)
async def test_odd_keys_are_no_keys(tmp_path: Path, value: str) -> None:
    SqliteKeys().add("one")
    async with gateway(tmp_path, STACK) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        line = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: "
        writer.write(line + value.encode("latin-1") + b"\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            found = await reader.read()
        writer.close()
    assert re.match(rb"HTTP/1\.1 (400|401) ", found)


Broken = Callable[..., Any]


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError(f"{SECRET} of hunter2"), 500), (Unavailable(f"{SECRET} of hunter2"), 503)]
)
async def test_a_fault_is_named_by_its_place(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
) -> None:
    async def fail(*given: object) -> None:
        raise error

    async with gateway(tmp_path, STACK) as running, aiohttp.ClientSession() as session:
        monkeypatch.setattr(running.services.ledger, "admit", fail)
        for path, body in list(bodies("hi"))[:3]:
            async with session.post(running.url + path, json=body) as answer:
                said = await answer.text()
                assert answer.status == status
                assert "hunter2" not in said and SECRET not in said
                assert answer.headers["x-request-id"] in caplog.text
    assert type(error).__name__ in caplog.text and "test_security.py" in caplog.text
    assert "hunter2" not in caplog.text and SECRET not in caplog.text


def test_the_place_of_a_fault_says_nothing_of_what_was_sent() -> None:
    def failed(error: Exception) -> Exception:
        try:
            raise error
        except Exception as caught:
            return caught

    one = failed(ValueError(SECRET))
    assert re.fullmatch(r"ValueError at \S+test_security\.py:\d+", _place(one))
    both = _place(ExceptionGroup(SECRET, [one, ExceptionGroup(SECRET, [KeyError(SECRET)])]))
    assert both == f"{_place(one)}; KeyError"


SERVERS = {
    "quotes the key": b'{"error":{"message":"Incorrect API key provided: %b."}}' % SECRET.encode(),
    "quotes it in its own shape": b'{"error":"%b"}' % SECRET.encode(),
    "is a web page": b"<html>%b</html>" % SECRET.encode(),
    "is a header": b'{"error":{"message":"a\\r\\nX-Evil: 1"}}',
}


async def test_model_servers_may_quote_the_key_but_not_to_clients(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def answer(request: web.Request) -> web.Response:
        status, case = (await request.json())["messages"][-1]["content"].split(" ", 1)
        headers = {"retry-after": "7", "x-evil": "1", "content-type": "application/json"}
        return web.Response(status=int(status), body=SERVERS[case], headers=headers)

    async with server(answer) as url:
        model = f"{{use: openai_http, base_url: '{url}', model: tiny, api_key: '{SECRET}', max_retries: 0}}"
        async with gateway(tmp_path, f"model: {model}\nlayers: []\n") as running, aiohttp.ClientSession() as session:
            for path, status, case in product(ASK, SHOWN, SERVERS):
                async with session.post(running.url + path, json=asking(path, f"{status} {case}")) as found:
                    said = str(found.headers) + await found.text()
                assert found.status == SHOWN[status]
                assert set(map(str.lower, found.headers)) <= HEADERS
                assert SECRET not in said and url.partition("/v1")[0] not in said
            kept = repr(await running.traces())
    assert len(kept) > 1000
    assert SECRET not in kept and SECRET not in caplog.text


# Time


@pytest.mark.parametrize("on_block", ["refusal", "error"])
async def test_a_block_tells_neither_by_its_time_nor_by_its_shape_who_blocked(tmp_path: Path, on_block: str) -> None:
    stack = STACK.replace("fine", "malware") + f"on_block: {on_block}\nserve: {{block_seconds: 0.1}}\n"
    async with gateway(tmp_path, stack) as running, aiohttp.ClientSession() as session:
        for path, stream in product(ASK, (False, True)):
            seen = set()
            for text in ("phishing", "harmless"):
                begun = time.monotonic()
                async with session.post(running.url + path, json=asking(path, text, stream=stream)) as answer:
                    said = await answer.text()
                assert time.monotonic() - begun >= 0.09
                names = frozenset(map(str.lower, answer.headers))
                seen.add((answer.status, names, re.sub(r"[0-9a-f]{32}|\"created(_at)?\":\d+", "", said)))
            assert len(seen) == 1


MANY = 2 * 2**20
BOMBS: dict[str, bytes] = {
    "open brackets": b"[" * MANY,
    "open objects": b'{"a":' * (MANY // 5),
    "depth": b'{"messages":%b%b}' % (b"[" * 100_000, b"]" * 100_000),
    "empty lists": b'{"messages":[%b[]]}' % (b"[]," * (MANY // 3)),
    "empty objects": b'{"input":"x","x":[%b{}]}' % (b"{}," * (MANY // 3)),
    "turns": b'{"max_tokens":9,"messages":[%b{}]}' % (b'{"role":"user","content":"a"},' * (MANY // 30)),
    "items": b'{"input":[%b{}]}' % (b'{"role":"user","content":"a"},' * (MANY // 30)),
    "digits": b'{"max_tokens":%b}' % (b"9" * MANY),
    "exponent": b'{"temperature":1e400}',
    "exponent of nothing": b'{"temperature":-1e-999999999999}',
    "NaN": b'{"temperature":NaN}',
    "infinity": b'{"temperature":Infinity}',
    "one key again and again": b'{%b"messages":[]}' % (b'"messages":[1],' * 20_000),
    "half a surrogate pair": b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    "NUL": b'{"messages":[{"role":"user","content":"\0"}]}',
    "no UTF-8": b'{"messages":[{"role":"user","content":"\xff\xfe"}]}',
    "UTF-16": '{"messages":[{"role":"user","content":"hi"}]}'.encode("utf-16"),
    "a mark before it": b'\xef\xbb\xbf{"messages":[{"role":"user","content":"hi"}]}',
    "nothing": b"",
    "null": b"null",
    "rubbish after it": b'{"messages":[{"role":"user","content":"hi"}]}{}',
    "unknown part": b'{"max_tokens":9,"messages":[{"role":"user","content":[{"type":{}}]}]}',
}


async def test_no_body_is_a_bomb(tmp_path: Path) -> None:
    async with gateway(tmp_path, STACK) as running, aiohttp.ClientSession() as session:
        for name, body in BOMBS.items():
            for path, _ in bodies(""):
                async with session.post(running.url + path, data=body) as answer:
                    assert answer.status in (400, 413), (name, path)
                    assert len(await answer.read()) < 2000


def chat(text: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode()


LARGE = {
    "more text than is allowed": (chat("é" * (5 * 2**20 - 1000)), 413),
    "as much text as is allowed": (chat("é" * 399_000), 200),
    "the same in emoji": (chat("😀" * 399_000), 200),
    "as many turns as are allowed": (
        json.dumps({"messages": [{"role": "user", "content": "abé"}] * 49_000}).encode(),
        200,
    ),
}


@pytest.mark.parametrize("case", LARGE)
async def test_a_large_request_does_not_hold_up_a_small_one(tmp_path: Path, case: str) -> None:
    """The bound is some ten times what it takes on two slow cores: what holds the loop for seconds is found."""
    body, status = LARGE[case]
    async with gateway(tmp_path, STACK) as running, aiohttp.ClientSession() as session:
        await small(running)
        large = asyncio.ensure_future(session.post(running.url + "/v1/chat/completions", data=body))
        waits = [await small(running)]
        while not large.done():
            waits.append(await small(running))
        answer = await large
        assert answer.status == status
        answer.release()
    assert max(waits) < 3.0


async def small(running: Running) -> float:
    """Seconds that a request takes which comes in a thread of its own."""

    def ask() -> float:
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE_S)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        return time.monotonic() - begun

    return await asyncio.to_thread(ask)


def test_a_new_data_folder_is_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNSTACK_HOME", str(tmp_path / "deep" / "data"))
    assert stat.S_IMODE(home_folder().stat().st_mode) == 0o700

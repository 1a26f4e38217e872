"""What is tried with arbitrary bytes. A target returns when all is well and raises when a promise is broken; which
program makes up the bytes it does not know."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from alignstack import policy
from alignstack.core.layer import LayerInfo, View
from alignstack.core.messages import Message, user
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.core.verdict import ALLOW, Verdict
from alignstack.engine.run import Serving
from alignstack.engine.stack import WEIGHTS, Placed, Stack, in_order
from alignstack.gateway import images
from alignstack.gateway.call import Dialect, Refused
from alignstack.gateway.dialects import moderations
from alignstack.gateway.dialects.chat import CHAT
from alignstack.gateway.dialects.messages import MESSAGES
from alignstack.gateway.dialects.responses import RESPONSES
from alignstack.gateway.listen import Guarded
from alignstack.models import anthropic_http, openai_http
from alignstack.models.http import Answer, Events
from alignstack.models.wire import Failed
from alignstack.store.clock import SystemClock
from fuzz.bodies import Script, body

OPENAI = openai_http.OpenAIHTTP(openai_http.OpenAIHTTPConfig(base_url="http://127.0.0.1:1/v1", model="tiny"))
ANTHROPIC_CONFIG = anthropic_http.AnthropicHTTPConfig(base_url="http://127.0.0.1:1", model="tiny")
ANTHROPIC = anthropic_http.AnthropicHTTP(ANTHROPIC_CONFIG)
POLICY = policy.load(None)
CLOCK = SystemClock()


# Requests


def _decoded(dialect: Dialect, data: bytes) -> None:
    """A body is refused in the dialect's own words, or ends in a request that model servers can be sent."""
    try:
        call = dialect.decode(data)
        images.check(call.messages, call.sampling.more, "public")
    except Refused as refused:
        assert refused.status == 400 and refused.message
        json.loads(dialect.error(refused))
        return
    assert call.messages and call.n >= 1
    assert not call.sampling.more or isinstance(json.loads(call.sampling.more), dict)
    assert json.loads(ANTHROPIC._body(call.messages, call.sampling, stream=True))["model"] == "tiny"
    body = json.loads(OPENAI._body(call.messages, call.sampling, stream=True))
    assert body["model"] == "tiny" and body["stream"] is True and "n" not in body
    assert len(body["messages"]) == len(call.messages)
    for message, turn in zip(call.messages, body["messages"], strict=True):
        assert turn["role"] == message.role
        assert all(text in message.content for text in _texts(turn["content"])), "a text that no layer has seen"


def _texts(content: Any) -> Iterator[str]:
    """What a model server may read as text."""
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        yield from (part[key] for key in ("text", "refusal", "thinking") if isinstance(part.get(key), str))


def chat(data: bytes) -> None:
    _decoded(CHAT, _body("chat", data))


def responses(data: bytes) -> None:
    _decoded(RESPONSES, _body("responses", data))


def messages(data: bytes) -> None:
    _decoded(MESSAGES, _body("messages", data))


def _body(name: str, data: bytes) -> bytes:
    """Bytes that begin like JSON are taken as they are, others as a script for something that nearly is right."""
    return data if data[:1] in (b"", b"{", b"[", b" ") else body(name, Script(data))


def scores(data: bytes) -> None:
    """`/v1/moderations`."""
    data = _body("scores", data)
    try:
        question = moderations.decode(data)
    except Refused as refused:
        assert refused.status == 400 and refused.message
        return
    assert question.inputs and all(isinstance(one.content, str) for asked in question.inputs for one in asked)


def address(data: bytes) -> None:
    """An address counts as public or not; no text breaks the look at it, and white space makes none of it public."""
    url = data.decode("utf-8", "replace")
    if images.is_public(url):
        assert url.lower().startswith(("http://", "https://")) and not set(url) & set(" \t\r\n\\\0")


# Answers of model servers


def _read(answer: Answer, parts: Sequence[bytes]) -> tuple[list[Delta], Finish | None]:
    """The pieces, and how it ended; None for a server that is not believed."""
    events, found = Events(), list[Delta]()
    try:
        for part in parts:
            for event in events.feed(part):
                found += answer.take(event)
                if answer.done:
                    return found, answer.finish()
        for event in events.end():
            found += answer.take(event)
        return found, answer.finish()
    except Failed:
        return found, None


def _pieces(data: bytes) -> list[bytes]:
    """The first byte says how long each piece is."""
    size = data[0] + 1
    return [data[at : at + size] for at in range(1, len(data), size)]


def _streamed(answer: Callable[[], Answer], data: bytes) -> None:
    """It does not matter in which pieces a stream arrives."""
    if not data:
        return
    found, finish = _read(answer(), _pieces(data))
    again, end = _read(answer(), [data[1:]])
    assert (finish is None) == (end is None)
    if finish is not None:
        assert found == again and finish == end
        assert finish.input_tokens >= 0 and finish.output_tokens >= 0
    for delta in found:
        delta.text.encode()
        assert delta.tokens >= 1
    _whole(answer(), data)


def _whole(answer: Answer, data: bytes) -> None:
    try:
        for delta in answer.whole(data):
            delta.text.encode()
        answer.finish()
    except Failed:
        pass


def openai_stream(data: bytes) -> None:
    _streamed(lambda: openai_http._Answer(OPENAI._config), data)


def anthropic_stream(data: bytes) -> None:
    _streamed(lambda: anthropic_http._Answer(ANTHROPIC_CONFIG), data)


# The engine


class _Speaker:
    """A model that says pieces of a script, in its own time."""

    name, version = "speaker", "1"

    def __init__(self, script: Script) -> None:
        self.text = ""
        self.pieces = [
            (
                script.draw(3),
                Delta(text="abcdefgh"[: script.draw(4)] + "X" * (script.draw(16) == 9), tokens=1 + script.draw(3)),
            )
            for _ in range(script.draw(24))
        ]
        self.fails = script.draw(8) == 7

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        for waits, piece in self.pieces:
            for _ in range(waits):
                await asyncio.sleep(0)
            self.text += piece.text
            yield piece
        if not self.fails:
            yield Finish(reason="stop")


class _Watcher:
    """Blocks a letter, after as many turns of the loop as the script says. Keeps what it has let pass."""

    def __init__(self, script: Script, name: str) -> None:
        self.waits, self.fails, self.cleared = script.draw(4), script.draw(32) == 31, ""
        self.window = (None, 1, 2, 5)[script.draw(4)]
        self.info = LayerInfo(
            name=name, use="watcher", phases=("output",), kind="veto", version=name, window=self.window,
            quick=not self.waits,
        )  # fmt: skip

    async def check(self, view: View) -> Verdict:
        for _ in range(self.waits):
            await asyncio.sleep(0)
        if self.fails:
            raise RuntimeError("broken")
        if "X" in view.text:
            return Verdict(action="block")
        self.cleared = max(self.cleared, view.text, key=len)
        return ALLOW


def serving(data: bytes) -> None:
    """What leaves is, at every moment, a beginning of what every output layer has cleared."""
    script = Script(data)
    watchers = [_Watcher(script, f"w{index}") for index in range(script.draw(4))]
    race, window, speaker, sent = script.draw(2) == 1, 1 + script.draw(6), _Speaker(script), list[str]()

    async def release(pieces: Sequence[Delta]) -> None:
        sent.extend(piece.read for piece in pieces)
        left = "".join(sent)
        assert speaker.text.startswith(left)
        assert all(watcher.cleared.startswith(left) for watcher in watchers), "more left than was cleared"
        for _ in range(script.draw(3)):
            await asyncio.sleep(0)

    asyncio.run(_served(_stack(watchers, speaker, race=race, window=window), release))
    assert "X" not in "".join(sent) or not watchers


def _stack(watchers: list[_Watcher], speaker: _Speaker, *, race: bool, window: int) -> Stack:
    weights = LayerInfo(name=WEIGHTS, use="speaker", phases=("model",), kind="modifier", version="1", side="training")
    layers = in_order(
        [Placed(layer=watcher, info=watcher.info) for watcher in watchers], Placed(layer=None, info=weights)
    )
    return Stack(layers=layers, model=speaker, policy=POLICY, streaming=True, race=race, window=window)


async def _served(stack: Stack, release: Callable[[Sequence[Delta]], Any]) -> None:
    async with asyncio.timeout(10):
        one = Serving(stack, clock=CLOCK, trace_id="t", release=release)
        async with one.answer(user("hi")) as outcome:
            assert outcome.status in ("delivered", "blocked", "cut", "unavailable")


# Connections


class _Line:
    """The gateway's end of a connection."""

    def __init__(self) -> None:
        self.sent, self.closed = bytearray(), False

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


Request = tuple[str, bytes, tuple[tuple[bytes, bytes], ...], bytes]


async def _talk(parts: Sequence[bytes]) -> tuple[list[Request], _Line]:
    """The requests that were read to their ends, and what was answered."""
    seen: list[Request] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        seen.append((scope["method"], scope["raw_path"], tuple(scope["headers"]), body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, http=Guarded, lifespan="off", log_config=None)
    line, guarded = _Line(), Guarded(config, ServerState(), {})
    guarded.connection_made(line)  # type: ignore[arg-type]
    for part in parts:
        if line.closed:
            break
        guarded.data_received(part)
        for _ in range(4 * len(guarded.tasks) + 4):
            await asyncio.sleep(0)
    line.closed = True
    guarded.connection_lost(None)
    await asyncio.gather(*guarded.tasks, return_exceptions=True)
    return seen, line


def connection(data: bytes) -> None:
    """Which requests are read does not depend on the pieces in which they come, and none can be read in two ways."""
    if not data:
        return
    seen, line = asyncio.run(_talk(_pieces(data)))
    at_once, _ = asyncio.run(_talk([data[1:]]))
    assert seen[: len(at_once)] == at_once, "what follows a bad request was read"
    assert line.sent.count(b"HTTP/1.1 200") <= len(seen)
    for _, path, headers, content in seen:
        names = [name for name, _ in headers]
        assert path.isascii() and names.count(b"host") <= 1 and names.count(b"content-length") <= 1
        assert names.count(b"transfer-encoding") + names.count(b"content-length") <= 1
        assert not any(set(value) & {0, 10, 13} for _, value in headers)
        assert all(int(value) == len(content) for name, value in headers if name == b"content-length")


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (chat, responses, messages, scores, address, openai_stream, anthropic_stream, serving, connection)
}

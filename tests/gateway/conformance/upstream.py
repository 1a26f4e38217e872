"""A model server that says what the last user turn tells it to: its first word names one of `SCRIPTS` or `FAULTS`.

Speaks OpenAI's chat completions and Anthropic's messages, streamed or not. Every piece of a stream is one token.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aiohttp import web

Json = dict[str, Any]

ASKED = 7
"""Input tokens of every request."""
LOGPROBS = {"content": [{"token": "Mix", "logprob": -0.25, "bytes": [77, 105, 120], "top_logprobs": []}]}
GOES_WRONG_AFTER = 5
"""Pieces of a stream that is going to break."""
BREAK = ("abort", "error", "garbage", "stall")
"""Faults after some pieces of the answer."""
FAULTS = ("500", "429", "400", "hang", "reset", *BREAK, "endless")


@dataclass(frozen=True, kw_only=True)
class Script:
    """One answer, in the deltas of chat completions."""

    pieces: tuple[Json, ...]
    finish: str = "stop"
    logprobs: Json | None = None
    """Of the first piece."""
    pause: float = 0.0
    """Seconds before each event of a stream, and ten times that before a whole answer."""

    @property
    def read(self) -> list[str]:
        """What layers read of each piece."""
        return [_read(piece) for piece in self.pieces]


def _read(piece: Json) -> str:
    for call in piece.get("tool_calls", ()):
        function = call["function"]
        name = function.get("name")
        return f"\n{name} {function['arguments']}" if name else str(function["arguments"])
    return str(piece.get("content") or piece.get("refusal") or piece.get("reasoning_content"))


def words(text: str) -> tuple[str, ...]:
    return tuple(f"{word} " for word in text.split())


def says(text: str, finish: str = "stop", **more: Any) -> Script:
    return Script(pieces=tuple({"content": word} for word in words(text)), finish=finish, **more)


def thinks(thought: str, text: str) -> Script:
    thoughts = tuple({"reasoning_content": word} for word in words(thought))
    return Script(pieces=(*thoughts, *says(text).pieces))


def calls(*arguments: str) -> Script:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    rest = ({"index": 0, "function": {"arguments": text}} for text in arguments)
    return Script(pieces=tuple({"tool_calls": [call]} for call in (first, *rest)), finish="tool_calls")


RECIPE = "Mix flour and water then add salt and let it rise a whole hour before you bake it hot"

SCRIPTS: dict[str, Script] = {
    "bread": says(RECIPE),
    "logprobs": says(RECIPE, logprobs=LOGPROBS),
    "slow": says(RECIPE, pause=0.07),
    "short": says("Mix flour and", finish="length"),
    "late1": says(f"{RECIPE} and the password is swordfish do not tell anyone about it please"),
    "late2": says(f"{RECIPE} and the codename is nightjar do not tell anyone about it please"),
    "early1": says("Swordfish is the password do not tell anyone"),
    "early2": says("Nightjar is the codename do not tell anyone"),
    "snaps": says(f"{RECIPE} snap and then more words follow after it for a while"),
    "bends": says(f"{RECIPE} bend and then more words follow after it for a while"),
    "declines": says("I'm sorry, but I can't help with that request."),
    "refusal": Script(pieces=tuple({"refusal": word} for word in words("That would hurt somebody else badly."))),
    "thinks": thinks("They want bread, and so does everybody.", RECIPE),
    "leaks": thinks("They want bread, and the password is swordfish, so here it comes.", RECIPE),
    "tool": calls('{"city"', ":", '"Paris"', "}"),
    "leaky": calls('{"city"', ":", '"swordfish"', "}"),
}


@dataclass(kw_only=True)
class Asked:
    """One request that came."""

    body: Json
    headers: dict[str, str]
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The client closed the connection before the answer ended."""

    @property
    def prompt(self) -> str:
        """The text of the last turn."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


class Upstream:
    """What was asked, newest last."""

    def __init__(self) -> None:
        self.url = ""
        self._asked: list[Asked] = []
        self._turns: dict[str, Iterator[str]] = {}
        self._came = asyncio.Condition()

    def asked(self, tag: str) -> list[Asked]:
        """The requests whose prompt holds `tag`."""
        return [asked for asked in self._asked if tag in asked.prompt]

    async def arrival(self, tag: str, requests: int = 1) -> None:
        """Waits for so many with `tag`."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.asked(tag)) >= requests)

    def in_turn(self, tag: str, *names: str) -> None:
        """Requests with `tag` are answered by these scripts, one after another."""
        self._turns[tag] = iter(names)

    def _name(self, asked: Asked) -> str:
        for tag, names in self._turns.items():
            if tag in asked.prompt:
                return next(names)
        return asked.prompt.split()[0]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(body=await request.json(), headers=dict(request.headers))
        async with self._came:
            self._asked.append(asked)
            self._came.notify_all()
        try:
            response = await _answer(request, self._name(asked), _WORDS[request.path], stream=asked.body["stream"])
        except (asyncio.CancelledError, ConnectionError):
            asked.gone.set()
            raise
        asked.finished.set()
        return response


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """A server on a free port; `url` has no path."""
    made, app = Upstream(), web.Application()
    for path in _WORDS:
        app.router.add_post(path, made.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


# ---------------------------------------------------------------- what is sent


async def _answer(request: web.Request, name: str, api: "Words", *, stream: bool) -> web.StreamResponse:
    if name.isdecimal():
        headers = {"retry-after": "7"} if name == "429" else {}
        return web.json_response({"error": {"message": f"says {name}"}}, status=int(name), headers=headers)
    if name == "hang" or (name == "endless" and not stream):
        await asyncio.Event().wait()
    if name == "reset":
        return _cut(request)
    if stream:
        return await _stream(request, name, api)
    if name in BREAK:
        return await _half(request, name)
    await asyncio.sleep(SCRIPTS[name].pause * 10)
    return web.json_response(api.whole(SCRIPTS[name]))


def _cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _half(request: web.Request, fault: str) -> web.StreamResponse:
    """A whole answer that does not arrive whole."""
    if fault == "error":
        return web.json_response({"error": {"message": "overloaded"}})
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [{"message": {"content": "Mix fl')
    if fault == "stall":
        await asyncio.Event().wait()
    return _cut(request)


async def _stream(request: web.Request, name: str, api: "Words") -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    if name == "endless":
        await _endless(response, api)
    if name not in BREAK:
        for event in api.events(SCRIPTS[name]):
            await asyncio.sleep(SCRIPTS[name].pause)
            await response.write(event)
        return response
    script = SCRIPTS["bread"]
    for event in list(api.events(script))[: api.before + GOES_WRONG_AFTER]:
        await response.write(event)
    if name == "stall":
        await asyncio.Event().wait()
    if name == "abort":
        await asyncio.sleep(0.05)  # what was written before should arrive
        return _cut(request)
    await response.write(api.error if name == "error" else b"data: {not json\n\n")
    return response


async def _endless(response: web.StreamResponse, api: "Words") -> None:
    events = list(api.events(SCRIPTS["bread"]))
    for event in events[: api.before]:
        await response.write(event)
    while True:
        await response.write(events[api.before])
        await asyncio.sleep(0.01)


class Words:
    """OpenAI's chat completions."""

    before = 1
    """Events before the first piece."""
    error = b'data: {"error": {"message": "overloaded"}}\n\n'

    def whole(self, script: Script) -> Json:
        message: Json = {"role": "assistant", "content": self._joined(script, "content") or None}
        message["refusal"] = self._joined(script, "refusal") or None
        message["reasoning_content"] = self._joined(script, "reasoning_content") or None
        called = [call for piece in script.pieces for call in piece.get("tool_calls", ())]
        if called:
            arguments = "".join(call["function"]["arguments"] for call in called)
            message["tool_calls"] = [{**called[0], "function": {"name": "weather", "arguments": arguments}}]
        choice = {"index": 0, "message": message, "finish_reason": script.finish, "logprobs": script.logprobs}
        return {**self._known("chat.completion"), "choices": [choice], "usage": self._usage(script)}

    def _joined(self, script: Script, key: str) -> str:
        return "".join(piece.get(key) or "" for piece in script.pieces)

    def _known(self, kind: str) -> Json:
        return {"id": "up-1", "object": kind, "created": 1, "model": "tiny"}

    def _usage(self, script: Script) -> Json:
        said = len(script.pieces)
        details = {"cached_tokens": 3}
        counts = {"prompt_tokens": ASKED, "completion_tokens": said, "total_tokens": ASKED + said}
        return {**counts, "prompt_tokens_details": details}

    def events(self, script: Script) -> Iterator[bytes]:
        yield self._chunk({"role": "assistant", "content": ""})
        for number, piece in enumerate(script.pieces):
            yield self._chunk(piece, logprobs=None if number else script.logprobs)
        yield self._chunk({}, finish=script.finish)
        yield self._line({**self._known("chat.completion.chunk"), "choices": [], "usage": self._usage(script)})
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: Json, finish: str | None = None, logprobs: Json | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return self._line({**self._known("chat.completion.chunk"), "choices": [choice]})

    def _line(self, data: Json) -> bytes:
        return b"data: " + json.dumps(data).encode() + b"\n\n"


class AnthropicWords(Words):
    """Anthropic's messages."""

    before = 2
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"overloaded"}}\n\n'
    REASONS: ClassVar = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

    def whole(self, script: Script) -> Json:
        text = self._joined(script, "content")
        block: Json = {"type": "text", "text": text} if text else self._called(script)
        return {**self._message(), "content": [block], "stop_reason": self.REASONS[script.finish],
                "usage": {"input_tokens": ASKED, "output_tokens": len(script.pieces)}}  # fmt: skip

    def _called(self, script: Script) -> Json:
        arguments = "".join(piece["tool_calls"][0]["function"]["arguments"] for piece in script.pieces)
        return {"type": "tool_use", "id": "call_1", "name": "weather", "input": json.loads(arguments)}

    def _message(self) -> Json:
        return {"id": "msg_up", "type": "message", "role": "assistant", "model": "tiny"}

    def events(self, script: Script) -> Iterator[bytes]:
        usage = {"input_tokens": ASKED, "output_tokens": 1}
        yield self._event("message_start", message={**self._message(), "content": [], "usage": usage})
        pieces = list(script.pieces)
        called = "tool_calls" in pieces[0]
        block = {**self._called(script), "input": {}} if called else {"type": "text", "text": ""}
        yield self._event("content_block_start", index=0, content_block=block)
        for piece in pieces[1:] if called else pieces:
            yield self._event("content_block_delta", index=0, delta=self._delta(piece))
        yield self._event("content_block_stop", index=0)
        delta = {"stop_reason": self.REASONS[script.finish], "stop_sequence": None}
        yield self._event("message_delta", delta=delta, usage={"output_tokens": len(pieces)})
        yield self._event("message_stop")

    def _delta(self, piece: Json) -> Json:
        if "tool_calls" in piece:
            return {"type": "input_json_delta", "partial_json": piece["tool_calls"][0]["function"]["arguments"]}
        return {"type": "text_delta", "text": piece["content"]}

    def _event(self, name: str, **fields: Any) -> bytes:
        return f"event: {name}\n".encode() + self._line({"type": name, **fields})


_WORDS: dict[str, Words] = {"/v1/chat/completions": Words(), "/v1/messages": AnthropicWords()}

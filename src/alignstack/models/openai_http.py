"""Any server that speaks OpenAI's `/chat/completions`.

Every way in which a server can fail ends in `ModelUnavailable`, within `timeout_s`. Its message names the server and
what happened, and holds neither the key nor the query of the address.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec

from alignstack.core.messages import Message, digest
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.models.http import Server, ServerConfig, count, counted, json_bytes, json_text, parse, words
from alignstack.models.wire import Failed

OURS = ("model", "messages", "stream", "stream_options", "n")
"""Keys of a request that its sender does not decide."""
COUNTED = ("prompt_tokens", "completion_tokens", "total_tokens")
REASONS: Mapping[str, Literal["stop", "length", "tool_calls", "content_filter"]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
"""Servers know more reasons; all others count as `stop`."""


class OpenAIHTTPConfig(ServerConfig):
    """Keys in the stack file."""

    base_url: str
    """What `/chat/completions` is appended to, for example `http://127.0.0.1:8000/v1`."""
    limit_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the bound on the length of an answer."""


class OpenAIHTTP:
    """A model on a server. Closing a stream early stops its generation."""

    Config = OpenAIHTTPConfig

    def __init__(self, config: OpenAIHTTPConfig, *, base: Path = Path(), rng: Random | None = None) -> None:
        key = config.api_key.get_secret_value() if config.api_key else ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._config = config
        self._server = Server(config, "chat/completions", headers, rng)
        self.name = config.model
        changed = config.model_dump(include={"any_model", "limit_key"}, exclude_defaults=True)
        self.version = digest("openai_http", self._server.shown, config.model, config.extra, *filter(None, [changed]))

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        """Piece by piece. Raises ModelUnavailable."""
        return self._server.ask(self._body(messages, sampling, stream=True), _Answer(self._config), whole=False)

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        """In few pieces, when all has been generated: cheaper, where nobody reads along. Raises ModelUnavailable."""
        return self._server.ask(self._body(messages, sampling, stream=False), _Answer(self._config), whole=True)

    async def aclose(self) -> None:
        """Closes the connections of the running loop; a later stream opens new ones."""
        await self._server.aclose()

    def _body(self, messages: Sequence[Message], sampling: Sampling, *, stream: bool) -> bytes:
        """What the stack file sets wins over the request, null takes a key out."""
        more = json.loads(sampling.more) if sampling.more else {}
        body: dict[str, Any] = {key: value for key, value in more.items() if key not in OURS}
        body["temperature"], body["top_p"], body["seed"] = sampling.temperature, sampling.top_p, sampling.seed
        body[self._config.limit_key] = sampling.max_tokens
        body["stream_options"] = {"include_usage": True}
        body |= self._config.extra
        body = {key: value for key, value in body.items() if value is not None}
        if not stream:
            body.pop("stream_options", None)
        body["model"] = self._config.asked_model(more.get("model"))
        body["messages"] = [_turn(message) for message in messages]
        body["stream"] = stream
        return json_bytes(body)


# ---------------------------------------------------------------- what is sent


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = json.loads(message.more) if message.more else {}
    turn["role"] = message.role
    turn["content"] = _parts(message) if message.parts else message.content
    if message.calls:
        turn["content"] = turn["content"] or None
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
    if message.call_id:
        turn["tool_call_id"] = message.call_id
    return turn


def _parts(message: Message) -> list[dict[str, Any]]:
    """The parts as they came, or, when a layer has changed the text, the new text and what is no text."""
    parts: list[dict[str, Any]] = json.loads(message.parts)
    if "\n".join(part.get("text", "") for part in parts if part.get("type") == "text") == message.content:
        return parts
    text = [{"type": "text", "text": message.content}] if message.content else []
    return [*text, *(part for part in parts if part.get("type") != "text")]


# ---------------------------------------------------------------- what comes back


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Piece(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    delta: _Piece | None = None
    message: _Piece | None = None
    """In place of `delta`, of an answer that does not stream."""
    finish_reason: Any = None
    logprobs: Any = None


class _Chunk(msgspec.Struct):
    """Types are as wide as a server may be wrong without harm."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    model: Any = None


_DECODER = msgspec.json.Decoder(_Chunk)


@dataclass(slots=True)
class _Begun:
    """What has been said of a tool call."""

    number: int
    id: str = ""
    name: str = ""

    def learn(self, call_id: str, name: str) -> tuple[str, str]:
        """What of it is new."""
        new = "" if self.id else call_id, "" if self.name else name
        self.id, self.name = self.id or call_id, self.name or name
        return new


class _Answer:
    """What the chunks so far add up to."""

    def __init__(self, config: OpenAIHTTPConfig) -> None:
        self.done = False
        self._config = config
        self._reason: Any = None
        self._deltas = 0
        self._usage: dict[str, Any] = {}
        self._model: Any = None
        self._calls: dict[int | None, _Begun] = {}
        """By the server's index."""
        self._begun = 0

    def take(self, event: bytes) -> Sequence[Delta]:
        try:
            chunk = _DECODER.decode(event)
        except (ValueError, RecursionError):
            if event.strip() == b"[DONE]":
                self.done = True
                return ()
            chunk = _carefully(event)
        return self._pieces(chunk)

    def whole(self, body: bytes) -> Sequence[Delta]:
        """All tokens are counted, whatever pieces they came in."""
        pieces = self.take(body)
        self.done = True
        return counted(pieces, self._usage.get("completion_tokens"))

    def finish(self) -> Finish:
        if not self._reason:
            raise Failed("ended the stream before the answer was finished")
        asked = count(self._usage.get("prompt_tokens"), 0)
        said = count(self._usage.get("completion_tokens"), self._deltas)
        named = isinstance(self._model, str) and self._model != self._config.model
        return Finish(
            reason=REASONS.get(self._reason, "stop") if isinstance(self._reason, str) else "stop",
            input_tokens=asked,
            output_tokens=said,
            cost=self._config.cost(asked, said),
            model=self._model if named else "",
            more=json_text(
                {key: value for key, value in self._usage.items() if key not in COUNTED and value is not None}
            ),
        )

    def _pieces(self, chunk: _Chunk) -> Sequence[Delta]:
        if chunk.error:
            said = words(chunk.error)
            raise Failed("reported an error" + (f": {said}" if said else ""))
        if chunk.choices is None:
            raise Failed("sent a chunk without choices")
        if isinstance(chunk.usage, dict):
            self._usage = chunk.usage
        self._model = self._model or chunk.model
        if not chunk.choices:
            return ()
        choice = chunk.choices[0]
        self._reason = choice.finish_reason or self._reason
        piece = choice.delta or choice.message
        found = self._read(piece) if piece else []
        if choice.logprobs and found:
            found[0] = replace(found[0], more=json_text({"logprobs": choice.logprobs}))
        self._deltas += len(found)
        return found

    def _read(self, piece: _Piece) -> list[Delta]:
        found: list[Delta] = []
        thought = piece.reasoning_content or piece.reasoning
        if thought and isinstance(thought, str):
            found.append(Delta(text=thought, kind="reasoning"))
        if piece.content:
            found.append(Delta(text=piece.content))
        if piece.refusal:
            found.append(Delta(text=piece.refusal, kind="refusal"))
        if piece.tool_calls or piece.function_call:
            calls = piece.tool_calls or [_Call(index=0, function=piece.function_call)]
            found += [delta for call in calls if (delta := self._called(call))]
        return found

    def _called(self, call: _Call) -> Delta | None:
        """Calls are numbered as they begin. Some servers leave out the index, give all calls the same one, or repeat
        id and name with every piece."""
        function = call.function or _Function()
        begun = self._calls.get(call.index)
        other = begun and call.id and begun.id and call.id != begun.id
        unmarked = call.index is None and not call.id and function.name
        if begun is None or other or unmarked:
            begun = self._calls[call.index] = _Begun(number=self._begun)
            self._begun += 1
        call_id, name = begun.learn(call.id or "", function.name or "")
        text = function.arguments or ""
        if not (text or call_id or name):
            return None
        return Delta(text=text, kind="call", index=begun.number, call_id=call_id, name=name)


def _carefully(event: bytes) -> _Chunk:
    """The chunk in an event that is not quite right. Raises Failed, which says what is wrong, for one of no use."""
    data = parse(event)
    try:
        return msgspec.convert(data, _Chunk)
    except msgspec.ValidationError as error:
        inside = "$.choices[0]." in str(error)
    if data.get("error"):
        return _Chunk(error=data["error"])
    raise Failed("sent a chunk whose content is no text" if inside else "sent a chunk without choices")

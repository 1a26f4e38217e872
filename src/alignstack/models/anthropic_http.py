"""Anthropic's Messages API, and servers that speak it.

Servers fail as with `openai_http`. Requests come in the words of chat completions: what has no equivalent here (`seed`,
`logprobs`, penalties …) is left out, and so are further keys of a turn. System turns are joined, wherever they stand.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal

import msgspec

from alignstack.core.messages import Message, digest
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.models.http import Server, ServerConfig, count, counted, json_bytes, json_text, parse, words
from alignstack.models.wire import Failed

VERSION = "2023-06-01"
MAX_TOKENS = 1024
"""The API wants a number; this one stands in where neither request nor stack file has one. Chosen by hand."""
PASSED = ("thinking", "top_k")
"""Keys of a request that are the API's own."""
EFFORTS = ("low", "medium", "high", "xhigh", "max")
REASONS: Mapping[str, Literal["stop", "length", "tool_calls", "content_filter"]] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""All others count as `stop`."""

Block = dict[str, Any]


class AnthropicHTTPConfig(ServerConfig):
    """Keys in the stack file."""

    RESERVED: ClassVar[tuple[str, ...]] = (*ServerConfig.RESERVED, "system")

    base_url: str = "https://api.anthropic.com"
    """What `/v1/messages` is appended to."""


class AnthropicHTTP:
    """A model on a server. Closing a stream early stops its generation."""

    Config = AnthropicHTTPConfig

    def __init__(self, config: AnthropicHTTPConfig, *, base: Path = Path(), rng: Random | None = None) -> None:
        key = config.api_key.get_secret_value() if config.api_key else ""
        headers = {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}
        path = "messages" if config.base_url.rstrip("/").endswith("/v1") else "v1/messages"
        self._config = config
        self._server = Server(config, path, headers, rng)
        self.name = config.model
        self.version = digest("anthropic_http", self._server.shown, config.model, config.extra, config.any_model)

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
        body = {**_settings(sampling), **_options(more), **self._config.extra}
        body = {key: value for key, value in body.items() if value is not None}
        if system := "\n\n".join(message.content for message in messages if message.role == "system"):
            body["system"] = system
        body["model"] = self._config.asked_model(more.get("model"))
        body["messages"] = _turns(messages)
        body["stream"] = stream
        return json_bytes(body)


# ---------------------------------------------------------------- what is sent


def _settings(sampling: Sampling) -> dict[str, Any]:
    """Temperatures end at 1 here. Some models refuse `top_p` beside a temperature, so 1, which changes nothing, is left
    out."""
    temperature = sampling.temperature
    return {
        "max_tokens": sampling.max_tokens or MAX_TOKENS,
        "temperature": temperature if temperature is None else min(temperature, 1.0),
        "top_p": None if sampling.top_p == 1 else sampling.top_p,
    }


def _options(more: Mapping[str, Any]) -> dict[str, Any]:
    """Further keys of a request, translated."""
    options = {key: more[key] for key in PASSED if key in more}
    stop = more.get("stop")
    if stop:
        options["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if tools := more.get("tools"):
        options["tools"] = [_tool(tool) for tool in tools] if isinstance(tools, list) else tools
        options["tool_choice"] = _tool_choice(more.get("tool_choice"), more.get("parallel_tool_calls"))
    if output := _output(more):
        options["output_config"] = output
    return options


def _tool(tool: Any) -> Any:
    """What is no tool goes on as it is: the server says what is wrong with it."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    kept = {key: function[key] for key in ("description", "strict") if function.get(key) is not None}
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {"name": function.get("name"), "input_schema": schema, **kept}


def _tool_choice(choice: Any, parallel: Any) -> Block | None:
    match choice:
        case "none":
            return {"type": "none"}
        case "required":
            chosen: Block = {"type": "any"}
        case {"function": {"name": name}}:
            chosen = {"type": "tool", "name": name}
        case _ if parallel is False:
            chosen = {"type": "auto"}
        case _:
            return None
    return {**chosen, "disable_parallel_tool_use": True} if parallel is False else chosen


def _output(more: Mapping[str, Any]) -> Block:
    output: Block = {}
    match more.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            output["format"] = {"type": "json_schema", "schema": schema}
    if more.get("reasoning_effort") in EFFORTS:
        output["effort"] = more["reasoning_effort"]
    return output


def _turns(messages: Sequence[Message]) -> list[Block]:
    """Turns of one role that follow each other are one: all results of a turn's tool calls must come together."""
    turns: list[Block] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Message) -> list[Block]:
    blocks = _content(message)
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.call_id, "content": blocks}]
    for call in message.calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)})
    return blocks


def _content(message: Message) -> list[Block]:
    """The parts as they came, or, when a layer has changed the text, the new text and what is no text. The API refuses
    empty texts."""
    parts: list[Block] = json.loads(message.parts) if message.parts else []
    texts = [part.get("text", "") for part in parts if part.get("type") == "text"]
    if "\n".join(texts) != message.content:
        text = {"type": "text", "text": message.content}
        parts = [text, *(part for part in parts if part.get("type") != "text")]
    return [_block(part) for part in parts if part.get("type") != "text" or part.get("text")]


def _block(part: Block) -> Block:
    """A part in the API's words; one that it has no words for goes as it is, for the server to refuse."""
    match part:
        case {"type": "text", "text": text}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": text}:
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return {"type": "image", "source": _source(url)}
        case {"type": "file", "file": {"file_data": str(url)}}:
            return {"type": "document", "source": _source(url)}
    return part


def _source(url: str) -> Block:
    if found := re.match(r"data:([^;,]+)(?:;[^;,]+)*;base64,", url):
        return {"type": "base64", "media_type": found[1], "data": url[found.end() :]}
    return {"type": "url", "url": url}


def _input(arguments: str) -> Block:
    """Models write arguments that are no JSON object; the API takes nothing else."""
    try:
        data = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        data = None
    return data if isinstance(data, dict) else {"arguments": arguments}


# ---------------------------------------------------------------- what comes back


class _Block(msgspec.Struct):
    """A content block."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: Any = None


class _Change(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Message(msgspec.Struct):
    content: list[_Block] = []
    model: str = ""
    stop_reason: str | None = None
    usage: Any = None


class _Event(_Message):
    """An event; an answer that does not stream has the shape of a message."""

    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Change | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Event)


class _Answer:
    """What the events so far add up to."""

    def __init__(self, config: AnthropicHTTPConfig) -> None:
        self.done = False
        self._config = config
        self._reason = ""
        self._deltas = 0
        self._usage: dict[str, Any] = {}
        self._model = ""
        self._calls: dict[int, int] = {}
        """Which block is which tool call."""
        self._unwritten: set[int] = set()
        """Blocks of calls that have no arguments yet."""

    def take(self, event: bytes) -> Sequence[Delta]:
        read = _decode(event)
        if read.type == "content_block_delta" and read.delta:
            found = self._change(read.index, read.delta)
        elif read.type == "content_block_start" and read.content_block:
            found = self._block(read.index, read.content_block)
        elif read.type == "content_block_stop" and read.index in self._unwritten:
            found = self._written(read.index, "{}")
        else:
            found = None
            self._note(read)
        if found is None:
            return ()
        self._deltas += 1
        return (found,)

    def whole(self, body: bytes) -> Sequence[Delta]:
        """All tokens are counted, whatever pieces they came in."""
        read = _decode(body)
        self._note(read)
        if read.type != "message":
            raise Failed("sent JSON that is no message")
        self._learn(read)
        found = [
            delta for number, block in enumerate(read.content) if (delta := self._block(number, block, whole=True))
        ]
        self._deltas += len(found)
        self.done = True
        return counted(found, self._usage.get("output_tokens"))

    def finish(self) -> Finish:
        if not self._reason:
            raise Failed("ended the stream before the answer was finished")
        kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        asked = sum(count(self._usage.get(kind), 0) for kind in kinds)
        said = count(self._usage.get("output_tokens"), self._deltas)
        cached = count(self._usage.get("cache_read_input_tokens"), 0)
        return Finish(
            reason=REASONS.get(self._reason, "stop"),
            input_tokens=asked,
            output_tokens=said,
            cost=self._config.cost(asked, said),
            model=self._model if self._model != self._config.model else "",
            more=json_text({"prompt_tokens_details": {"cached_tokens": cached}}) if cached else "",
        )

    def _note(self, event: _Event) -> None:
        """What is no piece of the answer. Kinds of events that are not known are for newer clients."""
        if event.type == "error":
            said = words(event.error)
            raise Failed("reported an error" + (f": {said}" if said else ""))
        if event.type == "message_start" and event.message:
            self._learn(event.message)
        elif event.type == "message_delta":
            self._learn(_Message(usage=event.usage, stop_reason=event.delta.stop_reason if event.delta else None))
        elif event.type == "message_stop":
            self.done = True
        elif not event.type:
            raise Failed("sent an event without a type")

    def _learn(self, message: _Message) -> None:
        self._model = self._model or message.model
        self._reason = message.stop_reason or self._reason
        if isinstance(message.usage, dict):
            self._usage |= {key: value for key, value in message.usage.items() if value is not None}

    def _block(self, number: int, block: _Block, *, whole: bool = False) -> Delta | None:
        """A block as it begins, or all of it."""
        match block.type:
            case "text" if block.text:
                return Delta(text=block.text)
            case "thinking" if block.thinking:
                return Delta(text=block.thinking, kind="reasoning")
            case "tool_use":
                index = self._calls[number] = len(self._calls)
                text = (json_text(block.input) or "{}") if whole else ""
                if not whole:
                    self._unwritten.add(number)
                return Delta(text=text, kind="call", index=index, call_id=block.id, name=block.name)
        return None

    def _change(self, number: int, change: _Change) -> Delta | None:
        if change.text:
            return Delta(text=change.text)
        if change.thinking:
            return Delta(text=change.thinking, kind="reasoning")
        return self._written(number, change.partial_json) if change.partial_json else None

    def _written(self, number: int, text: str) -> Delta | None:
        """Arguments of a tool that the server itself runs are none of the caller's."""
        if number not in self._calls:
            return None
        self._unwritten.discard(number)
        return Delta(text=text, kind="call", index=self._calls[number])


def _decode(event: bytes) -> _Event:
    try:
        return _DECODER.decode(event)
    except (ValueError, RecursionError):
        data = parse(event)
    try:
        return msgspec.convert(data, _Event)
    except msgspec.ValidationError:
        raise Failed("sent an event that the Messages API does not have") from None

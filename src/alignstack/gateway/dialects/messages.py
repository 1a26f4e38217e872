"""Anthropic's `POST /v1/messages`.

What the words of chat completions have a name for takes that name; other keys of a request (`top_k`, `thinking` …)
reach the model under their own. Thinking of earlier turns does not: no layer reads it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from alignstack.core.messages import Conversation, Message, ToolCall
from alignstack.core.ports import Delta, Sampling
from alignstack.gateway.call import Call, Choice, Ending, Events, Head, Refused, bad_request
from alignstack.gateway.dialects.body import encode
from alignstack.gateway.dialects.chat import READABLE
from alignstack.gateway.dialects.fields import (
    as_list,
    as_object,
    as_text,
    as_word,
    counted,
    dump,
    dump_rest,
    one_line,
    parse,
    quoted,
    take_flag,
    take_number,
    take_text,
    take_tokens,
)

NOT_HERE = ("n", "max_completion_tokens", "prompt", "stream_options")
"""Keys of chat completions that this API does not have, and that would go past what the gateway counts."""
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
ERRORS = {
    "invalid_request_error": "invalid_request_error",
    "authentication_error": "authentication_error",
    "permission_error": "permission_error",
    "not_found_error": "not_found_error",
    "rate_limit_error": "rate_limit_error",
    "insufficient_quota": "rate_limit_error",
}
ERRORS_BY_STATUS = {413: "request_too_large", 503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error"}


class Messages:
    """The dialect."""

    name = "messages"

    def decode(self, body: bytes) -> Call:
        fields = parse(body)
        for key in NOT_HERE:
            if key in fields:
                raise bad_request(f"{key} is not a key of the Messages API", param=key)
        messages = (*_system(fields.pop("system", None)), *_turns(fields.pop("messages", None)))
        max_tokens = take_tokens(fields, "max_tokens")
        if max_tokens is None:
            raise bad_request("max_tokens is missing: the Messages API requires it", param="max_tokens")
        return Call(
            messages=messages,
            model=take_text(fields, "model"),
            stream=take_flag(fields, "stream"),
            include_usage=True,
            person=_person(fields.pop("metadata", None)),
            sampling=Sampling(
                seed=None,
                temperature=take_number(fields, "temperature", 2),
                top_p=take_number(fields, "top_p", 1),
                max_tokens=max_tokens,
                more=_more(fields) if fields else "",
            ),
        )

    def whole(self, call: Call, head: Head, choices: Sequence[Choice]) -> bytes:
        choice = choices[0]
        return encode(
            {
                "id": f"msg_{head.id}",
                "type": "message",
                "role": "assistant",
                "model": head.model,
                "content": _blocks(choice.pieces),
                "stop_reason": _stop_reason(choice.ending, {piece.kind for piece in choice.pieces}),
                "stop_sequence": None,
                "usage": _usage(choice.ending),
            }
        )

    def events(self, call: Call, head: Head) -> Events:
        return _Stream(head)

    def error(self, problem: Refused) -> bytes:
        default = ERRORS_BY_STATUS.get(problem.status, "api_error")
        kind = default if problem.status in ERRORS_BY_STATUS else ERRORS.get(problem.kind, default)
        return b'{"type":"error","error":{"type":"%b","message":%b}}' % (kind.encode(), quoted(problem.message))


# Requests


@dataclass(slots=True)
class _Turn:
    """What the blocks of one turn come to."""

    texts: list[str] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    media: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)

    def add_text(self, text: str) -> None:
        self.texts.append(text)
        self.parts.append({"type": "text", "text": text})

    def add_media(self, kind: str, part: dict[str, Any]) -> None:
        self.media.append(kind)
        self.parts.append(part)

    def message(self, role: Literal["system", "user", "assistant", "tool"], where: str, call_id: str = "") -> Message:
        return Message(
            role=role,
            content="\n".join(self.texts),
            parts=dump(self.parts, where) if self.media or len(self.parts) > 1 else "",
            media=tuple(self.media),
            calls=tuple(self.calls),
            call_id=call_id,
        )


_Block = Mapping[str, Any]
_Reader = Callable[[_Turn, _Block, str], None]


def _system(value: Any) -> Conversation:
    if not value and (value is None or type(value) in (str, list)):
        return ()
    if type(value) is str:
        return (Message(role="system", content=value),)
    return (_only_text(value, "system"),)


def _only_text(blocks: Any, where: str) -> Message:
    turn = _gather(as_list(blocks, where), where, {"text": _read_text})
    if turn.media:
        raise bad_request(f"{where} should hold text blocks only, not {turn.media[0]!r}", param=where)
    return turn.message("system", where)


def _turns(value: Any) -> list[Message]:
    messages: list[Message] = []
    for number, item in enumerate(as_list(value, "messages")):
        messages += _turn(as_object(item, f"messages[{number}]"), number)
    if not messages:
        raise bad_request("messages should hold at least one turn", param="messages")
    return messages


def _turn(item: _Block, number: int) -> list[Message]:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", "system"):
        where = f"messages[{number}].role"
        raise bad_request(f"{where} should be 'user', 'assistant' or 'system'", param=where)
    if type(content) is str:
        return [Message(role=role, content=content)]
    where = f"messages[{number}].content"
    if role == "system":
        return [_only_text(content, where)] if content != [] else []
    turn = _gather(as_list(content, where), where, _OF_USER if role == "user" else _OF_ASSISTANT)
    said = turn.parts or turn.calls
    return [*turn.results, turn.message(role, where)] if said else turn.results


def _gather(blocks: list[Any], where: str, readers: Mapping[str, _Reader]) -> _Turn:
    turn = _Turn()
    for number, item in enumerate(blocks):
        at = f"{where}[{number}]"
        block = as_object(item, at)
        kind = as_word(block.get("type"), f"{at}.type")
        reader = readers.get(kind)
        if reader:
            reader(turn, block, at)
        else:
            turn.texts += [block[key] for key in READABLE if type(block.get(key)) is str]
            turn.add_media(kind, {**block})
    return turn


def _read_text(turn: _Turn, block: _Block, where: str) -> None:
    turn.add_text(as_text(block.get("text"), f"{where}.text"))


def _read_image(turn: _Turn, block: _Block, where: str) -> None:
    url = _address(as_object(block.get("source"), f"{where}.source"), f"{where}.source")
    turn.add_media("image_url", {"type": "image_url", "image_url": {"url": url}})


def _address(source: _Block, where: str) -> str:
    match source.get("type"):
        case "base64":
            kind = as_word(source.get("media_type"), f"{where}.media_type")
            return f"data:{kind};base64,{as_text(source.get('data'), f'{where}.data')}"
        case "url":
            return as_word(source.get("url"), f"{where}.url")
    raise bad_request(
        f"{where}.type should be 'base64' or 'url': this gateway stores no files, send the data", param=f"{where}.type"
    )


def _read_document(turn: _Turn, block: _Block, where: str) -> None:
    source, at = as_object(block.get("source"), f"{where}.source"), f"{where}.source"
    for key in ("title", "context"):
        if block.get(key) is not None:
            turn.add_text(as_text(block[key], f"{where}.{key}"))
    match source.get("type"):
        case "text":
            turn.add_text(as_text(source.get("data"), f"{at}.data"))
        case "content":
            _read_inside(turn, source.get("content"), f"{at}.content", _INSIDE)
        case _:
            key = "file_url" if source.get("type") == "url" else "file_data"
            file = {"filename": block.get("title") or "document.pdf", key: _address(source, at)}
            turn.add_media("file", {"type": "file", "file": file})


def _read_search_result(turn: _Turn, block: _Block, where: str) -> None:
    turn.add_text(as_text(block.get("title"), f"{where}.title"))
    turn.add_text(as_text(block.get("source"), f"{where}.source"))
    _read_inside(turn, block.get("content"), f"{where}.content", _INSIDE)


def _read_inside(turn: _Turn, content: Any, where: str, readers: Mapping[str, _Reader]) -> None:
    if type(content) is str:
        turn.add_text(content)
    elif content is not None:
        inner = _gather(as_list(content, where), where, readers)
        turn.texts += inner.texts
        turn.parts += inner.parts
        turn.media += inner.media


def _read_tool_use(turn: _Turn, block: _Block, where: str) -> None:
    arguments = dump(as_object(block.get("input"), f"{where}.input"), f"{where}.input")
    identity, name = as_word(block.get("id"), f"{where}.id"), as_word(block.get("name"), f"{where}.name")
    turn.calls.append(ToolCall(id=identity, name=name, arguments=arguments))


def _read_tool_result(turn: _Turn, block: _Block, where: str) -> None:
    answered = as_word(block.get("tool_use_id"), f"{where}.tool_use_id")
    result = _Turn()
    _read_inside(result, block.get("content"), f"{where}.content", _OF_RESULT)
    turn.results.append(result.message("tool", where, answered))


def _drop(turn: _Turn, block: _Block, where: str) -> None:
    pass


_INSIDE: dict[str, _Reader] = {"text": _read_text, "image": _read_image}
_OF_RESULT = {**_INSIDE, "document": _read_document, "search_result": _read_search_result}
_OF_USER = {**_OF_RESULT, "tool_result": _read_tool_result}
_OF_ASSISTANT = {**_OF_RESULT, "tool_use": _read_tool_use, "thinking": _drop, "redacted_thinking": _drop}


def _person(metadata: Any) -> str:
    if metadata is None:
        return ""
    name = as_object(metadata, "metadata").get("user_id")
    return "" if name is None else as_text(name, "metadata.user_id")


def _more(fields: dict[str, Any]) -> str:
    """The keys that are left, in the words of chat completions where those have one."""
    tools, choice = fields.pop("tools", None), fields.pop("tool_choice", None)
    stop, output = fields.pop("stop_sequences", None), fields.pop("output_config", None)
    if tools:
        fields["tools"] = [_tool(item, f"tools[{number}]") for number, item in enumerate(as_list(tools, "tools"))]
    if choice is not None:
        fields |= _tool_choice(as_object(choice, "tool_choice"))
    if stop:
        fields["stop"] = [as_text(item, "stop_sequences") for item in as_list(stop, "stop_sequences")]
    if output is not None:
        fields |= _output(as_object(output, "output_config"))
    return dump_rest(fields)


def _tool(item: Any, where: str) -> dict[str, Any]:
    tool = as_object(item, where)
    if tool.get("type") not in (None, "custom"):
        raise bad_request(
            f"{where}.type {tool['type']!r} is not available through this gateway: describe the tool with input_schema",
            param=f"{where}.type",
        )
    function = {
        "name": as_word(tool.get("name"), f"{where}.name"),
        "parameters": as_object(tool.get("input_schema"), f"{where}.input_schema"),
        **{key: tool[key] for key in ("description", "strict") if tool.get(key) is not None},
    }
    return {"type": "function", "function": function}


def _tool_choice(choice: _Block) -> dict[str, Any]:
    match choice.get("type"):
        case "auto" | "none" as word:
            chosen: Any = word
        case "any":
            chosen = "required"
        case "tool":
            name = as_word(choice.get("name"), "tool_choice.name")
            chosen = {"type": "function", "function": {"name": name}}
        case _:
            raise bad_request("tool_choice.type should be 'auto', 'any', 'tool' or 'none'", param="tool_choice.type")
    alone = choice.get("disable_parallel_tool_use") is True
    return {"tool_choice": chosen, "parallel_tool_calls": False} if alone else {"tool_choice": chosen}


def _output(config: _Block) -> dict[str, Any]:
    words: dict[str, Any] = {}
    if config.get("effort") is not None:
        words["reasoning_effort"] = as_word(config["effort"], "output_config.effort")
    if config.get("format") is not None:
        schema = as_object(config["format"], "output_config.format").get("schema")
        shape = {"name": "answer", "strict": True, "schema": as_object(schema, "output_config.format.schema")}
        words["response_format"] = {"type": "json_schema", "json_schema": shape}
    return words


# Answers


def _blocks(pieces: Sequence[Delta]) -> list[dict[str, Any]]:
    """Neighbouring pieces of one kind make a block; those of a tool call one, wherever they are."""
    blocks: list[dict[str, Any]] = []
    calls: dict[int, dict[str, Any]] = {}
    last = ""
    for piece in pieces:
        if piece.kind == "call":
            block = calls.get(piece.index)
            if block is None:
                block = calls[piece.index] = {
                    "type": "tool_use",
                    "id": _call_id(piece),
                    "name": piece.name,
                    "input": "",
                }
                blocks.append(block)
                last = "call"
            block["input"] += piece.text
            continue
        key = "thinking" if piece.kind == "reasoning" else "text"
        if piece.kind != last:
            last = piece.kind
            blocks.append(
                {"type": "thinking", key: "", "signature": ""} if key == "thinking" else {"type": key, key: ""}
            )
        blocks[-1][key] += piece.text
    for block in calls.values():
        block["input"] = _input(block["input"])
    return blocks


def _call_id(piece: Delta) -> str:
    """Servers that give calls no id would leave clients nothing to answer to."""
    return piece.call_id or f"toolu_{piece.index}"


def _input(arguments: str) -> dict[str, Any]:
    """What the model wrote, when it is a JSON object; otherwise an object that holds it, so that nothing is lost."""
    try:
        value = msgspec.json.decode(arguments) if arguments else {}
    except (msgspec.MsgspecError, ValueError, RecursionError):
        value = arguments
    return value if type(value) is dict else {"arguments": value}


def _stop_reason(ending: Ending, kinds: set[str]) -> str:
    """`kinds`: of the pieces that were sent. Servers that ask for a tool do not all say so in their reason."""
    if ending.blocked or "refusal" in kinds:
        return "refusal"
    if ending.reason == "stop" and "call" in kinds:
        return "tool_use"
    return STOP_REASONS[ending.reason]


def _usage(ending: Ending) -> dict[str, Any]:
    """Input read from a cache is counted apart here, and within the input in chat completions."""
    if not ending.usage:
        return {"input_tokens": ending.input_tokens, "output_tokens": ending.output_tokens}
    cached = min(counted(ending.usage, "prompt_tokens_details", "cached_tokens"), ending.input_tokens)
    thought = counted(ending.usage, "completion_tokens_details", "reasoning_tokens")
    return {
        "input_tokens": ending.input_tokens - cached,
        "cache_read_input_tokens": cached,
        "output_tokens": ending.output_tokens,
        "output_tokens_details": {"thinking_tokens": thought},
    }


_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_START = b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
_PIECE = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
_FINISH = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"%b","stop_sequence":null},'
    b'"usage":%b}\n\n'
)
_TEXT = b'{"type":"text","text":""}'
_THINKING = b'{"type":"thinking","thinking":"","signature":""}'
_CALL = b'{"type":"tool_use","id":%b,"name":%b,"input":{}}'
_END = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class _Stream:
    """One block is open at a time. Pieces of a tool call that come late still name the block of their call."""

    __slots__ = ("_blocks", "_calls", "_head", "_kind", "_kinds", "_open")

    def __init__(self, head: Head) -> None:
        self._head = head
        self._kind = ""
        """Of the pieces that the open block takes."""
        self._open = b""
        """What every piece of the open block begins with."""
        self._blocks = 0
        self._calls: dict[int, bytes] = {}
        self._kinds: set[str] = set()

    def start(self) -> bytes:
        message = {
            "id": f"msg_{self._head.id}",
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": (),
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n' % one_line(encode(message))

    def pieces(self, choice: int, pieces: Sequence[Delta]) -> bytes:
        return b"".join([self._piece(piece) for piece in pieces])

    def _piece(self, piece: Delta) -> bytes:
        if piece.kind == "call":
            return self._call(piece)
        opened = b"" if piece.kind == self._kind else self._turn_to(piece.kind)
        return b"%b%b%b}}\n\n" % (opened, self._open, quoted(piece.text))

    def _turn_to(self, kind: str) -> bytes:
        shown = b"thinking" if kind == "reasoning" else b"text"
        opened = self._begin(kind, _THINKING if kind == "reasoning" else _TEXT)
        self._open = _PIECE % (self._blocks - 1, shown + b"_delta", shown)
        return opened

    def _call(self, piece: Delta) -> bytes:
        opened = b""
        if piece.index not in self._calls:
            opened = self._begin("call", _CALL % (quoted(_call_id(piece)), quoted(piece.name)))
            self._calls[piece.index] = _PIECE % (self._blocks - 1, b"input_json_delta", b"partial_json")
        return b"%b%b%b}}\n\n" % (opened, self._calls[piece.index], quoted(piece.text)) if piece.text else opened

    def _begin(self, kind: str, block: bytes) -> bytes:
        closed = self._close()
        self._kind = kind
        self._kinds.add(kind)
        self._blocks += 1
        return closed + _START % (self._blocks - 1, block)

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        self._kind = ""
        return _STOP % (self._blocks - 1)

    def finish(self, choice: int, ending: Ending) -> bytes:
        reason = _stop_reason(ending, self._kinds).encode()
        return self._close() + _FINISH % (reason, encode(_usage(ending)))

    def end(self, endings: Sequence[Ending]) -> bytes:
        return _END

    def error(self, problem: Refused) -> bytes:
        return b"event: error\ndata: %b\n\n" % MESSAGES.error(problem)


MESSAGES = Messages()

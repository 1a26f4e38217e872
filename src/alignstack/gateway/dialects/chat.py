"""`/v1/chat/completions`.

Both `max_tokens` and `max_completion_tokens` are understood and go to model servers as `max_tokens`; `developer` turns
become `system` turns; the older `function_call` and `function` turns become tool calls and their answers, the
function's name in place of an id. Keys that are not read here go to model servers as they came.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from alignstack.core.messages import Message, Role, ToolCall
from alignstack.core.ports import Delta, Sampling
from alignstack.gateway.call import Call, Choice, Ending, Head, Refused, bad_request
from alignstack.gateway.dialects.body import encode, fitting
from alignstack.gateway.dialects.fields import dump, parse
from alignstack.gateway.dialects.moderations import report

MAX_CHOICES = 16
"""`n`; each is a run of the whole stack. Chosen by hand."""

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
READABLE = ("text", "refusal", "thinking")
"""Keys of a content part that model servers take for text, whatever the part says of its type."""
UNREADABLE = frozenset({"image_url", "input_audio", "file", "audio_url", "video_url"})
"""Those that they may take for media in the same way."""

Kind = Annotated[str, msgspec.Meta(max_length=64)]


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _Custom(msgspec.Struct):
    name: str
    input: str


class _ToolCall(msgspec.Struct):
    id: str
    type: Literal["function", "custom"] = "function"
    function: _Function | None = None
    custom: _Custom | None = None


class _Part(msgspec.Struct):
    type: Kind
    text: str | None = None
    refusal: str | None = None


class _Turn(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: _Function | None = None
    name: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Stage(msgspec.Struct):
    mode: Literal["score", "block"]


class _Stages(msgspec.Struct):
    input: _Stage | None = None
    output: _Stage | None = None


class _Moderation(msgspec.Struct):
    model: str
    policy: _Stages | None = None


Tokens = Annotated[int, msgspec.Meta(ge=1, le=10**9)] | None


class _Asked(msgspec.Struct):
    """The keys that are read here. All but `model` stay here."""

    messages: Annotated[list[_Turn], msgspec.Meta(min_length=1)]
    model: str | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    max_tokens: Tokens = None
    max_completion_tokens: Tokens = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    safety_identifier: str | None = None
    user: str | None = None
    moderation: _Moderation | None = None


TAKEN = frozenset(_Asked.__struct_fields__) - {"model"}
TURN = frozenset({"role", "content", "refusal", "tool_calls", "tool_call_id", "function_call"})
PLAIN = {"role", "content"}


class Chat:
    """OpenAI's chat completions as a dialect."""

    name = "chat"

    def decode(self, body: bytes) -> Call:
        data = parse(body)
        asked = fitting(data, _Asked)
        return Call(
            messages=tuple(map(_message, asked.messages, data["messages"], range(len(asked.messages)))),
            sampling=Sampling(
                seed=asked.seed,
                temperature=asked.temperature,
                top_p=asked.top_p,
                max_tokens=asked.max_completion_tokens or asked.max_tokens,
                more=_others(data, TAKEN, "the body"),
            ),
            model=asked.model or "",
            stream=asked.stream is True,
            n=asked.n or 1,
            include_usage=asked.stream_options is not None and asked.stream_options.include_usage is True,
            person=asked.safety_identifier or asked.user or "",
            moderation=_mode(asked.moderation),
        )

    def whole(self, call: Call, head: Head, choices: Sequence[Choice]) -> bytes:
        endings = [choice.ending for choice in choices]
        answer = {
            "id": f"chatcmpl-{head.id}",
            "object": "chat.completion",
            "created": int(head.created),
            "model": head.model,
            "choices": [_choice(index, choice) for index, choice in enumerate(choices)],
            "usage": _usage(endings),
        }
        if call.moderation:
            answer["moderation"] = _moderation(call, endings)
        return encode(answer)

    def events(self, call: Call, head: Head) -> "ChatEvents":
        return ChatEvents(call, head)

    def error(self, problem: Refused) -> bytes:
        return encode({"error": _problem(problem)})


CHAT = Chat()


class ChatEvents:
    """Chunks of one streamed answer. `[DONE]` ends it in every case, once; the SDKs stop at an error before it."""

    def __init__(self, call: Call, head: Head) -> None:
        known = {
            "id": f"chatcmpl-{head.id}",
            "object": "chat.completion.chunk",
            "created": int(head.created),
            "model": head.model,
        }
        self._call = call
        self._open = b"data: " + encode(known)[:-1] + b',"choices":['
        self._close = b'],"usage":null}\n\n' if call.include_usage else b"]}\n\n"
        self._before = [self._open + b'{"index":%d,"delta":{"content":' % index for index in range(call.n)]
        self._after = b'},"logprobs":null,"finish_reason":null}' + self._close

    def start(self) -> bytes:
        first = {"role": "assistant", "content": "", "refusal": None}
        return b"".join(self._chunk(index, first) for index in range(self._call.n))

    def pieces(self, choice: int, pieces: Sequence[Delta]) -> bytes:
        if all(piece.kind == "text" and not piece.more for piece in pieces):
            text = "".join([piece.text for piece in pieces])
            return self._before[choice] + _line(encode(text)) + self._after if text else b""
        return b"".join(self._chunk(choice, _delta(piece), more=piece.more) for piece in pieces)

    def finish(self, choice: int, ending: Ending) -> bytes:
        return self._chunk(choice, {}, reason=ending.reason)

    def end(self, endings: Sequence[Ending]) -> bytes:
        last = b""
        if self._call.moderation:
            said = encode(_moderation(self._call, endings))
            last += self._open + self._close[:-3] + b',"moderation":' + said + b"}\n\n"
        if self._call.include_usage:
            last += self._open + b'],"usage":' + encode(_usage(endings)) + b"}\n\n"
        return last + b"data: [DONE]\n\n"

    def error(self, problem: Refused) -> bytes:
        return b"data: " + _line(encode({"error": _problem(problem)})) + b"\n\ndata: [DONE]\n\n"

    def _chunk(self, index: int, delta: Mapping[str, Any], *, reason: str | None = None, more: str = "") -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        if more:
            choice = {**choice, **_safe(more)}
        return self._open + _line(encode(choice)) + self._close


def _line(data: bytes) -> bytes:
    """Many clients cut lines at every line end of Unicode, JSON's `\\n` is the only one that is always escaped."""
    if data.isascii():
        return data
    return (
        data.replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029").replace(b"\xc2\x85", rb"\u0085")
    )


def _message(turn: _Turn, raw: dict[str, Any], number: int) -> Message:
    role, content = ROLES[turn.role], turn.content
    if isinstance(content, str) and raw.keys() <= PLAIN and role != "tool":
        return Message(role=role, content=content)
    if content is None and role != "assistant":
        raise _missing(f"messages[{number}].content")
    if turn.role == "tool" and turn.tool_call_id is None:
        raise _missing(f"messages[{number}].tool_call_id")
    parts, said, media = _content(raw.get("content"), f"messages[{number}].content")
    said += [turn.refusal] if turn.refusal else []
    calls, more = _calls(turn, raw, f"messages[{number}].tool_calls")
    return Message(
        role=role,
        content="\n".join(said),
        parts=parts,
        media=media,
        calls=calls,
        call_id=(turn.tool_call_id if turn.role == "tool" else turn.name if turn.role == "function" else None) or "",
        more=more,
    )


def _content(raw: Any, where: str) -> tuple[str, list[str], tuple[str, ...]]:
    """`Message.parts`, the texts, and `Message.media`."""
    if raw is None or isinstance(raw, str):
        return "", [raw] if raw else [], ()
    said = [text for number, part in enumerate(raw) for text in _texts(part, f"{where}[{number}]")]
    media = tuple(kind for part in raw for kind in _media(part))
    plain = len(raw) == 1 and raw[0].keys() == {"type", "text"} and not media
    return "" if plain or not raw else dump(raw, where), said, media


def _texts(part: dict[str, Any], where: str) -> list[str]:
    if part["type"] in ("text", "refusal") and part.get(part["type"]) is None:
        raise _missing(f"{where}.{part['type']}")
    return [part[key] for key in READABLE if isinstance(part.get(key), str)]


def _media(part: dict[str, Any]) -> list[str]:
    hidden = sorted(part.keys() & UNREADABLE - {part["type"]})
    return hidden if part["type"] in ("text", "refusal") else [part["type"], *hidden]


def _calls(turn: _Turn, raw: dict[str, Any], where: str) -> tuple[tuple[ToolCall, ...], str]:
    """The tools that a turn asked for, and `Message.more`. Calls that hold more than a `ToolCall` can say stand in
    `more` as well, as they came."""
    calls = [_call(call, f"{where}[{number}]") for number, call in enumerate(turn.tool_calls or ())]
    if turn.function_call is not None:
        name, arguments = turn.function_call.name, turn.function_call.arguments
        calls.append(ToolCall(id=name, name=name, arguments=arguments))
    special = any(call.keys() - {"id", "type", "function"} for call in raw.get("tool_calls") or ())
    known = TURN | {"name"} if turn.role == "function" else TURN
    return tuple(calls), _others(raw, known - {"tool_calls"} if special else known, where)


def _call(call: _ToolCall, where: str) -> ToolCall:
    if call.function is not None and call.type == "function":
        return ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
    if call.custom is not None and call.type == "custom":
        return ToolCall(id=call.id, name=call.custom.name, arguments=call.custom.input)
    raise _missing(f"{where}.{call.type}")


def _missing(param: str) -> Refused:
    return bad_request(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def _others(data: dict[str, Any], known: frozenset[str], where: str) -> str:
    """JSON object of the keys that are not known; empty when there are none."""
    if data.keys() <= known:
        return ""
    return dump({key: value for key, value in data.items() if key not in known}, where)


def _mode(asked: _Moderation | None) -> Literal["", "score", "block"]:
    """One mode for both stages, the stricter one."""
    if asked is None:
        return ""
    stages = (asked.policy.input, asked.policy.output) if asked.policy else ()
    return "block" if any(stage is not None and stage.mode == "block" for stage in stages) else "score"


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _text(choice, "text"), "refusal": None}
    more: dict[str, Any] = {}
    if any(piece.kind != "text" or piece.more for piece in choice.pieces):
        _add_rest(message, choice)
        more = _merged(piece.more for piece in choice.pieces if piece.more)
    reason = choice.ending.reason
    return {"index": index, "message": message, "logprobs": None, **more, "finish_reason": reason}


def _text(choice: Choice, kind: str) -> str:
    return "".join([piece.text for piece in choice.pieces if piece.kind == kind])


def _add_rest(message: dict[str, Any], choice: Choice) -> None:
    """What an answer holds besides text. Content that is not there is null when something else is."""
    calls = _tool_calls(choice.pieces)
    message["refusal"] = _text(choice, "refusal") or None
    if calls:
        message["tool_calls"] = calls
    if reasoning := _text(choice, "reasoning"):
        message["reasoning_content"] = reasoning
    if not message["content"] and (calls or message["refusal"]):
        message["content"] = None


def _tool_calls(pieces: Iterable[Delta]) -> list[dict[str, Any]]:
    calls: dict[int, list[Delta]] = {}
    for piece in pieces:
        if piece.kind == "call":
            calls.setdefault(piece.index, []).append(piece)
    return [_tool_call(parts) for _, parts in sorted(calls.items())]


def _tool_call(parts: list[Delta]) -> dict[str, Any]:
    name = next((part.name for part in parts if part.name), "")
    call_id = next((part.call_id for part in parts if part.call_id), "")
    arguments = "".join(part.text for part in parts)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _delta(piece: Delta) -> dict[str, Any]:
    match piece.kind:
        case "text":
            return {"content": piece.text}
        case "refusal":
            return {"refusal": piece.text}
        case "reasoning":
            return {"reasoning_content": piece.text}
    call: dict[str, Any] = {"index": piece.index, "function": {"arguments": piece.text}}
    if piece.call_id or piece.name:
        call |= {"id": piece.call_id, "type": "function", "function": {"name": piece.name, "arguments": piece.text}}
    return {"tool_calls": [call]}


def _safe(more: str) -> dict[str, Any]:
    """Further keys of a choice; a server's may not replace what was checked."""
    keys: dict[str, Any] = msgspec.json.decode(more)
    return {key: value for key, value in keys.items() if key not in ("index", "delta", "message", "finish_reason")}


def _merged(pieces: Iterable[str]) -> dict[str, Any]:
    """The keys of all pieces of a choice: the lists of `logprobs` joined, of other keys the last value."""
    together: dict[str, Any] = {}
    logprobs: dict[str, Any] = {"content": None, "refusal": None}
    for keys in map(_safe, pieces):
        said = keys.pop("logprobs", None)
        for name, tokens in said.items() if isinstance(said, dict) else ():
            if isinstance(tokens, list) and tokens:
                logprobs[name] = (logprobs.get(name) or []) + tokens
        together |= keys
    return together | {"logprobs": logprobs} if any(logprobs.values()) else together


def _usage(endings: Sequence[Ending]) -> dict[str, Any]:
    """The prompt is counted once, as OpenAI does, and each answer for itself."""
    asked = max((ending.input_tokens for ending in endings), default=0)
    said = sum(ending.output_tokens for ending in endings)
    counts = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
    details = [msgspec.json.decode(ending.usage) for ending in endings if ending.usage]
    return {**_summed(details), **counts} if details else counts


def _summed(details: list[dict[str, Any]]) -> dict[str, Any]:
    """The first answer's details; the numbers of the completion summed over all answers."""
    name = "completion_tokens_details"
    sums: dict[str, int] = {}
    for counts in (found for answer in details if isinstance(found := answer.get(name), dict)):
        for key, count in counts.items():
            if isinstance(count, int):
                sums[key] = sums.get(key, 0) + count
    return {**details[0], name: sums} if sums else details[0]


def _moderation(call: Call, endings: Iterable[Ending]) -> dict[str, Any]:
    traces: Iterator[Any] = (ending.trace for ending in endings if ending.trace is not None)
    return report(traces, shadows=call.moderation == "score")


def _problem(problem: Refused) -> dict[str, Any]:
    return {
        "message": problem.message,
        "type": problem.kind,
        "param": problem.param or None,
        "code": problem.code or None,
    }

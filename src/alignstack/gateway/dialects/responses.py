"""OpenAI's `POST /v1/responses`, without what needs a server that remembers: each request holds the whole input, and
`store` is always false. Reasoning of earlier turns does not reach the model: no layer reads it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from alignstack.core.messages import Message, Role, ToolCall
from alignstack.core.ports import Delta, Kind, Sampling
from alignstack.gateway.call import Call, Choice, Ending, Events, Head, Refused, bad_request
from alignstack.gateway.dialects.body import encode
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
    wrong,
)
from alignstack.gateway.dialects.moderations import report

ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
NOT_HERE = ("n", "messages", "max_tokens", "max_completion_tokens")
"""Keys of chat completions that this API does not have, and that would go past what the gateway counts."""
STORED = {
    "previous_response_id": "send the whole conversation as input",
    "conversation": "send the whole conversation as input",
    "prompt": "send the prompt's text as instructions",
    "background": "wait for the answer, or stream it",
}
"""Keys that ask for something stored, and what works instead."""
IGNORED = ("store", "stream_options", "truncation", "max_tool_calls")
"""Accepted without effect: nothing is stored, padded or cut, and no tool runs here."""
ECHO: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": None,
    "safety_identifier": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": None,
    "top_p": None,
    "user": None,
}
"""What an answer repeats, and what it says where the request was silent."""
ECHOED = frozenset(ECHO)


class Responses:
    """The dialect."""

    name = "responses"

    def decode(self, body: bytes) -> Call:
        fields = parse(body)
        echo = {key: fields[key] for key in ECHOED & fields.keys() if fields[key] is not None}
        _check(fields)
        instructions = take_text(fields, "instructions")
        said = _input(fields.pop("input", None))
        person, user = take_text(fields, "safety_identifier"), take_text(fields, "user")
        return Call(
            messages=(Message(role="system", content=instructions), *said) if instructions else tuple(said),
            model=take_text(fields, "model"),
            stream=take_flag(fields, "stream"),
            include_usage=True,
            person=person or user,
            moderation=_moderation(fields.pop("moderation", None)),
            echo=echo,
            sampling=Sampling(
                seed=None,
                temperature=take_number(fields, "temperature", 2),
                top_p=take_number(fields, "top_p", 1),
                max_tokens=take_tokens(fields, "max_output_tokens"),
                more=_more(fields) if fields else "",
            ),
        )

    def whole(self, call: Call, head: Head, choices: Sequence[Choice]) -> bytes:
        choice = choices[0]
        answer = _Answer(head.id)
        for piece in choice.pieces:
            answer.part_of(piece).add(piece)
        return _finished(_frame(call, head), call, answer, choice.ending)

    def events(self, call: Call, head: Head) -> Events:
        return _Stream(call, head)

    def error(self, problem: Refused) -> bytes:
        return encode({"error": _problem(problem)})


def _problem(problem: Refused) -> dict[str, str | None]:
    return {
        "message": problem.message,
        "type": problem.kind,
        "param": problem.param or None,
        "code": problem.code or None,
    }


# Requests


def _check(fields: dict[str, Any]) -> None:
    """Refuses what cannot be had here, and takes out what changes nothing."""
    for key in NOT_HERE:
        if key in fields:
            raise bad_request(f"{key} is not a key of the Responses API", param=key)
    for key, way_out in STORED.items():
        if fields.pop(key, None):
            raise bad_request(f"{key} is not available: this gateway stores nothing; {way_out}", param=key)
    for key in IGNORED:
        fields.pop(key, None)
    metadata = fields.pop("metadata", None)
    if metadata is not None:
        as_object(metadata, "metadata")


def _input(value: Any) -> list[Message]:
    if type(value) is str:
        return [Message(role="user", content=value)]
    if type(value) is not list:
        raise wrong(value, "input", "a text or a list of items")
    messages: list[Message] = []
    for number, item in enumerate(value):
        _add_item(messages, as_object(item, f"input[{number}]"), f"input[{number}]")
    if not messages:
        raise bad_request("input should hold at least one message", param="input")
    return messages


def _add_item(messages: list[Message], item: dict[str, Any], where: str) -> None:
    match item.get("type") or ("message" if "role" in item else "item_reference"):
        case "message":
            messages.append(_message(item, where))
        case "function_call":
            _add_call(messages, item, where)
        case "function_call_output":
            call_id = as_word(item.get("call_id"), f"{where}.call_id")
            messages.append(_turn("tool", item.get("output"), f"{where}.output", call_id))
        case "reasoning":
            pass
        case "item_reference":
            raise bad_request(
                f"{where}.type 'item_reference' is not available: this gateway stores nothing; send the item itself",
                param=f"{where}.type",
            )
        case other:
            raise bad_request(
                f"{where}.type {other!r:.80} is not available through this gateway; it takes 'message', "
                "'function_call', 'function_call_output' and 'reasoning'",
                param=f"{where}.type",
            )


def _message(item: dict[str, Any], where: str) -> Message:
    role = ROLES.get(as_text(item.get("role"), f"{where}.role"))
    if role is None:
        raise bad_request(f"{where}.role should be 'user', 'assistant', 'system' or 'developer'", param=f"{where}.role")
    return _turn(role, item.get("content"), f"{where}.content")


def _add_call(messages: list[Message], item: dict[str, Any], where: str) -> None:
    """Items stand for themselves; chat completions want one turn for a message and the calls after it."""
    call = ToolCall(
        id=as_word(item.get("call_id"), f"{where}.call_id"),
        name=as_word(item.get("name"), f"{where}.name"),
        arguments=as_text(item.get("arguments"), f"{where}.arguments"),
    )
    if messages and messages[-1].role == "assistant":
        messages[-1] = replace(messages[-1], calls=(*messages[-1].calls, call))
    else:
        messages.append(Message(role="assistant", content="", calls=(call,)))


def _turn(role: Role, content: Any, where: str, call_id: str = "") -> Message:
    if type(content) is str:
        return Message(role=role, content=content, call_id=call_id)
    if type(content) is not list:
        raise wrong(content, where, "a text or a list of parts")
    parts = [_part(as_object(part, f"{where}[{at}]"), f"{where}[{at}]") for at, part in enumerate(content)]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    media = tuple(part["type"] for part in parts if part["type"] != "text")
    shown = dump(parts, where) if media or len(parts) > 1 else ""
    return Message(role=role, content="\n".join(texts), parts=shown, media=media, call_id=call_id)


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    """In the words of chat completions."""
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": as_text(part.get("text"), f"{where}.text")}
        case "refusal":
            return {"type": "text", "text": as_text(part.get("refusal"), f"{where}.refusal")}
        case "input_image":
            return {"type": "image_url", "image_url": _image(part, where)}
        case "input_file":
            return {"type": "file", "file": _file(part, where)}
        case "input_audio":
            return {"type": "input_audio", "input_audio": as_object(part.get("input_audio"), f"{where}.input_audio")}
    raise bad_request(
        f"{where}.type should be 'input_text', 'output_text', 'refusal', 'input_image', 'input_file' or 'input_audio'",
        param=f"{where}.type",
    )


def _image(part: dict[str, Any], where: str) -> dict[str, str]:
    _check_sent(part, where, "image_url")
    image = {"url": as_word(part.get("image_url"), f"{where}.image_url")}
    return image | {"detail": as_text(part["detail"], f"{where}.detail")} if part.get("detail") is not None else image


def _file(part: dict[str, Any], where: str) -> dict[str, str]:
    _check_sent(part, where, "file_data")
    if part.get("file_url") is not None:
        return {"file_url": as_word(part["file_url"], f"{where}.file_url")}
    name = part.get("filename")
    file = {"file_data": as_word(part.get("file_data"), f"{where}.file_data")}
    return file if name is None else {"filename": as_text(name, f"{where}.filename"), **file}


def _check_sent(part: dict[str, Any], where: str, instead: str) -> None:
    if part.get("file_id") is not None:
        raise bad_request(
            f"{where}.file_id is not available: this gateway stores no files; send {instead}", param=f"{where}.file_id"
        )


def _moderation(value: Any) -> Literal["", "score", "block"]:
    """One mode for both stages, the stricter one."""
    if value is None:
        return ""
    policy = as_object(value, "moderation").get("policy")
    modes = [_mode(policy, stage) for stage in ("input", "output")] if policy is not None else []
    return "block" if "block" in modes else "score"


def _mode(policy: Any, stage: str) -> str:
    value, where = as_object(policy, "moderation.policy").get(stage), f"moderation.policy.{stage}"
    if value is None:
        return ""
    mode = as_object(value, where).get("mode")
    if mode not in ("score", "block"):
        raise bad_request(f"{where}.mode should be 'score' or 'block'", param=f"{where}.mode")
    return str(mode)


def _more(fields: dict[str, Any]) -> str:
    """The keys that are left, in the words of chat completions where those have one."""
    tools, choice = fields.pop("tools", None), fields.pop("tool_choice", None)
    text, reasoning = fields.pop("text", None), fields.pop("reasoning", None)
    include = fields.pop("include", None)
    if tools:
        fields["tools"] = [_tool(item, f"tools[{number}]") for number, item in enumerate(as_list(tools, "tools"))]
    if choice is not None:
        fields["tool_choice"] = _tool_choice(choice)
    if text is not None:
        fields |= _text(as_object(text, "text"))
    if reasoning is not None:
        fields["reasoning_effort"] = as_object(reasoning, "reasoning").get("effort")
    if include is not None and "message.output_text.logprobs" in as_list(include, "include"):
        fields["logprobs"] = True
    return dump_rest(fields)


def _tool(item: Any, where: str) -> dict[str, Any]:
    tool = as_object(item, where)
    if tool.get("type") != "function":
        raise bad_request(
            f"{where}.type should be 'function': other tools are not available through this gateway",
            param=f"{where}.type",
        )
    function = {"name": as_word(tool.get("name"), f"{where}.name")}
    more = {key: tool[key] for key in ("description", "parameters", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": function | more}


def _tool_choice(choice: Any) -> Any:
    if choice in ("none", "auto", "required"):
        return choice
    if type(choice) is dict and choice.get("type") == "function":
        return _function(choice, "tool_choice")
    if type(choice) is dict and choice.get("type") == "allowed_tools":
        tools = as_list(choice.get("tools"), "tool_choice.tools")
        allowed = [_function(as_object(tool, "tool_choice.tools"), "tool_choice.tools") for tool in tools]
        mode = as_word(choice.get("mode"), "tool_choice.mode")
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
    raise bad_request(
        "tool_choice should be 'none', 'auto', 'required', or an object of type 'function' or 'allowed_tools'",
        param="tool_choice",
    )


def _function(choice: dict[str, Any], where: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": as_word(choice.get("name"), f"{where}.name")}}


def _text(text: dict[str, Any]) -> dict[str, Any]:
    words = {"verbosity": text.get("verbosity")}
    shape = as_object(text["format"], "text.format") if text.get("format") is not None else {"type": "text"}
    match shape.get("type"):
        case "text":
            return words
        case "json_object":
            return words | {"response_format": {"type": "json_object"}}
        case "json_schema":
            schema = {key: value for key, value in shape.items() if key != "type" and value is not None}
            return words | {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise bad_request("text.format.type should be 'text', 'json_object' or 'json_schema'", param="text.format.type")


# Answers


@dataclass(slots=True, eq=False)
class _Part:
    """Text of one kind within an item; a tool call is an item with one part."""

    item: "_Item"
    kind: Kind
    at: int
    """Its place in the item."""
    texts: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    before: bytes = b""
    """What each of its events begins with, up to the sequence number; empty until the part was announced."""

    def add(self, piece: Delta) -> list[Any]:
        """The log probabilities that came with the piece."""
        self.texts.append(piece.text)
        found = _logprobs(piece.more) if piece.more and self.kind == "text" else []
        self.logprobs += found
        return found

    def shown(self, text: str) -> dict[str, Any]:
        match self.kind:
            case "text":
                return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}
            case "refusal":
                return {"type": "refusal", "refusal": text}
        return {"type": "reasoning_text", "text": text}


@dataclass(slots=True, eq=False)
class _Item:
    """One item of the output."""

    type: Literal["message", "reasoning", "function_call"]
    id: str
    at: int
    """Its place in the output."""
    parts: list[_Part] = field(default_factory=list)
    call_id: str = ""
    name: str = ""

    def shown(self, status: str, parts: Sequence[_Part] | None = None) -> dict[str, Any]:
        """With all its parts, or those given."""
        parts = self.parts if parts is None else parts
        known = {"id": self.id, "type": self.type, "status": status}
        if self.type == "function_call":
            said = "".join(text for part in parts for text in part.texts)
            return {**known, "call_id": self.call_id, "name": self.name, "arguments": said}
        content = [part.shown("".join(part.texts)) for part in parts]
        if self.type == "message":
            return {**known, "role": "assistant", "content": content}
        return {**known, "summary": [], "content": content}


_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class _Answer:
    """The items of an answer, as its pieces come in."""

    __slots__ = ("_calls", "_id", "items")

    def __init__(self, id: str) -> None:
        self._id = id
        self._calls: dict[int, _Part] = {}
        self.items: list[_Item] = []

    def part_of(self, piece: Delta) -> _Part:
        """Where the piece goes; made when there is no such part yet."""
        if piece.kind == "call":
            return self._calls.get(piece.index) or self._call(piece)
        kind: Literal["message", "reasoning"] = "reasoning" if piece.kind == "reasoning" else "message"
        item = self.items[-1] if self.items and self.items[-1].type == kind else self._item(kind)
        if item.parts and item.parts[-1].kind == piece.kind:
            return item.parts[-1]
        return self._part(item, piece.kind)

    def _call(self, piece: Delta) -> _Part:
        item = self._item("function_call")
        # Clients match the answer of a tool by this id, also where the model server gave none.
        item.call_id, item.name = piece.call_id or f"call_{self._id}_{item.at}", piece.name
        part = self._calls[piece.index] = self._part(item, "call")
        return part

    def _item(self, kind: Literal["message", "reasoning", "function_call"]) -> _Item:
        item = _Item(kind, f"{_PREFIXES[kind]}_{self._id}_{len(self.items)}", len(self.items))
        self.items.append(item)
        return item

    def _part(self, item: _Item, kind: Kind) -> _Part:
        part = _Part(item, kind, len(item.parts))
        item.parts.append(part)
        return part

    def shown(self, ending: Ending) -> list[dict[str, Any]]:
        return [item.shown(self.status(item, ending)) for item in self.items]

    def status(self, item: _Item, ending: Ending) -> str:
        """Of an answer that broke off, the last item and all calls count as incomplete: calls may come interleaved, and
        none should run."""
        last = item is self.items[-1] or item.type == "function_call"
        return "incomplete" if last and _broken_off(ending) else "completed"


def _logprobs(more: str) -> list[Any]:
    try:
        found = msgspec.json.decode(more)["logprobs"]["content"]
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError, RecursionError):
        return []
    return found if type(found) is list else []


def _broken_off(ending: Ending) -> str:
    """Why; empty when it did not."""
    if ending.blocked or ending.reason == "content_filter":
        return "content_filter"
    return "max_output_tokens" if ending.reason == "length" else ""


def _frame(call: Call, head: Head) -> bytes:
    """What all objects of one response share, open at the end."""
    known = {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": int(head.created),
        "model": head.model,
        "error": None,
        "background": False,
        "store": False,
        "previous_response_id": None,
        "truncation": "disabled",
    }
    return one_line(encode({**known, **ECHO, **call.echo}))[:-1]


def _finished(frame: bytes, call: Call, answer: _Answer, ending: Ending) -> bytes:
    """The response as it is at the end."""
    why = _broken_off(ending)
    rest = {
        "status": "incomplete" if why else "completed",
        "incomplete_details": {"reason": why} if why else None,
        "output": answer.shown(ending),
        "usage": _usage(ending),
    }
    if call.moderation and ending.trace is not None:
        rest["moderation"] = _judged(ending.trace, call.moderation)
    return frame + b"," + one_line(encode(rest))[1:]


def _judged(trace: Any, mode: str) -> dict[str, Any]:
    """One result for each stage, where chat completions have a list."""
    stages = report([trace], shadows=mode == "score")
    return {name: stage["results"][0] if stage.get("results") else stage for name, stage in stages.items()}


def _usage(ending: Ending) -> dict[str, Any]:
    return {
        "input_tokens": ending.input_tokens,
        "input_tokens_details": {
            "cached_tokens": counted(ending.usage, "prompt_tokens_details", "cached_tokens"),
            "cache_write_tokens": 0,
        },
        "output_tokens": ending.output_tokens,
        "output_tokens_details": {
            "reasoning_tokens": counted(ending.usage, "completion_tokens_details", "reasoning_tokens")
        },
        "total_tokens": ending.input_tokens + ending.output_tokens,
    }


_EVENTS = {
    "text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning": ("response.reasoning_text", "text"),
    "call": ("response.function_call_arguments", "arguments"),
}
"""Name of a part's events, and the key of its text in the last one."""


class _Stream:
    """Events are numbered from 0. Messages and reasoning are open one at a time; calls stay open to the end, as their
    pieces may come interleaved."""

    __slots__ = ("_answer", "_call", "_frame", "_number", "_part")

    def __init__(self, call: Call, head: Head) -> None:
        self._call = call
        self._frame = _frame(call, head)
        self._answer = _Answer(head.id)
        self._number = -1
        self._part: _Part | None = None
        """The one that is open, if it is no call."""

    def start(self) -> bytes:
        response = self._frame + b',"status":"in_progress","incomplete_details":null,"output":[],"usage":null}'
        return self._event("response.created", response=msgspec.Raw(response)) + self._event(
            "response.in_progress", response=msgspec.Raw(response)
        )

    def pieces(self, choice: int, pieces: Sequence[Delta]) -> bytes:
        return b"".join([self._piece(piece) for piece in pieces])

    def _piece(self, piece: Delta) -> bytes:
        part = self._part
        if part is None or part.kind != piece.kind:
            part = self._answer.part_of(piece)
        opened = b"" if part.before else self._open(part)
        found = part.add(piece)
        if not piece.text and part.kind == "call":
            return opened
        self._number += 1
        logprobs = b',"logprobs":%b' % one_line(encode(found)) if found else b',"logprobs":[]'
        return b'%b%b%d%b,"delta":%b}\n\n' % (
            opened,
            part.before,
            self._number,
            logprobs if part.kind == "text" else b"",
            quoted(piece.text),
        )

    def _open(self, part: _Part) -> bytes:
        """Announces a part, and its item with its first one."""
        item = part.item
        events = [self._leave(item)]
        if part.at == 0:
            shown = item.shown("in_progress", ())
            events.append(self._event("response.output_item.added", output_index=item.at, item=shown))
        if part.kind != "call":
            events.append(self._event("response.content_part.added", **_place(part), part=part.shown("")))
            self._part = part
        name = f"{_EVENTS[part.kind][0]}.delta"
        place = encode({"type": name, **_place(part)})[:-1]
        part.before = b'event: %b\ndata: %b,"sequence_number":' % (name.encode(), place)
        return b"".join(events)

    def _leave(self, item: _Item | None) -> bytes:
        """Closes the open part, and its item unless that is `item`."""
        part, self._part = self._part, None
        if part is None:
            return b""
        done = self._close_part(part)
        return done if part.item is item else done + self._close_item(part.item, "completed")

    def _close_part(self, part: _Part) -> bytes:
        name, key = _EVENTS[part.kind]
        text = "".join(part.texts)
        logprobs = {"logprobs": part.logprobs} if part.kind == "text" else {}
        done = self._event(f"{name}.done", **_place(part), **{key: text}, **logprobs)
        if part.kind == "call":
            return done
        return done + self._event("response.content_part.done", **_place(part), part=part.shown(text))

    def _close_item(self, item: _Item, status: str) -> bytes:
        return self._event("response.output_item.done", output_index=item.at, item=item.shown(status))

    def finish(self, choice: int, ending: Ending) -> bytes:
        events: list[bytes] = []
        if self._part is not None:
            item = self._part.item
            events = [self._leave(item), self._close_item(item, self._answer.status(item, ending))]
        return b"".join([*events, *self._finish_calls(ending)])

    def _finish_calls(self, ending: Ending) -> Iterable[bytes]:
        for item in self._answer.items:
            if item.type == "function_call":
                status = self._answer.status(item, ending)
                if status == "completed":
                    yield self._close_part(item.parts[0])
                yield self._close_item(item, status)

    def end(self, endings: Sequence[Ending]) -> bytes:
        response = _finished(self._frame, self._call, self._answer, endings[0])
        name = "response.incomplete" if _broken_off(endings[0]) else "response.completed"
        return self._event(name, response=msgspec.Raw(response))

    def error(self, problem: Refused) -> bytes:
        """What is wrong stands twice: in the event, as documented, and in `error`, where the SDK looks for it."""
        shown = _problem(problem)
        code = shown["code"] or problem.kind
        return self._event("error", code=code, message=problem.message, param=shown["param"], error=shown)

    def _event(self, name: str, **fields: Any) -> bytes:
        self._number += 1
        data = one_line(encode({"type": name, "sequence_number": self._number, **fields}))
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _place(part: _Part) -> dict[str, Any]:
    place = {"item_id": part.item.id, "output_index": part.item.at}
    return place if part.kind == "call" else {**place, "content_index": part.at}


RESPONSES = Responses()
